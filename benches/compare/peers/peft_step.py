"""LoRA steps with transformers + peft, on random full sequences; one JSON object on stdout."""
import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5, help="that are timed, after one that is not")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused", action="store_true", help="AdamW in one kernel")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).to(options.device)
    base.config.use_cache = False
    lora = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    if options.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=options.fused or None)
    ids = torch.randint(0, base.config.vocab_size, (options.batch, options.seq), device=options.device)
    forward = torch.compile(model) if options.compile else model

    seconds, cpu_seconds = [], []
    for number in range(options.steps + 1):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if options.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
        cpu_seconds.append(time.process_time() - cpu_begun)
        if number == 0:
            print("first step", flush=True)
    counted = seconds[1:]
    tokens = options.batch * options.seq
    print(json.dumps({
        "tokens_per_second": tokens / statistics.median(counted),
        "best_tokens_per_second": tokens / min(counted),
        "step_seconds": seconds,
        "step_cpu_seconds": cpu_seconds,
        "threads": torch.get_num_threads(),
        "loss": loss.item(),
        "peak_device_bytes": torch.cuda.max_memory_allocated() if options.device != "cpu" else None,
    }))


if __name__ == "__main__":
    main()
