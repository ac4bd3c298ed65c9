"""What the scripts share: arguments, running rankine, loading in transformers and peft, comparing."""
import argparse
import contextlib
import json
import logging
import os
import pathlib
import subprocess
import sys
import warnings

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

import peft
import torch
import transformers
import yaml
from checks import check, end
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.utils.logging.disable_progress_bar()
warnings.simplefilter("ignore", FutureWarning)  # transformers' own code, about transformers 6

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "datasets" / "support"
PROSE = [
    "The quick brown fox jumps over the lazy dog, and a stitch in time saves nine.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
    "Où est la bibliothèque ? Die Straße ist naß. 今日はいい天気ですね。 Привет, мир.",
    '{"order": "JZ-5397", "items": [{"name": "lamp", "price": 12.50}], "paid": true}',
]


def arguments(description, needs_model=True):
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--rankine", type=pathlib.Path, default=ROOT / "target/debug/rankine", help="the binary")
    parser.add_argument("--model", type=pathlib.Path, required=needs_model, help="SmolLM2-135M's folder")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/interop", help="where results go")
    # Not resolved: the interpreter of a virtual environment is a link.
    parser.add_argument("--python4", help="the Python of an environment with transformers 4.51.3, for platforms.py")
    parser.add_argument("--mlx", help="the Python of an environment with mlx-lm, for platforms.py")
    args = parser.parse_args()
    for name in ("rankine", "model", "work"):
        if getattr(args, name) is not None:
            setattr(args, name, getattr(args, name).resolve())
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def heldout(count):
    """Held-out records of the support task: [{prompt, completion}]."""
    return records(SUPPORT / "heldout.jsonl", count)


def records(path, count):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count))]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------
# rankine
# ---------------------------------------------------------------------------------------------------


def rankine(binary, *words):
    """Runs rankine; its stdout. What it said is shown if it fails."""
    done = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"rankine {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def train(binary, recipe_path, recipe):
    """Trains by the recipe; the `step` events of its metrics."""
    recipe_path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    rankine(binary, "train", recipe_path, "--quiet", "--overwrite")
    lines = (pathlib.Path(recipe["output_dir"]) / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "step"]


def rankine_logits(binary, model, texts, work, adapter=None):
    """[(ids [t], logits [t, v])] of each text, as `rankine eval --logits` writes them."""
    data, out = work / "heldout.jsonl", work / "logits.safetensors"
    write_jsonl(data, [{"text": text} for text in texts])
    with_adapter = ["--adapter", adapter] if adapter else []
    rankine(binary, "eval", model, *with_adapter, "--data", data, "--type", "text", "--logits", out, "--json")
    tensors = load_file(out)
    out.unlink()
    return [(tensors[f"{n}.input_ids"].long(), tensors[f"{n}.logits"].float()) for n in range(len(texts))]


# ---------------------------------------------------------------------------------------------------
# transformers and peft
# ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_warnings(what):
    """Fails if Python's warnings or the libraries' logs say anything, the libraries' own deprecations aside."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("transformers", "peft")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.addHandler(handler)
        yield
        for logger in loggers:
            logger.removeHandler(handler)
    said += [str(w.message) for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
    check(f"{what}: no warnings", not said, "\n".join(said), quiet=True)


def load_model(folder, dtype=torch.float32):
    """A model folder; every weight must be in the file and of use."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    faults = {key: sorted(map(str, names)) for key, names in info.items() if names}
    check("no missing, surplus or misshapen weight", not faults, faults, quiet=True)
    return model.eval()


def load_adapter(base, folder):
    """The adapter of a folder on a base: peft's own keys are the file's, and so are the values."""
    model = PeftModel.from_pretrained(base, folder).eval()
    ours = load_file(folder / "adapter_model.safetensors")
    theirs = get_peft_model_state_dict(model)
    check("adapter's keys are peft's", set(ours) == set(theirs), sorted(set(ours) ^ set(theirs)), quiet=True)
    changed = [key for key in ours if key in theirs and not torch.equal(ours[key], theirs[key])]
    check("adapter's values arrive in peft", not changed, changed, quiet=True)
    return model


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0].float()


def largest(pairs):
    """The largest absolute difference over pairs of tensors."""
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def stored(folder):
    """Every tensor of a model folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}
    return found


# ---------------------------------------------------------------------------------------------------
# Reporting
# ---------------------------------------------------------------------------------------------------

def finish():
    end()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
