"""One LoRA step: tokens a second and peak memory, peft beside rankine.

Full sequences without padding, r 16, alpha 32, all linear layers, AdamW, loss on every token.
"""
from harness import PEERS, Side, alternate, best, document, median, table, text

PEFT = {
    "peft f32": [],
    "peft bf16": ["--dtype", "bfloat16"],
    "peft f32, checkpointing": ["--checkpointing"],
}


def arguments(parser):
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5, help="that are timed in a run, after one that is not")
    parser.add_argument("--base-compute", nargs="+", default=["f32", "int16", "int8"], help="of rankine")


def main(options):
    shape = ["--batch", options.batch, "--seq", options.seq, "--steps", options.steps]
    sides = [
        Side(name, [options.python, PEERS / "peft_step.py", options.model, *shape, *words], figures)
        for name, words in PEFT.items()
    ]
    for compute in options.base_compute:
        words = ["bench", options.model, *shape, "--base-compute", compute, "--json"]
        sides.append(Side(f"rankine {compute}", [options.rankine, *words], figures))
    sides = [side for side in sides if options.only in side.name]
    results, failures = alternate(sides, options.rounds, options.wait)
    peer = results.get("peft f32")
    base = (best(peer, "best"), median(peer, "median"), best(peer, "peak", min)) if peer else None
    rows = [row(side.name, results[side.name], failures.get(side.name), base) for side in sides]
    head = ["", "tokens/s, best", "median", "of peft f32's best", "peak memory", "of peft f32's", "others' load"]
    about = (
        f"{options.batch} x {options.seq} tokens, r 16 on all linear layers, loss on every token, {options.steps} "
        f"timed steps a run, {options.rounds} rounds in alternation. Best is the fastest step of all, median that of "
        "the runs' medians, peak memory the process's largest resident set."
    )
    document("A LoRA step", about, table(head, rows), sides, options)
    return int(bool(failures))


def figures(finished):
    found = finished.json()
    return {"best": float(found["best_tokens_per_second"]), "median": float(found["tokens_per_second"])}


def row(name, runs, failure, base):
    if failure or not runs:
        return [name, failure or "not run", "", "", "", "", ""]
    fastest, usual, peak = best(runs, "best"), median(runs, "median"), median(runs, "peak")
    speed, memory = (f"{fastest / base[0]:.2f}", f"{peak / base[2]:.2f}") if base else ("", "")
    others = best(runs, "others")
    return [name, text("", fastest), text("", usual), speed, text("peak", peak), memory, text("others", others)]
