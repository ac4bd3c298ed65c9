"""Greedy generation with a KV cache: tokens a second, transformers and llama.cpp beside rankine.

The same weights and prompt; loading is not counted.
"""
from harness import PEERS, Side, alternate, best, document, median, run, table, text

PROMPT = (
    "Customer: Hello, I ordered a desk lamp two weeks ago, order 771085, and it has not arrived. The tracking page has "
    "said the same thing for six days. I move to another city on Friday, so please tell me whether it will come before "
    "then, and if it will not, cancel the order and give me my money back. I also bought a kettle in the same order; "
    "that one came, and it works. Please answer by mail and not by phone. Kind regards, Victor\n\n"
    "Write a long, friendly answer to the customer and explain every step.\n\nAnswer:"
)


def arguments(parser):
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--max-new-tokens", type=int, default=128)


def main(options):
    sides = [side for side in all_sides(options) if options.only in side.name]
    results, failures = alternate(sides, options.rounds, options.wait)
    said = results.get("transformers f32")
    rows = []
    for side in sides:
        runs, failure = results[side.name], failures.get(side.name)
        if failure or not runs:
            rows.append([side.name, failure or "not run", *[""] * 7])
            continue
        known = all(run["decode/s"] for run in runs)
        rows.append([
            side.name, text("", best(runs, "tokens/s")), text("", median(runs, "tokens/s")),
            text("", best(runs, "decode/s")) if known else "", text("", best(runs, "first", min)) if known else "",
            f"{runs[-1]['prompt']} + {runs[-1]['new']}", same(runs[-1]["text"], said),
            text("peak", median(runs, "peak")), text("others", best(runs, "others")),
        ])
    head = ["", "new tokens/s, best", "median", "after the first token", "seconds to it", "tokens",
            "text as transformers f32", "peak memory", "others' load"]
    about = (
        f"Greedy, {options.max_new_tokens} new tokens, {options.rounds} rounds in alternation. New tokens a second "
        "include the prompt's pass and exclude loading the model; peers have generated four tokens before.\n\n"
        "The prompt:\n\n" + "\n".join(f"> {line}".rstrip() for line in options.prompt.split("\n"))
    )
    document("Generation", about, table(head, rows), sides, options)
    return int(bool(failures))


def all_sides(options):
    words = ["--prompt", options.prompt, "--max-new-tokens", options.max_new_tokens]
    peer = [options.python, PEERS / "transformers_generate.py", options.model, *words, "--dtype"]
    sides = [
        Side("transformers f32", [*peer, "float32"], figures),
        Side("transformers bf16", [*peer, "bfloat16"], figures),
    ]
    for dtype in ["f32", "bf16"]:
        gguf = options.work / f"{options.model.name}-{dtype}.gguf"
        if not gguf.exists():
            run(Side("", [options.python, PEERS / "to_gguf.py", options.model, gguf, "--dtype", dtype], dict))
        command = [options.python, PEERS / "llama_cpp_generate.py", gguf, *words]
        sides.append(Side(f"llama.cpp {dtype}", command, figures))
    for dtype in ["f32", "bf16"]:
        command = [options.rankine, "generate", options.model, *words, "--dtype", dtype, "--json"]
        sides.append(Side(f"rankine {dtype}", command, figures))
    return sides


def figures(finished):
    found = finished.json()
    first = found.get("first_token_seconds")
    after = (found["new_tokens"] - 1) / (found["seconds"] - first) if first else None
    return {"tokens/s": found["new_tokens"] / found["seconds"], "decode/s": after, "first": first,
            "prompt": found["prompt_tokens"], "new": found["new_tokens"], "text": found["text"]}


def same(said, reference):
    """How far a text is the reference's: rounding moves a greedy choice sooner or later."""
    if not reference:
        return ""
    other = reference[-1]["text"]
    if said == other:
        return "all"
    alike = next((i for i, (a, b) in enumerate(zip(said, other)) if a != b), min(len(said), len(other)))
    return f"{alike} of {len(other)} characters"
