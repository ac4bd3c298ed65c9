#!/usr/bin/env python3
"""GGUF files that rankine makes, in llama.cpp: the same tokens, the same greedy texts, and how far quantising goes.

Python needs `llama-cpp-python` and `gguf` beside what the other scripts need. With `--converter DIR`, a copy of llama.cpp's
sources, the file for the model itself is compared with what its `convert_hf_to_gguf.py` writes.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import llama_cpp
import numpy as np
import torch
from common import PROSE, ROOT, SUPPORT, check, finish, heldout, rankine, rankine_logits, train
from tokenizers import Tokenizer

NEW_TOKENS = 48
FORMS = {
    "f32": ["--dtype", "f32"], "f16": ["--dtype", "f16"], "bf16": ["--dtype", "bf16"],
    "q8_0": ["--quantize", "q8_0"], "q4_0": ["--quantize", "q4_0"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rankine", type=pathlib.Path, default=ROOT / "target/debug/rankine")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/interop")
    parser.add_argument("--converter", type=pathlib.Path, help="llama.cpp's sources")
    args = parser.parse_args()
    work = args.work.resolve() / "gguf-out"
    work.mkdir(parents=True, exist_ok=True)
    # A folder without the GGUF file that may lie beside the weights.
    model = work / "base"
    model.mkdir(exist_ok=True)
    for file in args.model.resolve().iterdir():
        if file.suffix != ".gguf" and not (model / file.name).exists():
            (model / file.name).symlink_to(file)
    adapter = work / "run" / "adapter"
    if not adapter.exists():
        recipe = dict(
            base_model=str(model), adapter="lora", lora=dict(r=8, alpha=24, use_rslora=True),
            datasets=[dict(path=str(SUPPORT / "train.jsonl"), max_records=64)], max_seq_len=256, max_steps=8,
            micro_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3, output_dir=str(work / "run"),
        )
        steps = train(args.rankine, work / "recipe.yaml", recipe)
        print(f"     8 steps: loss {steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f}")

    def export(name, *words, with_adapter=True):
        out = work / name
        shutil.rmtree(out, ignore_errors=True)
        given = ["--adapter", adapter] if with_adapter else []
        said = rankine(args.rankine, "export", "--base", model, *given, "--target", "gguf", "--out", out, *words)
        print("    ", said.strip().replace(str(out), name))
        return next(out.glob("*.gguf"))

    prompts = [record["prompt"] for record in heldout(4)]
    texts = PROSE + prompts
    reference = [(ids.tolist(), logits.numpy()) for ids, logits in rankine_logits(args.rankine, model, texts, work, adapter)]
    # The best token of base and adapter after each text, as rankine has it, and what it goes on with.
    said = [greedy(args.rankine, model, adapter, prompt) for prompt in prompts]

    own = Tokenizer.from_file(str(model / "tokenizer.json"))
    for name, words in FORMS.items():
        file = export(name, *words)
        llama = load(file)
        if name == "f32":
            tokens_are_equal(llama, own)
            found = [go_on(llama, own, prompt) for prompt in prompts]
            check("f32: llama.cpp goes on as base and adapter do", found == said, list(zip(found, said)))
        kl = divergences(llama, reference)
        print(f"     {name}: {file.stat().st_size >> 20} MiB; KL from base and adapter in llama.cpp: {told(kl)}")
        check(f"{name}: as near as its bits allow", kl["mean"] < {"f32": 1e-6, "f16": 1e-4, "bf16": 1e-1, "q8_0": 1e-2}.get(name, 2), kl)
        del llama
        if name != "f32":
            shutil.rmtree(file.parent)

    base = export("base-f32", "--dtype", "f32", with_adapter=False)
    file = export("lora", "--weights", "adapter")
    llama = load(base, lora_path=str(file))
    found = [go_on(llama, own, prompt) for prompt in prompts]
    check("the adapter's file over the base's: llama.cpp goes on as base and adapter do", found == said, list(zip(found, said)))
    kl = divergences(llama, reference)
    print(f"     adapter over base in f32: KL {told(kl)}")
    check("adapter over base: as near as f32 allows", kl["mean"] < 1e-6, kl)
    plain = divergences(load(base), reference)
    check("without the adapter it is another model", plain["mean"] > 1e-2, plain)
    if args.converter:
        shutil.rmtree(base.parent)
        as_converted(args.converter.resolve(), model, export("base-bf16", "--dtype", "bf16", with_adapter=False), work)
    print(f"llama-cpp-python {llama_cpp.__version__}, torch {torch.__version__}")
    finish()


def load(file, **more):
    return llama_cpp.Llama(model_path=str(file), n_ctx=1024, logits_all=True, verbose=False, n_threads=2, **more)


def greedy(binary, model, adapter, prompt):
    words = ["--adapter", adapter, "--prompt", prompt, "--max-new-tokens", NEW_TOKENS, "--temperature", 0]
    return rankine(binary, "generate", model, *words).strip()


def go_on(llama, own, prompt):
    """What llama.cpp goes on with after a prompt, token by token the best. The adapter's records have no chat template."""
    ids = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    new = []
    llama.reset()
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
        if llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama.model), token) or len(new) == NEW_TOKENS:
            break
        new.append(token)
    return own.decode(new, skip_special_tokens=True).strip()


