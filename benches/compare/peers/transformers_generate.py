"""Greedy generation with transformers and its KV cache; one JSON object on stdout."""
import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Times of the prompt's arrival and of each token's."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    prompt = tokenizer(options.prompt, return_tensors="pt")
    model.generate(**prompt, do_sample=False, min_new_tokens=4, max_new_tokens=4)  # warm
    clock = Clock()
    begun = time.perf_counter()
    count = options.max_new_tokens
    ids = model.generate(**prompt, do_sample=False, min_new_tokens=count, max_new_tokens=count, streamer=clock)
    seconds = time.perf_counter() - begun
    new = ids[0, prompt.input_ids.shape[1] :]
    print(json.dumps({
        "prompt_tokens": prompt.input_ids.shape[1], "new_tokens": len(new), "seconds": seconds,
        "first_token_seconds": clock.times[1] - begun, "text": tokenizer.decode(new),
    }))


if __name__ == "__main__":
    main()
