#!/usr/bin/env python3
"""Exports for platforms, in what reads them there: transformers 5 and 4.51.3, peft, mlx-lm, an endpoint's handler.

Tiny models of every family, and the real one where `--model` is given. `--python4` names the Python of an environment with
transformers 4.51.3 and `--mlx` one with mlx-lm; without them, their part is left out, which is said.
"""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

import torch
from common import (
    PROSE, ROOT, arguments, check, finish, heldout, largest, load_adapter, load_model, logits, no_warnings, pathlib,
    rankine, rankine_logits, train, write_jsonl,
)
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, Qwen2Config
import variants

TOLERANCE = 1e-4
MESSAGES = [
    {"role": "user", "content": "Hello, my kettle arrived broken."},
    {"role": "assistant", "content": "I am sorry. What is your order's number?"},
    {"role": "user", "content": "A-11223 & <b>soon</b>, s'il vous plaît 🙏"},
]
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
# What transformers 5 spells otherwise: rotary positions of several kinds, windows.
MODELS = variants.MODELS | {
    "llama3-rope": LlamaConfig(**variants.SHAPE, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )),
    "linear-rope": LlamaConfig(**variants.SHAPE, rope_parameters=dict(rope_type="linear", rope_theta=50000.0, factor=2.0)),
    "qwen2": Qwen2Config(**variants.SHAPE, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
}
PORTABLE = {name: variants.VARIANTS[name] for name in ("lora", "rslora", "patterns", "layers")}


def in_other(python, script, asked, out):
    """Runs a script of this folder in another environment; its answer."""
    done = subprocess.run(
        [python, pathlib.Path(__file__).with_name(script), out], input=json.dumps(asked), capture_output=True, text=True
    )
    if done.returncode != 0:
        print(done.stderr[-3000:])
    check(f"{script} ran", done.returncode == 0, quiet=True)
    return done.stdout if done.returncode == 0 else None


def export(args, work, target, *words):
    out = work / "-".join([target, *(word.strip("-") for word in words)])
    rankine(args.rankine, "export", "--run", work / "run", "--target", target, "--out", out, *words)
    rankine(args.rankine, "check", out, "--target", target)
    return out


def compare_models(args, case, work, ours, dtype):
    """merged and bedrock, in both versions of transformers."""
    words = ["--dtype", "f32"] if dtype == "f32" else []
    folders = [export(args, work, target, *words) for target in ("merged", "bedrock")]
    found = {}
    for folder in folders:
        with no_warnings(f"{case}: transformers loads {folder.name}"):
            model = load_model(folder)
        found[folder] = [logits(model, ids) for ids, _ in ours]
    merged, bedrock = (found[folder] for folder in folders)
    apart = largest((a, b) for a, (_, b) in zip(merged, ours))
    check(f"{case}: merged in transformers 5: {apart:.1e} from base and adapter", apart <= TOLERANCE)
    check(f"{case}: bedrock in transformers 5 is merged to the bit", all(map(torch.equal, merged, bedrock)))
    rendered = [AutoTokenizer.from_pretrained(f).apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True) for f in folders]
    tokens = AutoTokenizer.from_pretrained(folders[0])(rendered[0], add_special_tokens=False)["input_ids"]
    check(f"{case}: both render a chat alike", rendered[0] == rendered[1] and "kettle" in rendered[0], rendered)
    if not args.python4:
        return
    out = work / "logits4.safetensors"
    # merged has the base's spelling, which 4.51.3 need not know; bedrock must be right.
    asked = {"models": [str(folders[1])], "ids": [ids.tolist() for ids, _ in ours], "messages": MESSAGES}
    answer = in_other(args.python4, "in_transformers4.py", asked, out)
    if answer is None:
        return
    answer = json.loads(answer)[str(folders[1])]
    theirs = load_file(out)
    apart = largest((theirs[f"0.{index}"], expected) for index, (_, expected) in enumerate(ours))
    check(f"{case}: bedrock in transformers 4.51.3: {apart:.1e} from base and adapter", apart <= TOLERANCE)
    check(f"{case}: 4.51.3 loads every weight", not answer["faults"], answer["faults"], quiet=True)
    check(f"{case}: 4.51.3 renders the chat as 5 does", answer["chat"] == rendered[0], answer["chat"])
    check(f"{case}: 4.51.3 makes the same tokens of it", answer["chat_ids"] == tokens, quiet=True)
    check(f"{case}: 4.51.3 warns of nothing", not answer["warnings"], answer["warnings"], quiet=True)