def tokens_are_equal(llama, own):
    """Texts of every kind, with special tokens in them."""
    files = ["README.md", "crates/README.md", "tests/golden/gguf/generate.py", "tests/golden/templates/masks.json"]
    texts = [text for file in files for text in (ROOT / file).read_text(encoding="utf-8").split("\n\n")]
    texts += PROSE + [json.dumps(record, ensure_ascii=False) for record in heldout(40)]
    texts += [
        "<|im_start|>user\nHello  world<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b <|endoftext|> c", "<|im_start|>",
        " leading", "trailing \n\n ", "\t\ttabs\r\n", "123456 1.5e-10 ½ ٣", "don't I'LL we'Ve", "é vs e\u0301", "\u200d\ufeff",
        "🚀🦙 👩‍👩‍👧", "ﷺ 漢字かな交じり文", "", " ", "\n", "    if x:\n        return  y  # z",
    ]
    differ = []
    for text in texts:
        found = llama.tokenize(text.encode(), add_bos=False, special=True)
        expected = own.encode(text, add_special_tokens=False).ids
        if found != expected:
            differ.append((text[:60], found[:20], expected[:20]))
    total = sum(len(own.encode(text, add_special_tokens=False).ids) for text in texts)
    check(f"{len(texts)} texts of {total} tokens: llama.cpp cuts them as tokenizer.json does", not differ, differ[:3])
    with_bos = llama.tokenize(b"Hello", add_bos=True, special=True)
    check("BOS goes where the tokenizer puts it", with_bos == own.encode("Hello").ids, with_bos)


def divergences(llama, reference):
    """KL of llama.cpp's next token from the reference's, over all places."""
    kl, same = [], 0
    for ids, expected in reference:
        llama.reset()
        llama.eval(ids)
        found = np.array(llama.scores[: len(ids)], dtype=np.float64)
        p, q = log_softmax(expected.astype(np.float64)), log_softmax(found)
        kl += np.maximum((np.exp(p) * (p - q)).sum(-1), 0).tolist()
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
    kl.sort()
    return dict(mean=sum(kl) / len(kl), p99=kl[round(0.99 * (len(kl) - 1))], same=same, places=len(kl))


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def told(kl):
    return f"mean {kl['mean']:.2e}, 99th percentile {kl['p99']:.2e}, the likeliest token at {kl['same']} of {kl['places']} places"


def as_converted(sources, model, ours, work):
    """The same keys and the same tensors as llama.cpp's converter writes."""
    import gguf
    theirs = work / "converted.gguf"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, sources / "convert_hf_to_gguf.py", model, "--outtype", "bf16", "--outfile", theirs]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(done.stderr)
    found, expected = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    # Guessed from the folder's name or a matter of taste.
    ignored = {"GGUF.kv_count", "GGUF.tensor_count", "general.size_label", "general.finetune", "general.basename", "general.name"}
    differ = []
    for key, field in expected.fields.items():
        if key not in ignored and (key not in found.fields or found.fields[key].contents() != field.contents()):
            differ.append((key, str(field.contents())[:60], str(found.fields[key].contents())[:60] if key in found.fields else None))
    check(f"{len(expected.fields)} keys of llama.cpp's converter have its values", not differ, differ)
    mine = {tensor.name: tensor for tensor in found.tensors}
    other = [
        tensor.name for tensor in expected.tensors
        if tensor.name not in mine or mine[tensor.name].tensor_type != tensor.tensor_type
        or not np.array_equal(mine[tensor.name].data, tensor.data)
    ]
    check(f"{len(expected.tensors)} tensors are its tensors, to the bit", not other and len(mine) == len(expected.tensors), other)
    print("     keys beside those:", sorted(set(found.fields) - set(expected.fields)))
    theirs.unlink()


if __name__ == "__main__":
    main()
