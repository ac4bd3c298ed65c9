#!/usr/bin/env python3
"""What TRL's SFTTrainer makes of records: token ids and labels, for `assistant_only_loss` and `completion_only_loss`.

    v/bin/python tests/golden/trl/generate.py

`trl.json`: each case has a template, a record, and the `input_ids` and `labels` of `SFTTrainer._prepare_dataset`. The
tokenizer is that of ../templates.
"""
import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import json
import pathlib
import tempfile
import types
from importlib.metadata import version

import datasets
import trl
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATES = pathlib.Path(trl.__file__).parent / "chat_templates"
datasets.disable_progress_bars()
datasets.disable_caching()

USER = {"role": "user", "content": "What is the weather in Paris?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}}],
}
RESULT = {"role": "tool", "name": "weather", "content": '{"celsius": 21}'}
ANSWER = {"role": "assistant", "content": "It is 21 degrees."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CONVERSATIONS = {
    "one": {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi there."}]},
    "system": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Two  spaces\nand a line"},
            {"role": "assistant", "content": "Yes.\n\nTwo lines. \u00e9\u4f60"},
        ]
    },
    "turns": {
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "2"},
        ]
    },
    "tool call": {"messages": [USER, CALL, RESULT, ANSWER], "tools": TOOLS},
    "last is a call": {"messages": [USER, CALL], "tools": TOOLS},
}
PROMPTS = {
    "strings": {"prompt": "Q: 2 + 2\nA:", "completion": " 4"},
    "lines": {"prompt": "Write it.\n", "completion": "It is written.\nTwice."},
    "messages": {
        "prompt": [{"role": "user", "content": "Hello!"}],
        "completion": [{"role": "assistant", "content": "Hi there."}],
    },
    "turns": {
        "prompt": CONVERSATIONS["turns"]["messages"][:3],
        "completion": CONVERSATIONS["turns"]["messages"][3:],
    },
    "tool call": {"prompt": [USER], "completion": [CALL, RESULT, ANSWER], "tools": TOOLS},
}


def prepared(template, record, **settings):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(HERE.parent / "templates" / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    args = SFTConfig(output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True, bf16=False, **settings)
    args.max_length = None
    trainer = types.SimpleNamespace(
        _tokenizer=tokenizer, chat_template=template, completion_only_loss=bool(args.completion_only_loss), args=args
    )
    row = dict(record)
    if "tools" in row:
        # A column of structs would give every tool the fields of all.
        row["tools"] = json.dumps(row["tools"])
    rows = datasets.Dataset.from_list([row])
    made = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, args, False, None, "train")[0]
    return {"input_ids": made["input_ids"], "labels": made["labels"]}


def main():
    cases = []
    for name in ("qwen2_5_training", "qwen3_training", "llama3_training"):
        template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        for title, record in CONVERSATIONS.items():
            if name == "llama3_training" and "tools" in record:
                continue
            cases.append(
                {"loss": "assistant_only_loss", "template": name, "title": title, "record": record}
                | prepared(template, record, assistant_only_loss=True)
            )
        # This loss needs no marks in the template, so it is compared with the models' own.
        name = name.removesuffix("_training")
        template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        for title, record in PROMPTS.items():
            if name == "llama3" and "tools" in record:
                continue
            cases.append(
                {"loss": "completion_only_loss", "template": name, "title": title, "record": record}
                | prepared(template, record, completion_only_loss=True)
            )
    names = sorted({case["template"] for case in cases})
    out = {
        "versions": {name: version(name) for name in ["trl", "transformers", "datasets", "tokenizers"]},
        "templates": {name: (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8") for name in names},
        "cases": cases,
    }
    (HERE / "trl.json").write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
