#!/usr/bin/env python3
"""Twenty LoRA steps on SmolLM2-135M in rankine and in transformers + peft: the same losses to 1e-3.

Both start from one adapter made by peft, in float32, and see the same batches: prompt + completion +
end of text, padded on the right, loss over the completion's tokens divided by their number.
"""
import json
import shutil

import torch
import torch.nn.functional as F
from common import SUPPORT, arguments, check, finish, load_file, load_model, rankine, records, train, write_jsonl
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoTokenizer

TOLERANCE = 1e-3
STEPS, BATCH = 20, 4
RECIPE = dict(
    shuffle=False, packing=False, micro_batch_size=BATCH, gradient_accumulation_steps=1, max_steps=STEPS,
    learning_rate=2e-4, lr_scheduler="constant", warmup_steps=0, optimizer="adamw", betas=[0.9, 0.999], eps=1e-8,
    weight_decay=0.0, max_grad_norm=1.0, dtype="f32", device="cpu",
)


def encode(tokenizer, record):
    """(ids, labels): -100 is not trained on."""
    prompt = tokenizer(record["prompt"]).input_ids
    ids = tokenizer(record["prompt"] + record["completion"]).input_ids
    assert ids[: len(prompt)] == prompt, "prompt and completion share a token"
    ids.append(tokenizer.eos_token_id)
    return torch.tensor(ids), torch.tensor([-100] * len(prompt) + ids[len(prompt) :])


def pad(rows, value):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def peft_steps(model, batches):
    """[(loss, gradient norm)] of each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for ids, mask, labels in batches:
        out = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        total = F.cross_entropy(out.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
        loss = total / (labels[:, 1:] != -100).sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item(), norm.item()


def main():
    compare(arguments(__doc__), "parity")


def compare(args, name, keys=None, change_base=lambda model: model):
    """`keys` go into the recipe; `change_base` does to the transformers model what they ask of rankine."""
    start, data, out = args.work / "start", args.work / "train.jsonl", args.work / name
    rows = records(SUPPORT / "train.jsonl", STEPS * BATCH)
    write_jsonl(data, rows)

    base = load_model(args.model)
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    shutil.rmtree(start, ignore_errors=True)
    get_peft_model(base, config).save_pretrained(start)

    recipe = dict(
        base_model=str(args.model), adapter_path=str(start), datasets=[dict(path=str(data), type="prompt-completion")],
        output_dir=str(out), **RECIPE, **(keys or {}),
    )
    shutil.rmtree(out, ignore_errors=True)
    ours = train(args.rankine, args.work / f"{name}.yaml", recipe)
    forecast = json.loads(rankine(args.rankine, "plan", args.work / f"{name}.yaml", "--json"))["forecast"]["train"]

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    examples = [encode(tokenizer, row) for row in rows]
    counts = [(len(ids), int((labels != -100).sum())) for ids, labels in examples]
    per_step = [tuple(map(sum, zip(*counts[i : i + BATCH]))) for i in range(0, len(counts), BATCH)]
    total = tuple(map(sum, zip(*counts)))
    planned = (forecast["tokens"], forecast["trained_tokens"])
    check(f"the plan counts the same tokens {total}", planned == total, planned)
    seen = [(step["tokens"], step["trained_tokens"]) for step in ours]
    check("every step counts the same tokens", seen == per_step, (seen, per_step))

    batches = []
    for i in range(0, len(examples), BATCH):
        ids, labels = zip(*examples[i : i + BATCH])
        mask = pad([torch.ones_like(row) for row in ids], 0)
        batches.append((pad(ids, tokenizer.pad_token_id), mask, pad(labels, -100)))
    model = PeftModel.from_pretrained(change_base(load_model(args.model)), start, is_trainable=True).train()
    differences = []
    print("step  tokens  trained   loss rankine      loss peft   difference   norm rankine      norm peft")
    for step, (loss, norm) in zip(ours, peft_steps(model, batches)):
        differences.append(abs(step["loss"] - loss))
        print(f"{step['step']:4}  {step['tokens']:6}  {step['trained_tokens']:7}  {step['loss']:13.7f}  {loss:13.7f}"
              f"   {differences[-1]:10.2e}  {step['grad_norm']:13.7f}  {norm:13.7f}", flush=True)
    check(f"{len(ours)} steps, largest difference of a loss {max(differences):.2e} <= {TOLERANCE:g}",
          len(differences) == STEPS and max(differences) <= TOLERANCE)
    check("the loss falls", ours[-1]["loss"] < 0.8 * ours[0]["loss"])

    trained = load_file(out / "adapter" / "adapter_model.safetensors")
    reference = get_peft_model_state_dict(model)
    unlike = sorted(set(trained) ^ set(reference))
    check("the trained adapters have the same tensors", not unlike, unlike)
    untrained = load_file(start / "adapter_model.safetensors")
    apart = torch.cat([(trained[key] - reference[key]).flatten() for key in reference]).norm()
    moved = torch.cat([(reference[key] - untrained[key]).flatten() for key in reference]).norm()
    # Adam hardly feels a constant factor of the gradient; where the weights end up, it shows.
    check(f"the trained adapters are {apart:.2e} apart (2-norm) where peft's moved by {moved:.2e}: a thousandth at most",
          apart <= 1e-3 * moved)
    finish()


if __name__ == "__main__":
    main()
