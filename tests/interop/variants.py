#!/usr/bin/env python3
"""Every kind of adapter on tiny random models: trained by rankine, loaded in peft, merged: the same logits to 1e-4.

Llama, Llama with a tied head, Qwen3 and Mistral (sliding window), made by transformers; three steps each, at
a learning rate at which the adapter matters. Takes no model to download.
"""
import json
import shutil
import tempfile

import torch
from common import (
    PROSE, ROOT, arguments, check, finish, heldout, largest, load_adapter, load_model, logits, no_warnings, pathlib,
    rankine, rankine_logits, train, write_jsonl,
)
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

TOLERANCE = 1e-4
SHAPE = dict(
    vocab_size=512, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, tie_word_embeddings=False,
)
MODELS = {
    "llama": LlamaConfig(**SHAPE),
    "llama-tied": LlamaConfig(**{**SHAPE, "tie_word_embeddings": True}),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral": MistralConfig(**SHAPE, head_dim=12, sliding_window=16),
}
VARIANTS = {
    "lora": {},
    "rslora": dict(use_rslora=True),
    "dora": {},
    "patterns": dict(
        rank_pattern={"layers.1.mlp.(gate|up)_proj": 8, "k_proj": 2}, alpha_pattern={"k_proj": 5, "up_proj": 20},
        exclude_modules=["o_proj"],
    ),
    "layers": dict(layers_to_transform=[0, 2], target_modules=["q_proj", "down_proj"]),
    "head+embedding": dict(modules_to_save=["lm_head", "embed_tokens"]),
    "head": dict(modules_to_save=["lm_head"]),
    "embedding": dict(modules_to_save=["embed_tokens"]),
    "dora+patterns+head": dict(rank_pattern={"v_proj": 8}, alpha_pattern={"v_proj": 3}, modules_to_save=["lm_head"]),
}


def make_model(name, folder):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(MODELS[name]).save_pretrained(folder)
    shutil.copy(ROOT / "tests/golden/templates/tokenizer.json", folder)
    words = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def try_variant(args, case, model, variant, work):
    recipe = dict(
        base_model=str(model), adapter="dora" if "dora" in variant else "lora",
        lora=dict(r=4, alpha=12, **VARIANTS[variant]),
        datasets=[dict(path=str(work / "train.jsonl"), type="prompt-completion")],
        max_steps=3, micro_batch_size=4, gradient_accumulation_steps=1, learning_rate=2e-2, lr_scheduler="constant",
        warmup_steps=0, dtype="f32", device="cpu", output_dir=str(work / "run"),
    )
    steps = train(args.rankine, work / "recipe.yaml", recipe)
    adapter, merged = work / "run" / "adapter", work / "merged"
    texts = PROSE + [record["prompt"] for record in heldout(2)]
    ours = rankine_logits(args.rankine, model, texts, work, adapter)
    base = load_model(model)
    without = [logits(base, ids) for ids, _ in ours]
    with no_warnings(f"{case}: peft loads the adapter"):
        attached = load_adapter(base, adapter)
    theirs = [logits(attached, ids) for ids, _ in ours]
    rankine(args.rankine, "merge", model, adapter, "--out", merged)
    with no_warnings(f"{case}: transformers loads the merged model"):
        whole = load_model(merged)
    once = [logits(whole, ids) for ids, _ in ours]
    again = rankine_logits(args.rankine, merged, texts, work)

    effect = largest(zip(theirs, without))
    found = {
        "adapter": largest((a, b) for (_, a), b in zip(ours, theirs)),
        "merged": largest(zip(once, theirs)),
        "merged in rankine": largest((a, b) for (_, a), b in zip(again, theirs)),
    }
    figures = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    check(f"{case}: {figures} <= {TOLERANCE:g} (the adapter moves a logit by {effect:.1f})",
          max(found.values()) <= TOLERANCE and effect > 0.1 and len(steps) == 3)


def main():
    args = arguments(__doc__, needs_model=False)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        root = pathlib.Path(folder)
        for name in MODELS:
            make_model(name, root / name)
            for variant in VARIANTS:
                work = root / f"{name}-{variant}"
                work.mkdir()
                write_jsonl(work / "train.jsonl", heldout(12))
                try_variant(args, f"{name} {variant}", root / name, variant, work)
    finish()


if __name__ == "__main__":
    main()
