"""LoRA with TRL's SFTTrainer on ragged records; one JSON object on stdout.

Every setting that could be fastest on a CPU is an option; `ragged.py --search` tries them.
"""
import argparse
import json
import time

import torch
from datasets import load_dataset, load_from_disk
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Counted(SFTTrainer):
    """Notes how many tokens each step saw and had labels for."""

    def training_step(self, model, inputs, *rest, **more):
        # The first token of a row is no one's next.
        self.seen.append((inputs["input_ids"].numel(), int((inputs["labels"][..., 1:] != -100).sum())))
        return super().training_step(model, inputs, *rest, **more)


class Clock(TrainerCallback):
    """(wall, CPU) seconds at the start and after each optimizer step."""

    def __init__(self):
        self.times = []

    def on_train_begin(self, *_, **__):
        self.times.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, *_, **__):
        self.times.append((time.perf_counter(), time.process_time()))
        if len(self.times) == 2:
            print("first step", flush=True)


def main():
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation=options.attention)
    config = SFTConfig(
        output_dir=f"{options.work}/trl", save_strategy="no", report_to="none", disable_tqdm=True,
        logging_strategy="no", use_cpu=True, bf16=options.dtype == "autocast", gradient_checkpointing=False, seed=42,
        learning_rate=2e-4, lr_scheduler_type="constant", num_train_epochs=1, max_steps=options.steps or -1,
        per_device_train_batch_size=options.batch, gradient_accumulation_steps=options.accumulate,
        optim=options.optim, torch_compile=options.compile,
        max_length=None if options.padding_free else options.max_length,
        packing=options.packing != "none", packing_strategy="bfd" if options.packing == "none" else options.packing,
        padding_free=options.padding_free,
        train_sampling_strategy="group_by_length" if options.group_by_length else "random",
        assistant_only_loss=options.template is not None, chat_template_path=options.template,
        dataset_kwargs={"skip_prepare_dataset": True} if options.tokenised else None,
        dataloader_pin_memory=False,
    )
    if options.tokenised:
        data = load_from_disk(options.data)
    else:
        data = load_dataset("json", data_files=options.data, split="train")
    clock = Clock()
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Counted(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora,
                      callbacks=[clock])
    trainer.seen = []
    if options.save_tokenised:
        trainer.train_dataset.save_to_disk(options.save_tokenised)
        return
    trainer.train()
    report(clock.times, trainer.seen, options.accumulate)


def report(times, seen, accumulate):
    """Of all steps after the first."""
    skipped = 1 if len(times) > 2 else 0
    seconds, cpu_seconds = (end - begin for begin, end in zip(times[skipped], times[-1]))
    counted = seen[skipped * accumulate :]
    trained = sum(trained for _, trained in counted)
    print(json.dumps({
        "trained_tokens_per_second": trained / seconds,
        "trained_tokens_per_cpu_second": trained / cpu_seconds,
        "trained_tokens": sum(trained for _, trained in seen),
        "positions": sum(tokens for tokens, _ in seen),
        "steps": len(times) - 1,
    }))


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data", help="JSON Lines, or with --tokenised what --save-tokenised wrote")
    parser.add_argument("--work", required=True, help="folder for what the trainer writes")
    parser.add_argument("--template", help="chat template with generation marks: the data are conversations")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--packing", default="none", choices=["none", "bfd", "bfd_split"])
    parser.add_argument("--padding-free", action="store_true")
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--dtype", default="f32", choices=["f32", "autocast", "bf16"])
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--optim", default="adamw_torch_fused")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokenised", action="store_true")
    parser.add_argument("--save-tokenised", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
