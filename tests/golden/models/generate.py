#!/usr/bin/env python3
"""Tiny random models and LoRA adapters, with what transformers and peft compute from them.

    v/bin/python tests/golden/models/generate.py [CASE ...]

Each case is a folder: `config.json`, `model.safetensors` and `adapter/` as the two libraries write
them, `golden.safetensors` (inputs, activations, gradients, trained adapter) and `golden.json`
(versions, what was done, greedy tokens, a ten-step training curve). See ../README.md for the names.

Everything is float32 on one CPU thread, eager attention, no dropout. Weights come from a generator
seeded by the case's name, never from a library's initialiser, so they do not depend on its version.
"""
import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":  # peft writes sets as lists in hash order
    os.environ.update(PYTHONHASHSEED="0", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    os.execv(sys.executable, [sys.executable, *sys.argv])

import copy
import json
import pathlib
import re
import shutil
import warnings
import zlib

import peft
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

HERE = pathlib.Path(__file__).resolve().parent
VERSIONS = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__}

# ---------------------------------------------------------------------------------------------------
# Cases
# ---------------------------------------------------------------------------------------------------

SHAPE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False, attention_dropout=0.0,
)


def rope(theta=10000.0, **kind):
    return {"rope_theta": theta, "rope_type": "default", **kind}


# With head_dim 16 the wavelengths are 2 pi 500^(k/8) = 6.3, 13.7, 29.7, 64.6 ...; they are kept below
# 32/4 = 8, divided by the factor above 32/1 = 32, and interpolated between: 1, 2 and 5 frequencies.
LLAMA3_ROPE = rope(500.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)

BASES = {
    "llama-untied": LlamaConfig(**SHAPE),
    "llama-tied": LlamaConfig(**{**SHAPE, "tie_word_embeddings": True}),
    "llama3-rope": LlamaConfig(**{**SHAPE, "max_position_embeddings": 256}, head_dim=16, rope_parameters=LLAMA3_ROPE),
    "linear-rope": LlamaConfig(**SHAPE, rope_parameters=rope(rope_type="linear", factor=2.0)),
    "llama-mha-bias": LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}, attention_bias=True, mlp_bias=True),
    "llama-head-dim": LlamaConfig(**SHAPE, head_dim=16),
    "mistral": MistralConfig(**{**SHAPE, "rms_norm_eps": 1e-6}, sliding_window=4, head_dim=8),
    "qwen2": Qwen2Config(**{**SHAPE, "tie_word_embeddings": True, "rms_norm_eps": 1e-6}, rope_parameters=rope(1000000.0)),
    "qwen3": Qwen3Config(**{**SHAPE, "rms_norm_eps": 1e-6}, head_dim=16, rope_parameters=rope(1000000.0)),
}

# Written in the spelling of transformers 4 (top-level rope_theta, rope_scaling, torch_dtype).
TRANSFORMERS_4_SPELLING = {"linear-rope", "llama-tied"}

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Q0, DOWN1 = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def lora(**changes):
    settings = dict(r=4, lora_alpha=12, lora_dropout=0.0, target_modules=ALL_LINEAR, task_type="CAUSAL_LM")
    return {**settings, **changes}


# case -> (base, LoraConfig arguments, the two merged tensors to store)
CASES = {name: (name, lora(), [Q0, DOWN1]) for name in BASES}
CASES |= {
    "lora-rslora": ("llama-untied", lora(use_rslora=True), [Q0, DOWN1]),
    "lora-dora": ("llama-untied", lora(use_dora=True), [Q0, DOWN1]),
    "lora-modules-to-save": ("llama-untied", lora(modules_to_save=["lm_head", "embed_tokens"]), [EMBED, HEAD]),
    # A pattern is a regex that must match to the end of the module's name, from its start or after a dot.
    "lora-patterns": (
        "llama-untied",
        lora(
            rank_pattern={"layers.1.mlp.(gate|up)_proj": 8, "k_proj": 2, r"^model\.layers\.0\..*\.v_proj": 6},
            alpha_pattern={"k_proj": 5, r"layers\.\d+\.mlp\.up_proj": 20},
            exclude_modules=["o_proj"],
        ),
        [
            "model.layers.1.self_attn.k_proj.weight",
            "model.layers.1.mlp.up_proj.weight",
        ],
    ),
    "lora-layers": ("llama-untied", lora(target_modules=["q_proj", "down_proj"], layers_to_transform=[1]), [Q0, DOWN1]),
    "lora-regex-target": ("llama-untied", lora(target_modules=r".*\.0\.self_attn\.(q|v)_proj|.*\.down_proj"), [Q0, DOWN1]),
    "lora-head": ("llama-untied", lora(target_modules=["q_proj", "v_proj", "lm_head"]), [Q0, HEAD]),
    "lora-embedding": ("llama-untied", lora(target_modules=["q_proj", "v_proj", "embed_tokens"]), [Q0, EMBED]),
    # peft trains a copy of the embedding and leaves the head the base's, unless told to keep them tied.
    "lora-tied-modules-to-save": ("llama-tied", lora(modules_to_save=["embed_tokens"]), [EMBED, HEAD]),
    "lora-tied-both-to-save": ("llama-tied", lora(modules_to_save=["lm_head", "embed_tokens"]), [EMBED, HEAD]),
    "lora-tied-modules-to-save-ensured": (
        "llama-tied",
        lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
        [EMBED, HEAD],
    ),
}

