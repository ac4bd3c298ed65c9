"""Tokenising and packing: rankine beside `datasets.map` and TRL's packing, in one run and on the same cores.

    python benches/compare/tokenizing.py --tokenizer ./SmolLM2-135M-Instruct --records 20000 --runs 3

Both read the same JSON Lines of conversations, render and tokenise them with the answers' labels, and pack them into
rows of 1024 tokens. TRL is called as its `SFTTrainer` prepares a dataset (`_prepare_dataset`: `map` in two processes,
then `pack_dataset`), with `assistant_only_loss` and the template of the model with `{% generation %}` around the answer,
which TRL needs and rankine does not. The runs alternate, so that whatever else the machine does is shared; the best of
each is compared. Caches are off or new in each run.

Needs the packages of requirements.txt and `cargo build -p rankine-data --example tokenize`.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_LENGTH = 1024


def conversations(count, path):
    """Conversations of two to six turns whose text is cut out of real prose and code: Python's own library."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = "\n".join(source.read_text(encoding="utf-8", errors="ignore") for source in sources)
    paragraphs = [paragraph for paragraph in text.split("\n\n") if 40 < len(paragraph) < 2000]
    draw = random.Random(7)
    with open(path, "w", encoding="utf-8") as out:
        for number in range(count):
            messages = []
            for _ in range(draw.randint(1, 3)):
                messages.append({"role": "user", "content": f"{draw.choice(paragraphs)} {number}"})
                messages.append({"role": "assistant", "content": draw.choice(paragraphs)})
            out.write(json.dumps({"messages": messages}) + "\n")


def marked(template):
    """The template with `{% generation %}` around what the assistant says."""
    smol = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    if smol in template:
        return template.replace(
            smol,
            "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
            "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
            "{% endif %}{{ '\n' }}",
        )
    llama = "{{ content }}{% endfor %}"
    if llama in template:
        return template.replace(
            llama,
            "{% if message['role'] == 'assistant' %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
            "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}{{ content }}"
            "{% endif %}{% endfor %}",
        )
    sys.exit("the template is neither SmolLM2's nor Llama 3's")


def python_run(data, tokenizer, processes):
    """Seconds and figures of TRL's own preparation, in a process of its own."""
    code = f"""
import json, time, types, tempfile, datasets
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer
datasets.disable_progress_bars(); datasets.disable_caching()
tokenizer = AutoTokenizer.from_pretrained({tokenizer!r})
tokenizer.chat_template = {marked(chat_template(tokenizer))!r}
args = SFTConfig(output_dir=tempfile.mkdtemp(), max_length={MAX_LENGTH}, packing=True, assistant_only_loss=True,
                 dataset_num_proc={processes}, report_to=[], use_cpu=True, bf16=False)
trainer = types.SimpleNamespace(_tokenizer=tokenizer, chat_template=tokenizer.chat_template, completion_only_loss=False,
                                args=args)
start = time.perf_counter()
dataset = datasets.load_dataset("json", data_files={data!r}, split="train", cache_dir=tempfile.mkdtemp())
packed = SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, args, True, None, "train")
seconds = time.perf_counter() - start
trained = sum(sum(label != -100 for label in row) for row in packed["labels"])
print(json.dumps({{"records": len(dataset), "packed_rows": len(packed), "seconds": seconds, "trained_tokens": trained,
                   "tokens": sum(map(len, packed["input_ids"])), "records_per_second": len(dataset) / seconds}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def chat_template(folder):
    return json.loads((Path(folder) / "tokenizer_config.json").read_text())["chat_template"]


def rankine_run(binary, data, tokenizer):
    cache = tempfile.mkdtemp()
    done = subprocess.run([binary, "tokenize", data, tokenizer, cache], capture_output=True, text=True)
    shutil.rmtree(cache)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--binary", default=str(target / "debug/examples/tokenize"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "data.jsonl")
        conversations(arguments.records, data)
        print(f"{arguments.records} conversations, {os.path.getsize(data) / 2**20:.1f} MiB", file=sys.stderr)
        best = {}
        for run in range(arguments.runs):
            for name, figures in (
                ("rankine", rankine_run(arguments.binary, data, arguments.tokenizer)),
                ("trl", python_run(data, arguments.tokenizer, arguments.processes)),
            ):
                print(json.dumps({"run": run, "name": name, **figures}), flush=True)
                if name not in best or figures["seconds"] < best[name]["seconds"]:
                    best[name] = figures
        ratio = best["trl"]["seconds"] / best["rankine"]["seconds"]
        print(json.dumps({"best": {name: round(f["records_per_second"]) for name, f in best.items()}, "times": round(ratio, 2)}))


if __name__ == "__main__":
    main()
