"""A Llama-shaped Hugging Face folder as GGUF, F32 or BF16, for llama.cpp: the same weights."""
import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoTokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    options = parser.parse_args()
    config = json.loads((options.model / "config.json").read_text())
    if config["model_type"] != "llama":
        parser.error(f"{options.model}: this knows model_type llama, found {config['model_type']}")
    part = options.out.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    shape(writer, config, options.dtype)
    vocabulary(writer, options.model, config["vocab_size"])
    tensors(writer, options.model, config, options.dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(options.out)


def shape(writer, config, dtype):
    heads = config["num_attention_heads"]
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == "f32" else gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_vocab_size(config["vocab_size"])


def vocabulary(writer, folder, size):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    kind = lambda i: gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([kind(i) if i in names else gguf.TokenType.UNUSED for i in range(size)])
    writer.add_add_bos_token(False)
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer)


def tensors(writer, folder, config, dtype):
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():
                value = weights.get_tensor(key).to(torch.float32).numpy()
                for module, count in heads.items():
                    if f"{module}.weight" in key:
                        value = interleave(value, count)
                name = names.get_name(key, try_suffixes=(".weight",))
                if dtype == "bf16" and value.ndim > 1:
                    bf16 = gguf.GGMLQuantizationType.BF16
                    writer.add_tensor(name, gguf.quants.quantize(value, bf16), raw_dtype=bf16)
                else:
                    writer.add_tensor(name, np.ascontiguousarray(value))


def interleave(value, heads):
    """llama.cpp turns neighbouring pairs where transformers turns the two halves of a head."""
    return value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


if __name__ == "__main__":
    main()
