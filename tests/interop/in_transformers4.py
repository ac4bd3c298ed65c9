"""Run by platforms.py in an environment with transformers 4.51.3: logits and chat rendering of model folders.

Reads {"models": [folder], "ids": [[id]], "messages": [...]} from stdin; writes {folder: {"chat": text, "warnings": [...]}}
to stdout and each folder's logits to the file named by the argument.
"""
import json
import logging
import os
import sys

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

assert transformers.__version__ == "4.51.3", transformers.__version__
asked = json.load(sys.stdin)
said = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
tensors, answers = {}, {}
for number, folder in enumerate(asked["models"]):
    said.clear()
    model, info = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    faults = {key: names for key, names in info.items() if names}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    with torch.no_grad():
        for index, ids in enumerate(asked["ids"]):
            values = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            tensors[f"{number}.{index}"] = values.contiguous()
    chat = tokenizer.apply_chat_template(asked["messages"], tokenize=False, add_generation_prompt=True)
    answers[folder] = {
        "chat": chat, "chat_ids": tokenizer(chat, add_special_tokens=False)["input_ids"], "class": type(tokenizer).__name__,
        "eos": tokenizer.eos_token, "stops": stops, "faults": str(faults) if faults else "", "warnings": list(said),
    }
save_file(tensors, sys.argv[1])
json.dump(answers, sys.stdout)
