#!/usr/bin/env python3
"""A GGUF file as a base: rankine reads from it what transformers reads from it, and what rankine makes of it loads there.

The model's folder must hold a `.gguf` file, and Python the `gguf` package, which transformers reads such files with.
"""
import shutil

import torch
from common import (
    PROSE, AutoTokenizer, AutoModelForCausalLM, arguments, check, finish, heldout, largest, load_adapter, load_model,
    logits, rankine, rankine_logits, SUPPORT, stored, train,
)

TOLERANCE = 1e-3


def main():
    args = arguments(__doc__)
    file = next(args.model.glob("*.gguf"))
    work = args.work / "gguf"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    base = AutoModelForCausalLM.from_pretrained(args.model, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    found = rankine_logits(args.rankine, file, PROSE, work)
    alike = all(ids.tolist()[: len(tokenizer(text).input_ids)] == tokenizer(text).input_ids for (ids, _), text in zip(found, PROSE))
    check("the tokens are those of tokenizer.json", alike)
    difference = largest((ours, logits(base, ids)) for ids, ours in found)
    check(f"{file.name}: logits are transformers' ({difference:.2e})", difference <= TOLERANCE)

    recipe = dict(
        base_model=str(file), adapter="lora", lora=dict(r=8, alpha=16), datasets=[dict(path=str(SUPPORT / "train.jsonl"), max_records=64)],
        max_seq_len=256, max_steps=8, micro_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3,
        output_dir=str(work / "run"),
    )
    steps = train(args.rankine, work / "recipe.yaml", recipe)
    print(f"     8 steps: loss {steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f}")
    merged = work / "merged"
    print("    ", rankine(args.rankine, "merge", file, work / "run", "--out", merged).strip())
    own, model = AutoTokenizer.from_pretrained(merged), load_model(merged)
    texts = PROSE + [record["prompt"] for record in heldout(8)]
    check("the merged folder's tokenizer is the model's", all(own(t).input_ids == tokenizer(t).input_ids for t in texts))
    check("its template is the model's", own.chat_template == tokenizer.chat_template)
    kept = {key: value for key, value in stored(merged).items() if "proj" not in key}
    loaded = dict(base.state_dict())
    check("the tensors without adapter are transformers' to the bit", all(torch.equal(v, loaded[k]) for k, v in kept.items()))
    attached = load_adapter(base, work / "run" / "adapter")
    batch = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    difference = largest((logits(model, ids), logits(attached, ids)) for ids in batch)
    check(f"merged: logits are those of transformers' GGUF model with the adapter ({difference:.2e})", difference <= TOLERANCE)
    finish()


if __name__ == "__main__":
    main()
