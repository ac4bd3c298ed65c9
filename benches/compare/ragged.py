"""Ragged records: tokens with a label a second, TRL's SFTTrainer in its best CPU setting beside rankine.

One pass over the same records with the same labels; the first step is not counted.
"""
import json
import subprocess

import records
from harness import PEERS, Side, alternate, best, document, median, table, text

# The fastest of `--search`; to be found again for another machine (README.md).
# bf16 weights make the adapter bf16, too: faster, and not the same numbers; f32 is what rankine computes.
FASTEST = {
    "TRL f32": ["--batch", "1", "--packing", "bfd"],
    "TRL bf16 weights": ["--batch", "1", "--packing", "bfd", "--dtype", "bf16"],
}
LENGTHS = {"support": 512, "chat": 1024}
# Work that differs (packing that lets records see each other) is left out.
SEARCH = {
    "batch 8, padded": ["--batch", "8"],
    "batch 8, by length": ["--batch", "8", "--group-by-length"],
    "batch 4, by length": ["--batch", "4", "--group-by-length"],
    "batch 16, by length": ["--batch", "16", "--group-by-length"],
    "batch 1 x 8, no padding": ["--batch", "1", "--accumulate", "8"],
    "batch 8, padding-free": ["--batch", "8", "--padding-free"],
    "bfd, batch 1": ["--batch", "1", "--packing", "bfd"],
    "bfd, batch 2": ["--batch", "2", "--packing", "bfd"],
    "bfd, batch 1, bf16 weights": ["--batch", "1", "--packing", "bfd", "--dtype", "bf16"],
    "bfd, batch 1, rows of 256": ["--batch", "1", "--packing", "bfd", "--max-length", "256"],
    "batch 8, by length, eager attention": ["--batch", "8", "--group-by-length", "--attention", "eager"],
    "batch 8, by length, bf16 autocast": ["--batch", "8", "--group-by-length", "--dtype", "autocast"],
    "batch 8, by length, bf16 weights": ["--batch", "8", "--group-by-length", "--dtype", "bf16"],
    "batch 8, by length, 1 thread": ["--batch", "8", "--group-by-length", "--threads", "1"],
    "batch 8, by length, torch.compile": ["--batch", "8", "--group-by-length", "--compile"],
}


def arguments(parser):
    parser.add_argument("--data", choices=list(LENGTHS), nargs="+", default=list(LENGTHS))
    parser.add_argument("--records", type=int, default=200, help="of the quickstart; a third as many conversations")
    parser.add_argument("--base-compute", nargs="+", default=["f32", "int16", "bf16"], help="of rankine")
    parser.add_argument("--search", action="store_true", help="every setting of TRL instead, to find its fastest")


def main(options):
    sides = [side for data in options.data for side in sides_of(data, options) if options.only in side.name]
    results, failures = alternate(sides, options.rounds, options.wait)
    rows = []
    for data in options.data:
        ours = [side for side in sides if side.name.startswith(f"{data}: ")]
        peers = [best(results[side.name], "trained/s") for side in ours if " TRL" in side.name and results[side.name]]
        rows += [row(side.name, results[side.name], failures.get(side.name), max(peers, default=None)) for side in ours]
    head = ["", "trained tokens/s, best", "median", "of TRL's best", "a CPU second", "trained tokens",
            "positions", "peak memory", "others' load"]
    about = (
        f"LoRA r 16 on all linear layers, one pass, {options.rounds} rounds in alternation. `support` is the "
        "quickstart's records (loss on the completion), `chat` conversations with a long tail (loss on the "
        "assistant's turns, `chat_template` with generation marks). Positions are what the model was run on, padding "
        "included where the tool reports it."
    )
    document("Ragged records", about, table(head, rows), sides, options)
    return int(bool(failures))


def sides_of(data, options):
    make, count = (records.support, options.records) if data == "support" else (records.chat, options.records // 3)
    path = make(options.work, count)
    template = records.template(options.work) if data == "chat" else None
    base = [options.python, PEERS / "trl_sft.py", options.model, path, "--work", options.work,
            "--max-length", LENGTHS[data], *(["--template", template] if template else [])]
    if options.search:
        return [Side(f"{data}: TRL {name}", [*base, *words], trl) for name, words in SEARCH.items()]
    sides = [Side(f"{data}: {name}", [*base, *words], trl) for name, words in FASTEST.items()]
    return sides + [rankine(data, path, template, compute, options) for compute in options.base_compute]


def rankine(data, path, template, compute, options):
    name = f"{data}-{compute}"
    recipe = {
        "base_model": str(options.model), "lora": {"r": 16, "alpha": 32, "target_modules": "all-linear"},
        "datasets": [{"path": str(path)}], "max_seq_len": LENGTHS[data], "packing": True, "epochs": 1,
        "micro_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 2e-4, "lr_scheduler": "constant",
        "output_dir": str(options.work / name), **({"chat_template": str(template)} if template else {}),
        **base_compute(options, compute),
    }
    file = options.work / f"{name}.yaml"
    file.write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML
    read = lambda _: metrics(options.work / name / "metrics.jsonl")
    return Side(f"{data}: rankine {compute}", [options.rankine, "train", file, "--overwrite", "--quiet"], read)


def base_compute(options, compute):
    """The recipe's key; a build from before it computes in f32."""
    schema = subprocess.run([options.rankine, "schema"], capture_output=True, text=True).stdout
    return {"base_compute": compute} if compute != "f32" or '"base_compute"' in schema else {}


def trl(finished):
    found = finished.json()
    return {"trained/s": found["trained_tokens_per_second"], "per CPU second": found["trained_tokens_per_cpu_second"],
            "trained": found["trained_tokens"], "positions": found["positions"]}


def metrics(path):
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    counted = steps[1:] or steps
    seconds = sum(step["tokens"] / step["tokens_per_second"] for step in counted)
    return {
        "trained/s": sum(step["trained_tokens"] for step in counted) / seconds,
        "trained": sum(step["trained_tokens"] for step in steps), "positions": sum(step["tokens"] for step in steps),
    }


def row(name, runs, failure, peer):
    if failure or not runs:
        return [name, failure or "not run", *[""] * 7]
    fastest = best(runs, "trained/s")
    return [
        name, text("", fastest), text("", median(runs, "trained/s")), f"{fastest / peer:.2f}" if peer else "",
        text("", best(runs, "per CPU second")) if "per CPU second" in runs[-1] else "", str(runs[-1]["trained"]),
        str(runs[-1]["positions"]), text("peak", median(runs, "peak")), text("others", best(runs, "others")),
    ]