# ---------------------------------------------------------------------------------------------------
# Inputs: two rows, the second right-padded from token 9; the prompts are 4 and 3 tokens long
# ---------------------------------------------------------------------------------------------------

T, LENGTHS, PROMPTS = 12, (12, 9), (4, 3)
GREEDY_PROMPT, GREEDY_NEW = 5, 8
BATCHES = [[0], [1], [0, 1], [0], [1], [0, 1], [0], [1], [0, 1], [0]]
LR, BETAS, EPS, WEIGHT_DECAY, MAX_NORM = 5e-3, (0.9, 0.999), 1e-8, 0.01, 1.0


def generator(name):
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def inputs(base):
    ids = torch.randint(3, SHAPE["vocab_size"], (2, T), generator=generator(f"{base} inputs"))
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS)):
        ids[row, length:] = 0
        mask[row, :length] = 1
        labels[row, prompt:length] = ids[row, prompt:length]
    return ids, mask, labels


def loss_sum(logits, labels):
    """Cross-entropy of token t+1 given tokens ..t, summed; and how many targets there are."""
    targets = labels[:, 1:]
    total = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total, int((targets != -100).sum())


# ---------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def fill_base(model, name):
    g = generator(name)
    for key, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=g)
        if "norm" in key:
            p.copy_(1 + 0.2 * noise)
        else:
            p.copy_((0.2 if p.ndim == 1 else 0.3) * noise)


@torch.no_grad()
def fill_adapter(model, name):
    """Every trained tensor away from its initial value: B != 0, magnitudes off the norms, copies off the base."""
    g = generator(f"{name} adapter")
    for key, p in sorted(model.named_parameters()):
        if not p.requires_grad:
            continue
        noise = torch.randn(p.shape, generator=g)
        if "lora_magnitude" in key:
            p.mul_(1 + 0.1 * noise)
        elif "modules_to_save" in key:
            p.add_(0.05 * noise)
        elif "lora_A" in key or "lora_embedding_B" in key:
            p.copy_(0.15 * noise)
        elif "lora_B" in key or "lora_embedding_A" in key:
            p.copy_(0.1 * noise)
        else:
            raise ValueError(key)


