"""peft's side of merge.py: makes an adapter (and a random base, a layer in memory at a time), and merges it."""
import json
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

RANK, ALPHA = 16, 32
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHARD = 2 * 10**9


def make(model, adapter, config=None):
    torch.manual_seed(0)
    model, adapter = pathlib.Path(model), pathlib.Path(adapter)
    if config and not (model / "config.json").is_file():
        model.mkdir(parents=True, exist_ok=True)
        make_base(model, json.loads(config))
        # Last: a base that was made in half is made again.
        (model / "config.json").write_text(config)
    make_adapter(model, adapter)


def shapes(config):
    """The linear layers of a decoder layer: [out, in]."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    return {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }


def make_base(folder, config):
    """Random weights in bf16, in shards with an index."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    plan = [("model.embed_tokens.weight", (vocabulary, hidden))]
    for layer in range(config["num_hidden_layers"]):
        begin = f"model.layers.{layer}."
        plan += [(f"{begin}{name}.weight", shape) for name, shape in shapes(config).items()]
        plan += [(f"{begin}{name}.weight", (hidden,)) for name in ("input_layernorm", "post_attention_layernorm")]
    plan.append(("model.norm.weight", (hidden,)))
    if not config["tie_word_embeddings"]:
        plan.append(("lm_head.weight", (vocabulary, hidden)))
    shards, size = [[]], 0
    for name, shape in plan:
        bytes_ = 2 * torch.Size(shape).numel()
        if size + bytes_ > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += bytes_
    index, total = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name, shape in shard:
            spread = 1.0 if len(shape) == 1 else 0.02
            tensors[name] = torch.empty(shape, dtype=torch.bfloat16).normal_(std=spread)
            index[name] = file
            total += 2 * tensors[name].numel()
        save_file(tensors, folder / file, {"format": "pt"})
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text)


def make_adapter(model, folder):
    """As peft saves one of every linear layer, with numbers in B too."""
    config = json.loads((model / "config.json").read_text())
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (rows, columns) in shapes(config).items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns) / columns**0.5
            tensors[f"{module}.lora_B.weight"] = torch.randn(rows, RANK) * 0.01
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    told = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, task_type="CAUSAL_LM", base_model_name_or_path=str(model),
        inference_mode=True,
    )
    told.save_pretrained(folder)


def merge(model, adapter, out):
    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out, max_shard_size="5GB")


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    {"make": make, "merge": merge}[command](*words)
