"""One LoRA step on a GPU: tokens a second, peft beside rankine.

The work of `step`, in the types that both multiply in. `--device cpu` runs the same commands without a GPU, to try them.
"""
import os

from harness import PEERS, Side, alternate, best, document, median, table, text

TORCH = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def arguments(parser):
    parser.add_argument("--device", default="cuda", help="as rankine writes it")
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=TORCH)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="that are timed in a run, after one that is not")


def main(options):
    shape = ["--batch", options.batch, "--seq", options.seq, "--steps", options.steps]
    # The harness hides GPUs, which the other tables must not use.
    seen = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    torch_device = "cpu" if options.device == "cpu" else "cuda"
    sides = []
    for dtype in options.dtypes:
        peer = [options.python, PEERS / "peft_step.py", options.model, *shape]
        peer += ["--dtype", TORCH[dtype], "--device", torch_device]
        sides.append(Side(f"peft {dtype}", peer, figures, seen))
        own = [options.rankine, "bench", options.model, *shape, "--dtype", dtype, "--device", options.device, "--json"]
        sides.append(Side(f"rankine {dtype}", own, figures, seen))
    sides = [side for side in sides if options.only in side.name]
    results, failures = alternate(sides, options.rounds, options.wait)
    rows = []
    for side in sides:
        runs, failure = results[side.name], failures.get(side.name)
        if failure or not runs:
            rows.append([side.name, failure or "not run", "", "", "", ""])
            continue
        memory = [run["device memory"] for run in runs if run["device memory"]]
        rows.append([
            side.name, text("", best(runs, "best")), text("", median(runs, "median")),
            text("peak", max(memory)) if memory else "", text("peak", median(runs, "peak")),
            text("others", best(runs, "others")),
        ])
    head = ["", "tokens/s, best", "median", "memory of the device", "of the host", "others' load"]
    about = (
        f"{options.batch} x {options.seq} tokens, r 16 on all linear layers, loss on every token, {options.steps} "
        f"timed steps a run, {options.rounds} rounds in alternation, on `{options.device}`. In f32 torch multiplies "
        "without TF32. Memory of the device is what torch's allocator says; of rankine it is not known."
    )
    document("A LoRA step on a GPU", about, table(head, rows), sides, options)
    return int(bool(failures))


def figures(finished):
    found = finished.json()
    return {
        "best": float(found["best_tokens_per_second"]),
        "median": float(found["tokens_per_second"]),
        "device memory": found.get("peak_device_bytes"),
    }
