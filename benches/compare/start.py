"""From the command to the first optimizer step: wall and CPU seconds, peft and TRL beside rankine.

Files are in the page cache and the records tokenised: everything has run once before it is measured.
"""
import json

import ragged
import records
from harness import PEERS, Failed, Side, alternate, best, document, median, run, table, text


def arguments(parser):
    parser.add_argument("--base-compute", nargs="+", default=["f32", "int16"], help="of rankine")


def main(options):
    sides = [side for side in all_sides(options) if options.only in side.name]
    for side in sides:  # warm
        try:
            run(side)
        except Failed:
            pass  # it fails again below, and is shown
    results, failures = alternate(sides, options.rounds, options.wait)
    rows = []
    for side in sides:
        runs, failure = results[side.name], failures.get(side.name)
        if failure or not runs:
            rows.append([side.name, failure or "not run", "", "", "", "", ""])
            continue
        rows.append([
            side.name, text("", best(runs, "wall", min)), text("", median(runs, "wall")),
            text("", best(runs, "CPU", min)), text("", median(runs, "CPU")), text("peak", median(runs, "peak")),
            text("others", best(runs, "others")),
        ])
    head = ["", "seconds, best", "median", "CPU seconds, best", "median", "peak memory", "others' load"]
    about = (
        "From starting the process to the end of its first optimizer step on one short record, LoRA r 16 on all linear "
        f"layers, warm file cache, tokenised records, {options.rounds} rounds in alternation."
    )
    document("Start", about, table(head, rows), sides, options)
    return int(bool(failures))


def all_sides(options):
    data = records.support(options.work, 8)
    tokenised = options.work / "support-8.arrow"
    trl = [options.python, PEERS / "trl_sft.py", options.model]
    if not tokenised.exists():
        run(Side("", [*trl, data, "--work", options.work, "--save-tokenised", tokenised], dict))
    first = lambda line: line == "first step"
    peft = [options.python, PEERS / "peft_step.py", options.model, "--batch", "1", "--seq", "64", "--steps", "1"]
    sides = [
        Side("peft, a plain loop", peft, figures, until=first),
        Side("TRL", [*trl, tokenised, "--work", options.work, "--tokenised", "--steps", "1"], figures, until=first),
    ]
    for compute in options.base_compute:
        folder = options.work / f"start-{compute}"
        recipe = {
            "base_model": str(options.model), "lora": {"r": 16, "alpha": 32, "target_modules": "all-linear"},
            "datasets": [{"path": str(data)}], "micro_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 2,
            "output_dir": str(folder), **ragged.base_compute(options, compute),
        }
        file = options.work / f"start-{compute}.yaml"
        file.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        command = [options.rankine, "train", file, "--overwrite", "--json"]
        sides.append(Side(f"rankine {compute}", command, figures, until=lambda line: '"event":"step"' in line))
    return sides


def figures(finished):
    return {"wall": finished.seconds, "CPU": finished.cpu_seconds}
