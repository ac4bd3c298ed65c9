"""peft's side of merge.py: makes an adapter (and a random base), and merges it."""
import json
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM


def make(model, adapter, config=None):
    torch.manual_seed(0)
    if config and not pathlib.Path(model, "config.json").is_file():
        pathlib.Path(model).mkdir(parents=True)
        pathlib.Path(model, "config.json").write_text(config)
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.bfloat16)
        base.save_pretrained(model, max_shard_size="1GB")
    else:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    lora = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False))
    lora.save_pretrained(adapter)


def merge(model, adapter, out):
    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out, max_shard_size="5GB")


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    {"make": make, "merge": merge}[command](*words)
