"""Answers requests of a Hugging Face Inference Endpoint with @MODEL@."""
from typing import Any

import torch
@IMPORTS@


class EndpointHandler:
    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = @CLASS@.from_pretrained(path, torch_dtype="auto").to(device).eval()

    def __call__(self, data: dict[str, Any]) -> list[dict[str, str]]:
        """`inputs` is a text to go on from, or an object with `messages`; `parameters` are those of `generate`."""
        inputs = data["inputs"]
        parameters = {"max_new_tokens": 256, **(data.get("parameters") or {})}
        if isinstance(inputs, dict):
            text = self.tokenizer.apply_chat_template(inputs["messages"], tokenize=False, add_generation_prompt=True)
            encoded = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            encoded = self.tokenizer(inputs, return_tensors="pt")
        encoded = {name: encoded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = self.model.generate(**encoded, **parameters)
        answer = output[0, encoded["input_ids"].shape[1]:]
        return [{"generated_text": self.tokenizer.decode(answer, skip_special_tokens=True)}]
