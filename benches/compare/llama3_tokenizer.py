"""The tokenizer of Llama 3 as a folder of Hugging Face files, from the tiktoken file of PyPI's `llama-models`."""
import json, sys, zipfile, base64, pathlib
from tokenizers import Tokenizer, models, pre_tokenizers, processors, decoders, AddedToken, Regex
from transformers.convert_slow_tokenizer import bytes_to_unicode, TikTokenConverter
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
def main(model, out):
    out = pathlib.Path(out); out.mkdir(parents=True, exist_ok=True)
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in open(model, "rb") if line.strip())}
    byte = bytes_to_unicode()
    text = lambda token: "".join(byte[b] for b in token)
    vocab = {text(t): r for t, r in ranks.items()}
    merges = []
    for token, rank in ranks.items():
        if len(token) == 1: continue
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        pairs.sort(key=lambda p: (ranks[p[0]], ranks[p[1]]))
        merges += [(a, b, rank) for a, b in pairs]
    merges.sort(key=lambda m: m[2])
    tok = Tokenizer(models.BPE(vocab, [(text(a), text(b)) for a, b, _ in merges], fuse_unk=False, byte_fallback=False, ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated", False), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    special += [f"<|reserved_special_token_{3+i}|>" for i in range(256 - len(special))]
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", tok.token_to_id("<|begin_of_text|>"))])])
    tok.save(str(out / "tokenizer.json"))
    template = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>", "model_max_length": 131072, "chat_template": template, "clean_up_tokenization_spaces": False}, open(out / "tokenizer_config.json", "w"), indent=1)
    print(tok.get_vocab_size(), tok.encode("Hello world 12345", add_special_tokens=False).ids)
main(*sys.argv[1:])