def trace(model, ids, mask):
    """The activations in forward order; the layers' are before the final norm."""
    core = model.get_base_model() if isinstance(model, PeftModel) else model
    seen, hooks = {}, []

    def record(name):
        def hook(_module, _args, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()
        return hook

    parts = [("embed", core.model.embed_tokens)]
    parts += [(f"layer.{i}", layer) for i, layer in enumerate(core.model.layers)]
    parts += [("norm", core.model.norm)]
    hooks = [module.register_forward_hook(record(name)) for name, module in parts]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return seen, logits


@torch.no_grad()
def greedy(model, ids):
    """Argmax, the whole sequence anew each time (no cache), never stopping at EOS."""
    ids, margins = ids[:1, :GREEDY_PROMPT], []
    for _ in range(GREEDY_NEW):
        top = model(input_ids=ids, use_cache=False).logits[0, -1].topk(2)
        margins.append(float(top.values[0] - top.values[1]))
        ids = torch.cat([ids, top.indices[:1].reshape(1, 1)], dim=1)
    return {"tokens": ids[0, GREEDY_PROMPT:].tolist(), "smallest_margin": round(min(margins), 6)}


def trained_tensors(model):
    """[(state-dict key, parameter)]: the keys of adapter_model.safetensors that are trained."""
    by_storage = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
    state = get_peft_model_state_dict(model)
    found = [(key, by_storage[t.data_ptr()]) for key, t in sorted(state.items()) if t.data_ptr() in by_storage]
    missing = set(by_storage) - {p.data_ptr() for _, p in found}
    assert not missing, "a trained parameter has no key"
    return found


def gradients(model, ids, mask, labels):
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss_sum(logits, labels)[0].backward()
    found = {key: p.grad.detach().clone() for key, p in trained_tensors(model)}
    model.zero_grad(set_to_none=True)
    return found


def train(model, ids, labels):
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    curve = []
    for rows in BATCHES:
        total, tokens = 0.0, 0
        for row in rows:  # one micro-batch a row, without its padding
            n = LENGTHS[row]
            logits = model(input_ids=ids[row : row + 1, :n], use_cache=False).logits
            part, count = loss_sum(logits, labels[row : row + 1, :n])
            part.backward()
            total, tokens = total + float(part.detach()), tokens + count
        for p in params:
            p.grad.div_(tokens)
        norm = float(torch.nn.utils.clip_grad_norm_(params, MAX_NORM))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        curve.append({"rows": rows, "tokens": tokens, "loss": total / tokens, "grad_norm": norm})
    return curve


def as_transformers_4(config):
    """The same config.json as transformers 4 spelled it."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "default":
        rope = None
    elif rope["rope_type"] == "linear":  # "type" is the older of the two spellings
        rope = {"type": rope.pop("rope_type"), **rope}
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.3"
    return config


def write_json(path, value):
    text = json.dumps(value, indent=2, sort_keys=path.name.startswith("config"))
    text = re.sub(r"\[[\d\s,.e-]+\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)
    path.write_text(text + "\n")


def largest_difference(a, b):
    return float(f"{max((a[k].double() - b[k].double()).abs().max().item() for k in a):.2g}")


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


# ---------------------------------------------------------------------------------------------------
# One case
# ---------------------------------------------------------------------------------------------------


def make(case):
    base, settings, merged_names = CASES[case]
    folder = HERE / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    # The base model, and that what was written loads back as the same model.
    config = copy.deepcopy(BASES[base])
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    fill_base(model, base)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids, mask, labels = inputs(base)
    real = mask.bool()
    spelling = json.loads((folder / "config.json").read_text())
    if base in TRANSFORMERS_4_SPELLING:
        write_json(folder / "config.json", as_transformers_4(spelling))
    seen, logits = trace(model, ids, mask)
    model = load(folder)
    assert torch.equal(trace(model, ids, mask)[1], logits), "the written model is not the model"
    if case == "llama3-rope":  # the same file in the other spelling, for a test that both parse alike
        aside = folder / "transformers4"
        aside.mkdir()
        shutil.copy(folder / "model.safetensors", aside)
        write_json(aside / "config.json", as_transformers_4(spelling))
        assert torch.equal(trace(load(aside), ids, mask)[1], logits), "the spellings differ"
        shutil.move(aside / "config.json", folder / "config.transformers4.json")
        shutil.rmtree(aside)
    if case == "mistral":  # the window must matter, or the case proves nothing
        wide = load(folder)
        wide.config.sliding_window = None
        assert (trace(wide, ids, mask)[1] - logits)[real].abs().max() > 0.1

    out = {"input_ids": ids, "attention_mask": mask, "labels": labels, "base.inv_freq": model.model.rotary_emb.inv_freq}
    total, tokens = loss_sum(logits, labels)
    out |= {f"base.{k}": v for k, v in seen.items()} | {"base.logits": logits, "base.loss_sum": total}
    golden = {"case": case, "base": base, "versions": VERSIONS, "procedure": PROCEDURE}
    golden["greedy"] = {"prompt_tokens": GREEDY_PROMPT, "base": greedy(model, ids)}

    double = copy.deepcopy(model).double()
    out["base.logits64"] = trace(double, ids, mask)[1]

    # The adapter, and that what was written loads back as the same adapter.
    model.config._name_or_path = model.name_or_path = f"tiny-random/{base}"
    model = get_peft_model(model, LoraConfig(**settings)).eval()
    fill_adapter(model, case)
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    seen, logits = trace(model, ids, mask)
    assert (logits - out["base.logits"])[real].abs().max() > 0.05, "the adapter does nothing"
    model = PeftModel.from_pretrained(load(folder), folder / "adapter", is_trainable=True).eval()
    reloaded = trace(model, ids, mask)[1]
    if (reloaded - logits).abs().max() > 1e-5:
        golden["reload_differs"] = largest_difference({"": reloaded}, {"": logits})
        seen, logits = trace(model, ids, mask)
    total, tokens = loss_sum(logits, labels)
    out |= {f"adapter.{k}": v for k, v in seen.items()} | {"adapter.logits": logits, "adapter.loss_sum": total}
    out["adapter.tokens"] = torch.tensor(tokens)
    golden["greedy"]["adapter"] = greedy(model, ids)
    golden["trained"] = [key for key, _ in trained_tensors(model)]
    golden["scaling"] = {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    grads = gradients(model, ids, mask, labels)
    out |= {f"grad.{k}": v for k, v in grads.items()}

    merged_model = copy.deepcopy(model).merge_and_unload()
    merged = merged_model.state_dict()
    out |= {f"merged.{name}": merged[name] for name in merged_names}
    golden["merged"] = {
        "tensors": merged_names,
        "tie_word_embeddings": merged_model.config.tie_word_embeddings,
        "logits_differ_by": largest_difference({"": trace(merged_model, ids, mask)[1][real]}, {"": logits[real]}),
    }

    # How far float32 is from float64 here: the floor under any tolerance.
    double = copy.deepcopy(model).double()
    logits64 = trace(double, ids, mask)[1]
    grads64 = gradients(double, ids, mask, labels)
    curve64 = train(double, ids, labels)
    golden["curve"] = curve = train(model, ids, labels)
    final = {key: p.detach().clone() for key, p in trained_tensors(model)}
    final64 = {key: p.detach().clone() for key, p in trained_tensors(double)}
    out |= {f"final.{k}": v for k, v in final.items()}
    golden["float32_minus_float64"] = {
        "base.logits": largest_difference({"": out["base.logits"][real]}, {"": out["base.logits64"][real]}),
        "adapter.logits": largest_difference({"": logits[real]}, {"": logits64[real]}),
        "grad": largest_difference(grads, grads64),
        "final": largest_difference(final, final64),
        "curve.loss": float(f"{max(abs(a['loss'] - b['loss']) for a, b in zip(curve, curve64)):.2g}"),
        "curve.grad_norm": float(f"{max(abs(a['grad_norm'] - b['grad_norm']) for a, b in zip(curve, curve64)):.2g}"),
    }
    out = {k: v.detach().contiguous().clone() for k, v in out.items()}
    save_file(out, folder / "golden.safetensors", metadata={"format": "pt"})  # two keys would come in random order
    write_json(folder / "golden.json", golden)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{case}: {size // 1024} KB, {len(out)} tensors, {golden['float32_minus_float64']}")


PROCEDURE = {
    "dtype": "float32; base.logits64 and float32_minus_float64 use float64 weights and products, "
    "while transformers keeps norms, softmax and rotary tables in float32",
    "padding": "row 1 is right-padded from token 9; activations and logits at padded positions are don't-care",
    "activations": "{base,adapter}.embed, .layer.N (output of layer N, before the final norm), .norm, .logits",
    "loss": "sum over targets of the cross-entropy of labels[t+1] under logits[t]; -100 is no target",
    "gradients": "grad.KEY = d(adapter.loss_sum)/d(tensor) on the padded [2, 12] batch, KEY as in adapter_model.safetensors",
    "greedy": "argmax from the first prompt_tokens tokens of row 0, no cache, EOS does not stop it",
    "curve": {
        "start": "the adapter in adapter/",
        "trained": "every tensor in `trained`, all with weight decay; two keys of one parameter count once",
        "batches": "step i takes rows[i]; each row is one micro-batch without its padding (12 and 9 tokens)",
        "step": "backward of the sum loss of each row in order; gradients / tokens of the step; "
        "grad_norm = global L2 norm; gradients *= min(1, max_norm / (grad_norm + 1e-6)); AdamW",
        "loss": "sum of losses / tokens, before the step",
        "optimizer": {"name": "torch.optim.AdamW", "lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY},
        "max_norm": MAX_NORM,
        "final": "final.KEY = the tensor after the last step",
    },
}


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("once")
    for case in sys.argv[1:] or CASES:
        make(case)


if __name__ == "__main__":
    main()
