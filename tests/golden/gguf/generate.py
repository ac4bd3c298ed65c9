#!/usr/bin/env python3
"""GGUF files, written with llama.cpp's own Python package, and what it and SentencePiece make of them.

    python3 -m venv v && v/bin/pip install -r tests/golden/gguf/requirements.txt
    v/bin/python tests/golden/gguf/generate.py

`quants/TYPE.gguf` has one matrix in that format and `quants/TYPE.safetensors` its values, as `gguf.quants.dequantize`
computes them. `quantized/TYPE.bin` are the values of `quantized/values.safetensors` as `gguf.quants.quantize` packs them.
`models/CASE.gguf` is ../models/CASE, renamed and reordered as llama.cpp's converter does it, so that
../models/CASE holds what must come out. `tokenizers/spm.gguf` has a SentencePiece vocabulary alone, `spm.json` what
SentencePiece makes of some texts; `bpe.gguf` is ../templates/tokenizer.json. `tiny.gguf` has all of it: random weights
of two layers in Q8_0, Q5_0 and F16, and the vocabulary of `bpe.gguf`.
"""
import json
import math
import pathlib
import tempfile

import gguf
import numpy as np
import sentencepiece
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent / "models"
ROWS, COLUMNS = 5, 512


# ---------------------------------------------------------------------------------------------------
# Formats
# ---------------------------------------------------------------------------------------------------

# Where the halves of a block lie: scales and minima, which must be numbers.
HALVES = {
    Type.F16: [0], Type.BF16: [], Type.F32: [], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q8_0: [0], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def random_blocks(kind, rng, count):
    """Every bit pattern of the integers; scales of every size and sign, subnormal ones and zeros among them."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[kind]:
        bits = rng.integers(0, 0x7C00, count, dtype=np.uint16) | (rng.integers(0, 2, count, dtype=np.uint16) << 15)
        bits[::7] &= 0x83FF
        bits[3::11] = 0
        blocks[:, at:at + 2] = bits.view(np.uint8).reshape(-1, 2)
    if kind == Type.F32:
        blocks = np.where(np.isfinite(blocks.view(np.float32)), blocks, 0)
    if kind == Type.BF16:
        blocks[:, 1] &= 0xBF
    return blocks


def quants():
    (HERE / "quants").mkdir(exist_ok=True)
    for kind in HALVES:
        rng = np.random.default_rng(int(kind) + 1)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random_blocks(kind, rng, ROWS * COLUMNS // block).reshape(ROWS, -1)
        # A row as the reference packs one, where it can.
        try:
            values = rng.standard_normal((1, COLUMNS)).astype(np.float32)
            blocks[0] = gguf.quants.quantize(values, kind).view(np.uint8).reshape(-1)
        except NotImplementedError:
            pass
        writer = gguf.GGUFWriter(HERE / "quants" / f"{kind.name}.gguf", "qwen2")
        writer.add_tensor("blk.0.ffn_up.weight", blocks, raw_dtype=kind)
        finish(writer)
        values = gguf.quants.dequantize(blocks, kind).astype(np.float32).reshape(ROWS, COLUMNS)
        assert np.isfinite(values).all(), kind
        save_file({"model.layers.0.mlp.up_proj.weight": values}, HERE / "quants" / f"{kind.name}.safetensors")


def quantized():
    """Values of every size, and their blocks as the reference packs them."""
    (HERE / "quantized").mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    values = rng.standard_normal((12, COLUMNS)).astype(np.float32)
    values[1] *= 1e-3
    values[2] *= 3e4
    values[3, ::2] = 0
    values[4] = 0
    values[5, 32:64] = -0.0
    # Ties between the magnitudes, and halves between two steps.
    values[6] = np.tile(np.arange(-16, 16, dtype=np.float32) / 2, COLUMNS // 32)
    values[7] = np.tile(np.array([1.5, -1.5, 127, -127], dtype=np.float32), COLUMNS // 4)
    values[8] = rng.integers(-8, 9, COLUMNS).astype(np.float32)
    # Scales that are subnormal halves, or none.
    values[9] *= 1e-5
    values[10] *= 1e-8
    values[11] = np.float32(2) ** rng.integers(-20, 10, COLUMNS)
    save_file({"values": values}, HERE / "quantized" / "values.safetensors")
    for kind in (Type.BF16, Type.Q8_0, Type.Q4_0):
        (HERE / "quantized" / f"{kind.name}.bin").write_bytes(gguf.quants.quantize(values, kind).tobytes())


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------

CASES = ["llama-tied", "llama-mha-bias", "llama-head-dim", "llama3-rope", "linear-rope", "mistral", "qwen2", "qwen3"]


def permute(weights, heads):
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def rope_factors(rope, theta, width):
    """`LlamaModel.generate_extra_tensors` of llama.cpp's convert_hf_to_gguf.py."""
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for frequency in 1.0 / theta ** (np.arange(0, width, 2, dtype=np.float32) / width):
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            factors.append(1)
        elif wavelength > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def model(case):
    config = json.loads((MODELS / case / "config.json").read_text())
    kind = config["model_type"]
    architecture = "llama" if kind == "mistral" else kind
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    layers = config["num_hidden_layers"]
    width = config.get("head_dim", config["hidden_size"] // heads)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    scaling = rope.get("rope_type", rope.get("type", "default"))
    writer = gguf.GGUFWriter(HERE / "models" / f"{case}.gguf", architecture)
    writer.add_name(case)
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(theta)
    if "head_dim" in config:
        writer.add_key_length(width)
        writer.add_value_length(width)
    if architecture == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(width)
    if scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "mistral":
        writer.add_sliding_window(config["sliding_window"])
    if scaling == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(rope, theta, width))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)
    for name, values in load_file(MODELS / case / "model.safetensors").items():
        if architecture == "llama" and ".q_proj." in name:
            values = permute(values, heads)
        if architecture == "llama" and ".k_proj." in name:
            values = permute(values, groups)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(values))
    finish(writer)


