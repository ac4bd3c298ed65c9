#!/usr/bin/env python3
"""GGUF files of every family and of every way that a SentencePiece tokenizer treats spaces, in llama.cpp.

Tiny random models, trained for three steps: the merged model in F32, and the adapter's file over the base's, have base +
adapter's logits and greedy texts. Tokenizers: the same tokens for plain texts and for chats, and a GGUF file is read back as
the folder that it was made of. Python needs `llama-cpp-python`; no model to download.
"""
import json
import pathlib
import shutil
import tempfile

import llama_cpp
import numpy as np
import platforms
import torch
from common import (
    PROSE, ROOT, arguments, check, finish, heldout, rankine, rankine_logits, train, write_jsonl,
)
from gguf_in_llama_cpp import load
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
import variants

NEW_TOKENS = 24
TOLERANCE = 1e-3
# llama.cpp keeps keys and values in halves unless it is told not to, which moves a logit by a hundredth here.
EXACT = dict(type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
# Kinds of adapters that a LoRA file can say; merged, every kind is a plain model.
ADAPTERS = ["lora", "rslora", "patterns", "layers"]


# ---------------------------------------------------------------------------------------------------
# Families
# ---------------------------------------------------------------------------------------------------


def try_family(args, name, variant, base, work):
    case = f"{name} {variant}"
    recipe = dict(
        base_model=str(base), adapter="lora", lora=dict(r=4, alpha=12, **variants.VARIANTS[variant]),
        datasets=[dict(path=str(work / "train.jsonl"), type="prompt-completion")],
        max_steps=3, micro_batch_size=4, gradient_accumulation_steps=1, learning_rate=2e-2, lr_scheduler="constant",
        warmup_steps=0, dtype="f32", device="cpu", output_dir=str(work / "run"),
    )
    write_jsonl(work / "train.jsonl", heldout(12))
    train(args.rankine, work / "recipe.yaml", recipe)
    adapter = work / "run" / "adapter"
    # llama.cpp has no sliding window for Mistral: it is the same model up to that many tokens.
    window = json.loads((base / "config.json").read_text()).get("sliding_window") or 10**6
    texts = PROSE + [record["prompt"] for record in heldout(2)]
    ours = rankine_logits(args.rankine, base, texts, work, adapter)
    plain = rankine_logits(args.rankine, base, texts, work)
    prompts = [text[:8] for text in PROSE] if window < 1000 else PROSE
    new = 6 if window < 1000 else NEW_TOKENS
    said = [greedy(args.rankine, base, adapter, prompt, new) for prompt in prompts]
    own = Tokenizer.from_file(str(base / "tokenizer.json"))

    def compare(what, llama):
        apart, scale = furthest(llama, ours, window)
        moved, _ = furthest(llama, plain, window)
        texts = [go_on(llama, own, prompt, new) for prompt in prompts]
        check(f"{case}: {what}: {apart:.1e} from base and adapter (of logits to {scale:.0f}; the adapter moves one by {moved:.1f})",
              apart <= TOLERANCE and moved > 0.1)
        check(f"{case}: {what}: llama.cpp goes on as rankine does", texts == said, list(zip(texts, said)), quiet=True)

    compare("merged", load(export(args, work, "merged-gguf", "--run", work / "run", "--dtype", "f32"), **EXACT))
    bare = export(args, work, "base-gguf", "--base", base, "--dtype", "f32")
    lora = export(args, work, "lora-gguf", "--run", work / "run", "--weights", "adapter")
    compare("adapter over base", load(bare, lora_path=str(lora), **EXACT))


def export(args, work, name, *words):
    out = work / name
    rankine(args.rankine, "export", "--target", "gguf", "--out", out, *words)
    rankine(args.rankine, "check", out, "--target", "gguf")
    return next(out.glob("*.gguf"))


def furthest(llama, reference, window):
    """The largest difference of a logit within the window, and the largest logit."""
    apart, scale = 0.0, 0.0
    for ids, expected in reference:
        ids, expected = ids[:window].tolist(), expected[:window].numpy()
        llama.reset()
        llama.eval(ids)
        found = np.array(llama.scores[: len(ids)])
        apart = max(apart, np.abs(found - expected).max())
        scale = max(scale, np.abs(expected).max())
    return float(apart), float(scale)


def greedy(binary, model, adapter, prompt, new):
    words = ["--adapter", adapter, "--prompt", prompt, "--max-new-tokens", new, "--temperature", 0, "--json"]
    return json.loads(rankine(binary, "generate", model, *words))["text"]


def go_on(llama, own, prompt, new):
    ids, found = own.encode(prompt).ids, []
    llama.reset()
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
        if llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama.model), token):
            break
        found.append(token)
        if len(found) == new:
            break
    return own.decode(found, skip_special_tokens=True)


# ---------------------------------------------------------------------------------------------------
# SentencePiece
# ---------------------------------------------------------------------------------------------------

