"""The ragged records: the quickstart's, and conversations with a long tail."""
import gzip
import json
import random

from harness import ROOT

SUPPORT = ROOT / "datasets/support/train.jsonl"
# SmolLM2's own template, with the assistant's turns marked for the loss.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def support(work, count):
    """The first `count` records of the quickstart."""
    with open(SUPPORT, encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(count))]
    return write(work / f"support-{count}.jsonl", "".join(lines))


def chat(work, count):
    """`count` conversations of one to three exchanges; words of an answer are log-normal (median 50, sigma 0.9).

    The text is the corpus's, and the same on every machine. None is longer than 1024 tokens of SmolLM2.
    """
    draw = random.Random(7)
    words = corpus_words()
    lines = []
    for _ in range(count):
        left, messages = 380, []
        for _ in range(draw.choice([1, 1, 2, 3])):
            question = take(words, min(left, length(draw, 15, 0.6)))
            answer = take(words, min(left - len(question), length(draw, 50, 0.9)))
            left -= len(question) + len(answer)
            if not question or not answer:
                break
            messages += [
                {"role": "user", "content": " ".join(question)},
                {"role": "assistant", "content": " ".join(answer)},
            ]
        lines.append(json.dumps({"messages": messages}) + "\n")
    return write(work / f"chat-{count}.jsonl", "".join(lines))


def template(work):
    return write(work / "chat.jinja", TEMPLATE)


def length(draw, median, sigma):
    return max(3, round(median * draw.lognormvariate(0, sigma)))


def take(words, count):
    return [next(words) for _ in range(count)]


def corpus_words():
    for part in range(4):
        with gzip.open(ROOT / f"datasets/corpus/part-{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in file:
                yield from json.loads(line)["text"].split()


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path
