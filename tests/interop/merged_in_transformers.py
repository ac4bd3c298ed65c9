#!/usr/bin/env python3
"""What `rankine merge` writes loads in transformers and computes what base + adapter does in peft.

In f32 the logits agree to 1e-3. In the base's bf16 the storage itself costs more than that: there the
tensors are compared with those of peft's own merge_and_unload, rounded to the same type. Run train_parity.py first.
"""
import shutil

import torch
from common import (
    PROSE, AutoTokenizer, arguments, check, finish, heldout, largest, load_adapter, load_model, logits, no_warnings,
    rankine, stored,
)

TOLERANCE = 1e-3
NEW_TOKENS = 48


@torch.no_grad()
def greedy(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)


def main():
    args = arguments(__doc__)
    adapter = args.work / "parity" / "adapter"
    prompts = [record["prompt"] for record in heldout(4)]
    merged = {}
    for dtype in ("f32", "bf16"):
        merged[dtype] = args.work / f"merged-{dtype}"
        shutil.rmtree(merged[dtype], ignore_errors=True)
        print("    ", rankine(args.rankine, "merge", args.model, adapter, "--out", merged[dtype], "--dtype", dtype).strip())

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    held_out = PROSE + [record["prompt"] + record["completion"] for record in heldout(8)]
    batch = [torch.tensor(tokenizer(text).input_ids) for text in held_out]
    attached = load_adapter(load_model(args.model), adapter)
    reference = [logits(attached, ids) for ids in batch]
    texts = [greedy(attached, tokenizer, prompt) for prompt in prompts]
    theirs = args.work / "merged-peft"
    shutil.rmtree(theirs, ignore_errors=True)
    attached.merge_and_unload().to(torch.bfloat16).save_pretrained(theirs)

    difference = {}
    for name, folder in [("rankine f32", merged["f32"]), ("rankine bf16", merged["bf16"]), ("peft bf16", theirs)]:
        with no_warnings(f"{name} loads"):
            model = load_model(folder)
            if folder != theirs:
                own = AutoTokenizer.from_pretrained(folder)
        found = [logits(model, ids) for ids in batch]
        difference[name] = largest(zip(found, reference))
        mean = torch.cat([(a - b).abs().flatten() for a, b in zip(found, reference)]).mean()
        likeliest = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(found, reference)])
        same = sum(greedy(model, tokenizer, prompt) == text for prompt, text in zip(prompts, texts))
        print(f"     {name}: difference of a logit at most {difference[name]:.2e}, {mean:.2e} on average; the likeliest token the"
              f" same at {likeliest.sum()} of {len(likeliest)} places; {same} of {len(prompts)} greedy texts the same")
        if name == "rankine f32":
            check(f"{name}: logits within {TOLERANCE:g}", difference[name] <= TOLERANCE)
            check(f"{name}: greedy texts the same", same == len(prompts))
        if folder != theirs:
            alike = all(own(p).input_ids == tokenizer(p).input_ids for p in PROSE + prompts)
            check(f"{name}: its tokenizer is the base's", alike and own.chat_template == tokenizer.chat_template)
    check("in bf16, rankine is as near as peft", difference["rankine bf16"] <= 1.1 * difference["peft bf16"])

    ours, peft_tensors = stored(merged["bf16"]), stored(theirs)
    shapes = [{key: value.shape for key, value in tensors.items()} for tensors in (ours, peft_tensors)]
    check("bf16: the same tensors", shapes[0] == shapes[1], sorted(set(ours) ^ set(peft_tensors)))
    check("bf16: the same type", {t.dtype for t in ours.values()} == {torch.bfloat16})
    # float32 sums in another order may round apart, now and then.
    unlike = sum(int((ours[key] != peft_tensors[key]).sum()) for key in ours)
    numbers = sum(tensor.numel() for tensor in ours.values())
    check(f"bf16: {unlike} of {numbers} numbers are not peft's: one in 10,000 at most", unlike <= 1e-4 * numbers)
    base = stored(args.model)
    untouched = [key for key in base if "proj" not in key]
    kept = all(torch.equal(ours[key], base[key]) for key in untouched)
    check(f"bf16: the {len(untouched)} tensors without adapter are the base's", kept)
    words = ["--adapter", adapter, "--prompt", prompts[0], "--max-new-tokens", NEW_TOKENS]
    said = rankine(args.rankine, "generate", args.model, *words)
    check("rankine generate says what peft does", said.strip() == texts[0].strip(), (said, texts[0]))
    print(f"     e.g. {texts[0]!r}")
    finish()


if __name__ == "__main__":
    main()