def compare_portable(args, case, base, work, ours, targets):
    for target in targets:
        folder = export(args, work, *target)
        if target[0] == "sagemaker":
            folder = next((folder / "adapters").iterdir())
        with no_warnings(f"{case}: peft loads {folder.name}"):
            attached = load_adapter(load_model(base), folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        one = not config["rank_pattern"] and not config["alpha_pattern"] and config["r"] == config["lora_alpha"]
        apart = largest((logits(attached, ids), expected) for ids, expected in ours)
        check(f"{case}: {' '.join(target)} in peft: {apart:.1e} from the adapter, one scale of 1", one and apart <= TOLERANCE)


def compare_mlx(args, case, base, work, ours):
    folder = export(args, work, "mlx")
    if not args.mlx:
        return
    out = work / "mlx.safetensors"
    # mlx-lm passes over the rotary positions of transformers 5's spelling; the Hub's models have the older one.
    older = work / "base4"
    rankine(args.rankine, "export", "--base", base, "--target", "bedrock", "--dtype", "f32", "--out", older)
    # It also passes over Mistral's sliding window, which shorter texts do not meet.
    window = json.loads((base / "config.json").read_text()).get("sliding_window") or 10**6
    ours = [(ids[:window], expected[:window]) for ids, expected in ours]
    asked = {"base": str(older), "adapter": str(folder), "ids": [ids.tolist() for ids, _ in ours]}
    if in_other(args.mlx, "in_mlx.py", asked, out) is None:
        return
    theirs = load_file(out)
    pairs = [(theirs[f"{index}"].float(), expected) for index, (_, expected) in enumerate(ours)]
    apart, effect = largest(pairs), largest([(theirs["without"].float(), ours[0][1])])
    scale = max(expected.abs().max().item() for _, expected in ours)
    check(f"{case}: mlx-lm: {apart:.1e} from the adapter (which moves a logit by {effect:.1f})",
          apart <= max(TOLERANCE, 1e-5 * scale) and effect > 0.1)


def compare_handlers(args, case, base, work):
    """handler.py of an endpoint, run as the endpoint runs it."""
    for words in (["--handler", "--weights", "merged"], ["--handler", "--weights", "adapter"]):
        folder = export(args, work, "hf-endpoint", *words)
        spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handler = module.EndpointHandler(str(folder))
        handler.model.float()
        prompt = heldout(1)[0]["prompt"]
        text = handler({"inputs": prompt, "parameters": {"max_new_tokens": 12, "do_sample": False}})[0]["generated_text"]
        words = ["generate", base, "--adapter", work / "run", "--prompt", prompt, "--max-new-tokens", 12, "--json"]
        said = json.loads(rankine(args.rankine, *words))["text"]
        check(f"{case}: {folder.name} answers as rankine does", text.startswith(said.rstrip("\n")) and said != "", (text, said))
        chat = handler({"inputs": {"messages": MESSAGES}, "parameters": {"max_new_tokens": 2, "do_sample": False}})
        check(f"{case}: {folder.name} answers a chat", "generated_text" in chat[0], quiet=True)


def check_scripts(case, folder):
    """invoke.py waits for a cold model and reads both kinds of answers; the shell scripts are whole."""
    spec = importlib.util.spec_from_file_location("invoke", folder / "deploy/invoke.py")
    invoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(invoke)

    class NotReady(Exception):
        response = {"Error": {"Code": "ModelNotReadyException"}}

    class Client:
        calls = 0

        def invoke_model(self, modelId, body, contentType, accept):
            self.calls += 1
            if self.calls < 4:
                raise NotReady
            asked = json.loads(body)
            answer = {"message": {"content": "yes"}} if "messages" in asked else {"text": "yes"}

            class Body:
                def read(self):
                    return json.dumps({"choices": [answer]})

            return {"body": Body()}

    waits, client = [], Client()
    stderr, sys.stderr = sys.stderr, open("/dev/null", "w")
    answer = invoke.invoke(client, "arn", "hello", sleep=waits.append)
    sys.stderr = stderr
    check(f"{case}: invoke.py waits three times 15 seconds for a cold model", (answer, waits) == ("yes", [15] * 3), (answer, waits))
    check_import(case, folder)


def check_import(case, folder):
    """import.sh against a stand-in for the AWS CLI: a role that is new, a job that ends well, and one that does not."""
    for end, code in (("Completed", 0), ("Failed", 1)):
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            shutil.copy(pathlib.Path(__file__).with_name("aws_stub.sh"), place / "aws")
            environment = {
                **os.environ, "PATH": f"{place}:{os.environ['PATH']}", "AWS_LOG": str(place / "log"), "AWS_END": end,
                "RETRY_SECONDS": "0", "POLL_SECONDS": "0", "BUCKET": "my-bucket", "REGION": "us-east-1",
            }
            done = subprocess.run([folder / "deploy/import.sh"], env=environment, capture_output=True, text=True)
            asked = (place / "log").read_text()
        said = done.stdout.strip().endswith("imported-model/xyz") if code == 0 else "does not support" in done.stderr
        placed = "{" not in done.stdout and "ACCOUNT_ID" not in asked and "ROLE_ARN" not in asked and "JOB_NAME" not in asked
        uri = '"s3Uri":"s3://my-bucket/' in asked and asked.count("create-model-import-job\t") == 3
        check(f"{case}: import.sh, job {end}", done.returncode == code and said and placed and uri, (done.stdout, done.stderr, asked))


def make_model(name, folder):
    variants.MODELS[name] = MODELS[name]
    variants.make_model(name, folder)
    words = dict(
        tokenizer_class="TokenizersBackend", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def run(args, model, work, variant, rate, steps=3):
    recipe = dict(
        base_model=str(model), adapter="dora" if "dora" in variant else "lora",
        lora=dict(r=4, alpha=12, **variants.VARIANTS[variant]),
        datasets=[dict(path=str(work / "train.jsonl"), type="prompt-completion")],
        max_steps=steps, micro_batch_size=4, gradient_accumulation_steps=1, learning_rate=rate, lr_scheduler="constant",
        warmup_steps=0, dtype="f32", device="cpu", output_dir=str(work / "run"),
    )
    write_jsonl(work / "train.jsonl", heldout(12))
    train(args.rankine, work / "recipe.yaml", recipe)
    texts = PROSE + [record["prompt"] for record in heldout(2)]
    return rankine_logits(args.rankine, model, texts, work, work / "run" / "adapter")


def tiny(args, root, names=tuple(MODELS)):
    for name in names:
        make_model(name, root / name)
        for variant in (PORTABLE if name in ("llama", "qwen3") else ["lora"]):
            work, case = root / f"{name}-{variant}", f"{name} {variant}"
            work.mkdir()
            ours = run(args, root / name, work, variant, 2e-2)
            targets = [("peft", "--portable"), ("vllm",)]
            if variant == "patterns":
                targets += [("hf-endpoint", "--weights", "adapter"), ("sagemaker", "--weights", "adapter")]
            compare_portable(args, case, root / name, work, ours, targets)
            compare_mlx(args, case, root / name, work, ours)
            compare_models(args, case, work, ours, "f32")
        if name == "llama":
            compare_handlers(args, case, root / name, work)
            check_scripts(case, work / "bedrock-dtype-f32")
    for name in {"llama", "qwen3"} & set(names):
        work = root / f"{name}-dora"
        work.mkdir()
        ours = run(args, root / name, work, "dora", 2e-2)
        compare_mlx(args, f"{name} dora", root / name, work, ours)


def real(args, root):
    work = root / "real"
    work.mkdir()
    ours = run(args, args.model, work, "patterns", 1e-3)
    case = "SmolLM2-135M patterns"
    global TOLERANCE
    TOLERANCE = 1e-3
    compare_portable(args, case, args.model, work, ours, [("peft", "--portable")])
    compare_mlx(args, case, args.model, work, ours)
    compare_models(args, case, work, ours, "f32")


def main():
    args = arguments(__doc__, needs_model=False)
    for name in ("python4", "mlx"):
        if not getattr(args, name):
            print(f"left out: --{name} is not given")
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        root = pathlib.Path(folder)
        tiny(args, root)
        if args.model:
            real(args, root)
    finish()


if __name__ == "__main__":
    main()
