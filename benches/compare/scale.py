"""How rankine's cost grows with context, micro-batch, rank, depth and threads.

One quantity moves at a time, from 4 x 256 tokens, r 16, 30 layers and all cores.
"""
import json
import os
import shutil

import records
from harness import Side, alternate, best, document, median, run, table, text

CONTEXTS = [128, 256, 512, 1024, 2048, 4096]
BATCHES = [1, 2, 4, 8]
RANKS = [4, 16, 64, 256]
LAYERS = [2, 8, 30, 60]


def arguments(parser):
    parser.add_argument("--steps", type=int, default=3, help="that are timed in a run, after one that is not")
    parser.add_argument("--base-compute", default="f32", help="of rankine")


def main(options):
    sides = [side for side in all_sides(options) if options.only in side.name]
    results, failures = alternate(sides, options.rounds, options.wait)
    rows = []
    for side in sides:
        runs, failure = results[side.name], failures.get(side.name)
        if failure or not runs:
            rows.append([side.name, failure or "not run", "", "", ""])
            continue
        rows.append([side.name, text("", best(runs, "best")), text("", median(runs, "median")),
                     text("peak", median(runs, "peak")), text("others", best(runs, "others"))])
    about = (
        f"`rankine bench` with `base_compute: {options.base_compute}`, {options.steps} timed steps a run, "
        f"{options.rounds} rounds in alternation. One quantity moves at a time, from 4 x 256 tokens, r 16, 30 "
        "layers; contexts are one sequence each. Models of another depth are random, of the same widths."
    )
    head = ["", "tokens/s, best", "median", "peak memory", "others' load"]
    document("How cost grows", about, table(head, rows), sides, options)
    return int(bool(failures))


def all_sides(options):
    sides = [bench(options, f"context {seq}", options.model, batch=1, seq=seq) for seq in CONTEXTS]
    sides += [bench(options, f"micro-batch {batch}", options.model, batch=batch) for batch in BATCHES]
    sides += [bench(options, f"r {rank}", options.model, rank=rank) for rank in RANKS]
    sides += [bench(options, f"{layers} layers", random_model(options, layers)) for layers in LAYERS]
    for threads in sorted({1, os.cpu_count()}):
        sides.append(bench(options, f"threads {threads}", options.model, threads=threads))
    return sides


def bench(options, name, what, batch=4, seq=256, rank=16, threads=None):
    command = [options.rankine, "bench", what, "--batch", batch, "--seq", seq, "--rank", rank,
               "--steps", options.steps, "--base-compute", options.base_compute, "--json"]
    return Side(name, command, figures, {"RAYON_NUM_THREADS": str(threads)} if threads else {})


def random_model(options, layers):
    """The model's config with another depth, and random weights."""
    folder = options.work / f"layers-{layers}"
    if folder.is_dir():
        return folder
    config = json.loads((options.model / "config.json").read_text())
    file = records.write(options.work / f"layers-{layers}.json", json.dumps({**config, "num_hidden_layers": layers}))
    tokenizer = options.model / "tokenizer.json"
    run(Side("", [options.rankine, "init", file, "--out", folder, "--tokenizer", tokenizer], dict))
    shutil.copy(options.model / "tokenizer_config.json", folder)
    return folder


def figures(finished):
    found = finished.json()
    return {"best": float(found["best_tokens_per_second"]), "median": float(found["tokens_per_second"])}