SPACE = "\u2581"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TIGHT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# How spaces are treated, the template, and what llama.cpp must be told for both to have the same tokens.
SCHEMES = {
    "Prepend": (dict(type="Sequence", normalizers=[PREPEND, REPLACE]), None, INSTRUCT, True),
    "Prepend, no template": (dict(type="Sequence", normalizers=[PREPEND, REPLACE]), None, None, True),
    "Replace alone": (REPLACE, None, INSTRUCT, False),
    "Metaspace never": (None, "never", TIGHT, False),
    "Metaspace first": (None, "first", INSTRUCT, False),
    "Metaspace first, no template": (None, "first", None, True),
    "Metaspace always, spaces in the template": (None, "always", INSTRUCT, False),
    "Metaspace always, none": (None, "always", TIGHT, True),
}


def pieces():
    """Vocabulary and merges as SentencePiece would have them: every way to make a token, by the token's rank."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "crates/README.md")]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=230, show_progress=False))
    words = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(word for word, _ in words)]
    assert len(tokens) + 2 <= 512 and len(set(tokens)) == len(tokens)
    known = {word for word, _ in words}
    merges = [
        [word[:cut], word[cut:]] for word, _ in words for cut in range(1, len(word)) if word[:cut] in known and word[cut:] in known
    ]
    return {token: index for index, token in enumerate([*tokens, "[INST]", "[/INST]"])}, merges


def sentence_piece(folder, normalizer, scheme, template):
    vocab, merges = pieces()
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    added = [
        dict(id=vocab[text], content=text, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for text in special
    ]
    cut = dict(type="Metaspace", replacement=SPACE, prepend_scheme=scheme, split=False) if scheme else None
    decoder = [dict(type="Replace", pattern={"String": SPACE}, content=" "), dict(type="ByteFallback"), dict(type="Fuse")]
    begin = dict(id="<s>", ids=[vocab["<s>"]], tokens=["<s>"])
    around = lambda *parts: [{"SpecialToken": {"id": "<s>", "type_id": 0}}, *parts]
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer = dict(
        version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=normalizer, pre_tokenizer=cut,
        post_processor=dict(
            type="TemplateProcessing", single=around(sequence),
            pair=around(sequence, {"Sequence": {"id": "B", "type_id": 1}}), special_tokens={"<s>": begin},
        ),
        decoder=dict(type="Sequence", decoders=decoder),
        model=dict(
            type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None,
            fuse_unk=True, byte_fallback=True, ignore_merges=False, vocab=vocab, merges=merges,
        ),
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    words = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    (folder / "tokenizer_config.json").write_text(json.dumps(words | (dict(chat_template=template) if template else {})))


def try_scheme(args, name, base, work):
    normalizer, scheme, template, prefix = SCHEMES[name]
    shutil.copytree(base, work / "base")
    sentence_piece(work / "base", normalizer, scheme, template)
    file = export(args, work, "gguf", "--base", work / "base", "--dtype", "f32")
    llama, own = load(file), Tokenizer.from_file(str(work / "base/tokenizer.json"))
    written = llama.metadata["tokenizer.ggml.add_space_prefix"]
    check(f"SentencePiece, {name}: add_space_prefix is {written}", written == str(prefix).lower())
    turns = [("user", "Where is my  parcel?"), ("assistant", "In the hall, über dem Schrank 🙏."), ("user", "Thanks\n")]
    if template:
        from jinja2 import Environment
        messages = [dict(role=role, content=content) for role, content in turns]
        render = lambda count: Environment().from_string(template).render(messages=messages[:count], bos_token="<s>", eos_token="</s>")
        texts = [render(count) for count in (1, 2, 3)]
        expected = [own.encode(text, add_special_tokens=False).ids for text in texts]
        found = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    else:
        texts = PROSE + [content for _, content in turns] + ["1 + 1 =", "a"]
        expected = [own.encode(text).ids for text in texts]
        found = [llama.tokenize(text.encode(), add_bos=True, special=True) for text in texts]
    differ = [(text, a[:12], b[:12]) for text, a, b in zip(texts, found, expected) if a != b]
    check(f"SentencePiece, {name}: llama.cpp makes the tokens of tokenizer.json, {sum(map(len, expected))}", not differ, differ)
    # The file as a base: what was written is read the same way.
    texts = texts if template else PROSE
    folder, again = (rankine_logits(args.rankine, model, texts, work) for model in (work / "base", file))
    same = all(torch.equal(a, b) for (a, _), (b, _) in zip(folder, again))
    check(f"SentencePiece, {name}: rankine reads the same tokens from the file", same, [(a, b) for (a, _), (b, _) in zip(folder, again)][:1])


def main():
    args = arguments(__doc__, needs_model=False)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        root = pathlib.Path(folder)
        for name in platforms.MODELS:
            platforms.make_model(name, root / name)
            (root / name / "chat_template.jinja").unlink()
            for variant in ADAPTERS if name in ("llama", "qwen3") else ["lora"]:
                work = root / f"{name}-{variant}"
                work.mkdir()
                try_family(args, name, variant, root / name, work)
        for number, name in enumerate(SCHEMES):
            work = root / f"spaces-{number}"
            work.mkdir()
            try_scheme(args, name, root / "llama", work)
    print(f"llama-cpp-python {llama_cpp.__version__}")
    finish()


if __name__ == "__main__":
    main()
