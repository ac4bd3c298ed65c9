#!/usr/bin/env python3
"""The adapter that train_parity.py left loads in peft, and peft's logits are rankine's to 1e-3.

On held-out text: records of the support task, prose, code, other scripts. Run train_parity.py first.
"""
from common import (
    PROSE, AutoTokenizer, arguments, check, finish, heldout, largest, load_adapter, load_model, logits, no_warnings,
    rankine_logits,
)

TOLERANCE = 1e-3


def main():
    args = arguments(__doc__)
    adapter = args.work / "parity" / "adapter"
    texts = PROSE + [record["prompt"] + record["completion"] for record in heldout(8)]
    ours = rankine_logits(args.rankine, args.model, texts, args.work, adapter)

    base = load_model(args.model)
    without = [logits(base, ids) for ids, _ in ours]
    with no_warnings("peft loads the adapter"):
        model = load_adapter(base, adapter)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    expected = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    check("the same tokens", [ids.tolist() for ids, _ in ours] == expected)

    theirs = [logits(model, ids) for ids, _ in ours]
    difference = largest((a, b) for (_, a), b in zip(ours, theirs))
    effect = largest(zip(theirs, without))
    size = max(a.abs().max().item() for a in theirs)
    tokens = sum(len(ids) for ids, _ in ours)
    print(f"     {tokens} tokens of {len(texts)} texts; largest logit {size:.1f};"
          f" the adapter moves a logit by up to {effect:.2f}")
    check(f"largest difference of a logit {difference:.2e} <= {TOLERANCE:g}", difference <= TOLERANCE)
    check("the adapter does something", effect > 100 * TOLERANCE)
    finish()


if __name__ == "__main__":
    main()
