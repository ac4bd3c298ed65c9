"""Merging an adapter: rankine against peft's merge_and_unload and save_pretrained, of one base and one adapter.

The model given, and with --large a generated one in bf16 shards: 3B is Llama 3.2's shape (6.4 GB, and as much for the
result), 7B Llama 2's (13.5 GB). What is written is the same kind of folder; rankine's comparison of logits, which peft has
none of, is left out of the timing (--no-proof). rankine syncs its files to the disk and peft does not: with --merged in
memory (/dev/shm) the disk is no part of either.
"""
import json
import pathlib
import shutil
import sys

from harness import PEERS, Side, alternate, best, document, median, run, table, text

LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", max_position_embeddings=4096,
    rms_norm_eps=1e-5, rope_theta=10000.0, torch_dtype="bfloat16",
)
LARGE = {
    "3B": dict(
        LLAMA, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tie_word_embeddings=True,
    ),
    "7B": dict(
        LLAMA, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, head_dim=128, vocab_size=32000, tie_word_embeddings=False,
    ),
}


def arguments(parser):
    parser.add_argument("--large", choices=LARGE, help="also a generated model of this size")
    parser.add_argument("--keep", action="store_true", help="leave the generated model for another run")
    parser.add_argument("--merged", type=pathlib.Path, help="where merged models go; in --work if absent")


def main(options):
    options.rounds = max(1, options.rounds)
    models = {"SmolLM2-135M": (options.model, None)}
    if options.large:
        models[f"{options.large}, generated"] = (options.work / f"large-{options.large}", LARGE[options.large])
    models = {name: model for name, model in models.items() if options.only in name}
    rows, failed, sides = [], 0, []
    for name, (model, config) in models.items():
        adapter = options.work / f"adapter-{model.name}"
        peer = [options.python, PEERS / "peft_merge.py"]
        run(Side("", [*peer, "make", model, adapter] + ([json.dumps(config)] if config else []), dict))
        out = (options.merged or options.work).resolve() / "merged"
        clear = lambda: shutil.rmtree(out, ignore_errors=True)
        words = ["export", "--base", model, "--adapter", adapter, "--target", "merged", "--out", out, "--no-proof", "--json"]
        pair = [
            Side(f"{name}: peft", [*peer, "merge", model, adapter, out], seconds, before=clear),
            Side(f"{name}: rankine", [options.rankine, *words], seconds, before=clear),
        ]
        sides += pair
        results, failures = alternate(pair, options.rounds, options.wait)
        failed += len(failures)
        for side in pair:
            runs = results[side.name]
            if not runs:
                rows.append([side.name, failures.get(side.name, "not run"), "", "", "", ""])
                continue
            figures = [text("", best(runs, "seconds", min)), text("", median(runs, "seconds")), text("", median(runs, "cpu"))]
            rows.append([side.name, *figures, text("peak", median(runs, "peak")), text("others", best(runs, "others", min))])
        clear()
        shutil.rmtree(adapter, ignore_errors=True)
        if config and not options.keep:
            shutil.rmtree(model, ignore_errors=True)
    head = ["", "seconds, best", "median", "CPU seconds, median", "peak memory", "others' load"]
    document("Merging", sys.modules[__name__].__doc__.strip(), table(head, rows), sides, options)
    return int(bool(failed))


def seconds(finished):
    return {"seconds": finished.seconds, "cpu": finished.cpu_seconds}