# ---------------------------------------------------------------------------------------------------
# Tokenizers
# ---------------------------------------------------------------------------------------------------

TRAINING = [
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times.",
    "A tokenizer is trained on a few sentences, and the pieces that occur together are merged, best first.",
    "Numbers such as 1, 12, 123 and 2024 are cut; so are prices of $3.50 and dates like 2024-05-17.",
    "def merge(left, right):\n    return left + right  # put together\n",
    "Où est la bibliothèque ? Die Straße ist naß. El niño comió una manzana.",
    "Привет, мир. Это предложение на русском языке, чтобы были и другие буквы.",
    "今日はいい天気ですね。東京は大きい都市です。",
] * 8
TEXTS = [
    "", " ", "  ", "a", "The lazy dog jumps.", " The lazy dog jumps over  two   spaces.", "times\nand\n\ntimes\t!",
    "Numbers: 0 1 22 333 4444 55555, 3.14159 and 1e-9.", "def merge(left):\n    return left\n", "tokenizers' tokens, don't they?",
    "Où est la Straße ? El niño.", "Привет, русские буквы.", "今日は東京です。", "😀 emoji and \u200d joiners 👩\u200d👧",
    "\u2581 the space's own character \u2581\u2581", "caf\u00e9 cafe\u0301", "ÆØÅ þorn ﬁ ligature", "\ufeffbom and \u00a0 no-break", "trailing space ",
    "ALLCAPS MixedCase snake_case kebab-case", "<s> spelled </s> in text <unk> and <0x41>", "\r\n windows \r\n lines",
]


