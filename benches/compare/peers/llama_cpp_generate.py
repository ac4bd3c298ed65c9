"""Greedy generation with llama.cpp through llama-cpp-python; one JSON object on stdout."""
import argparse
import json
import os
import time

from llama_cpp import Llama


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    room = len(options.prompt.encode()) + options.max_new_tokens  # a token is a byte at least
    llama = Llama(
        options.gguf, n_ctx=room, n_batch=512, n_threads=options.threads,
        n_threads_batch=options.threads, n_gpu_layers=0, verbose=False,
    )
    ids = llama.tokenize(options.prompt.encode(), add_bos=False, special=True)
    generate(llama, ids, 4)  # warm
    llama.reset()
    begun = time.perf_counter()
    new, first = generate(llama, ids, options.max_new_tokens)
    seconds = time.perf_counter() - begun
    print(json.dumps({
        "prompt_tokens": len(ids), "new_tokens": len(new), "seconds": seconds, "first_token_seconds": first - begun,
        "text": llama.detokenize(new, special=True).decode(errors="replace"),
    }))


def generate(llama, ids, count):
    new, first = [], None
    for token in llama.generate(ids, temp=0.0, reset=True):
        first = first or time.perf_counter()
        new.append(token)
        if len(new) == count:
            return new, first


if __name__ == "__main__":
    main()
