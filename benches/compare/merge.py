"""Merging an adapter: rankine against peft's merge_and_unload and save_pretrained, of one base and one adapter.

The model given, and with --large a generated one of 1.9 billion parameters in bf16 shards (3.8 GB, and as much for the result).
What is written is the same kind of folder; rankine's comparison of logits, which peft has none of, is left out of the
timing (--no-proof). Files are synced by rankine and not by peft.
"""
import json
import shutil
import sys

from harness import PEERS, Side, alternate, best, document, median, run, table, text

# Layers of Llama 3.2 3B: 1.9 billion parameters.
LARGE = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=3072, intermediate_size=8192,
    num_hidden_layers=18, num_attention_heads=24, num_key_value_heads=8, head_dim=128, vocab_size=32000,
    max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
    torch_dtype="bfloat16",
)


def arguments(parser):
    parser.add_argument("--large", action="store_true", help="also a generated model of 1.9 billion parameters")


def main(options):
    options.rounds = max(1, options.rounds)
    models = {"SmolLM2-135M": options.model}
    if options.large:
        models["1.9B, generated"] = options.work / "large"
    rows, failed, sides = [], 0, []
    for name, model in models.items():
        adapter = options.work / f"adapter-{model.name}"
        peer = [options.python, PEERS / "peft_merge.py"]
        made = [*peer, "make", model, adapter] + ([json.dumps(LARGE)] if name != "SmolLM2-135M" else [])
        run(Side("", made, dict))
        out = options.work / "merged"
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
                rows.append([side.name, failures.get(side.name, "not run"), "", "", ""])
                continue
            figures = [text("", best(runs, "seconds", min)), text("", median(runs, "seconds"))]
            rows.append([side.name, *figures, text("peak", median(runs, "peak")), text("others", best(runs, "others", min))])
        clear()
        shutil.rmtree(adapter, ignore_errors=True)
        if name != "SmolLM2-135M":
            shutil.rmtree(model, ignore_errors=True)
    head = ["", "seconds, best", "median", "peak memory", "others' load"]
    document("Merging", sys.modules[__name__].__doc__.strip(), table(head, rows), sides, options)
    return int(bool(failed))


def seconds(finished):
    return {"seconds": finished.seconds}