def sentence_piece():
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(pathlib.Path(folder) / "spm")
        text = pathlib.Path(folder) / "text"
        text.write_text("\n".join(TRAINING))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=prefix, model_type="bpe", vocab_size=560, byte_fallback=True, num_threads=1,
            character_coverage=1.0, split_digits=True, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False,
            normalization_rule_name="identity", minloglevel=2, user_defined_symbols=["<|user|>"],
        )
        processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    writer = gguf.GGUFWriter(HERE / "tokenizers" / "spm.gguf", "llama")
    tokens, scores, kinds = [], [], []
    for index in range(processor.vocab_size()):
        tokens.append(processor.id_to_piece(index))
        scores.append(processor.get_score(index))
        kind = gguf.TokenType.NORMAL
        if processor.is_unknown(index):
            kind = gguf.TokenType.UNKNOWN
        elif processor.is_control(index):
            kind = gguf.TokenType.CONTROL
        elif processor.is_byte(index):
            kind = gguf.TokenType.BYTE
        elif tokens[-1] == "<|user|>":
            kind = gguf.TokenType.USER_DEFINED
        kinds.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    writer.add_chat_template("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}")
    finish(writer)
    # Text that spells a control token is that token here, and is not in SentencePiece.
    texts = [text for text in TEXTS if "<s>" not in text]
    cases = [{"text": text, "ids": processor.encode(text)} for text in texts]
    versions = {"gguf": "0.19.0", "sentencepiece": sentencepiece.__version__}
    golden = json.dumps({"versions": versions, "cases": cases}, ensure_ascii=True, indent=1)
    (HERE / "tokenizers" / "spm.json").write_text(golden + "\n")


def byte_level(writer):
    source = json.loads((HERE.parent / "templates" / "tokenizer.json").read_text())
    vocabulary = source["model"]["vocab"]
    added = {token["content"]: token["id"] for token in source["added_tokens"]}
    by_id = {index: token for token, index in {**vocabulary, **added}.items()}
    tokens = [by_id[index] for index in range(len(by_id))]
    special = [gguf.TokenType.CONTROL if token in added else gguf.TokenType.NORMAL for token in tokens]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in source["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # Fillers up to the size of an embedding table, as the converter adds them.
    writer.add_token_list([*tokens, "[PAD0]", "[PAD1]"])
    writer.add_token_types([*special, gguf.TokenType.UNUSED, gguf.TokenType.UNUSED])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(added["<s>"])
    writer.add_eos_token_id(added["</s>"])
    writer.add_eot_token_id(added["<|im_end|>"])
    writer.add_pad_token_id(added["<|endoftext|>"])
    writer.add_add_bos_token(True)
    writer.add_chat_template([
        {"name": "default", "template": "{{ messages[0]['content'] }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ])
    return len(tokens) + 2


# ---------------------------------------------------------------------------------------------------
# All in one
# ---------------------------------------------------------------------------------------------------

def tiny():
    writer = gguf.GGUFWriter(HERE / "tiny.gguf", "llama")
    hidden, middle, heads, groups = 64, 96, 4, 2
    vocabulary = byte_level(writer)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(middle)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    rng = np.random.default_rng(7)

    def matrix(name, rows, columns, kind):
        values = (0.1 * rng.standard_normal((rows, columns))).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    matrix("token_embd.weight", vocabulary, hidden, Type.Q8_0)
    for layer in range(2):
        for name, rows, columns, kind in [
            ("attn_q", hidden, hidden, Type.Q5_0), ("attn_k", hidden // heads * groups, hidden, Type.Q5_0),
            ("attn_v", hidden // heads * groups, hidden, Type.F16), ("attn_output", hidden, hidden, Type.Q5_0),
            ("ffn_gate", middle, hidden, Type.Q5_0), ("ffn_up", middle, hidden, Type.Q5_0),
            ("ffn_down", hidden, middle, Type.Q8_0),
        ]:
            matrix(f"blk.{layer}.{name}.weight", rows, columns, kind)
        for name in ["attn_norm", "ffn_norm"]:
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(hidden, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    finish(writer)


if __name__ == "__main__":
    for folder in ["models", "tokenizers"]:
        (HERE / folder).mkdir(exist_ok=True)
    quants()
    quantized()
    for case in CASES:
        model(case)
    sentence_piece()
    vocabulary = gguf.GGUFWriter(HERE / "tokenizers" / "bpe.gguf", "llama")
    byte_level(vocabulary)
    finish(vocabulary)
    tiny()
