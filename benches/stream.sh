#!/bin/sh
# Trains on a random base of 970 million parameters (TinyLlama's layers, bf16, 1.9 GB) that stays in its files, and holds
# the run to 2 GB of resident memory. Usage: benches/stream.sh FOLDER [RANKINE]; the model is kept in FOLDER.
set -eu
place=$1
rankine=$(realpath "${2:-target/release/rankine}")
mkdir -p "$place"
cd "$place"

cat > config.json <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 2048,
 "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
 "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 32000,
 "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
JSON
cat > recipe.yaml <<'YAML'
base_model: model
lora: {r: 16, alpha: 32}
datasets: [{path: records.jsonl}]
max_seq_len: 512
max_steps: 2
micro_batch_size: 4
gradient_accumulation_steps: 1
gradient_checkpointing: block
base_residency: stream
output_dir: run
YAML
if [ ! -f records.jsonl ]; then
    i=0
    while [ $i -lt 64 ]; do
        printf '{"prompt": "Count from %d:", "completion": "' $i
        seq -s ' ' $i $((i + 90)) | tr -d '\n'
        printf '"}\n'
        i=$((i + 1))
    done > records.jsonl
fi
[ -d model ] || "$rankine" init config.json --out model --train-tokenizer records.jsonl --dtype bf16

before=$(sha256sum model/*.safetensors)
"$rankine" plan recipe.yaml | grep -A 3 '^memory'
"$rankine" train recipe.yaml --overwrite
[ "$before" = "$(sha256sum model/*.safetensors)" ] || { echo "the base has changed" >&2; exit 1; }
peak=$(grep -o '"peak_memory_bytes":[0-9]*' run/metrics.jsonl | tail -n 1 | cut -d : -f 2)
echo "peak resident memory: $((peak / 1000000)) MB, beside weights of $(($(cat model/*.safetensors | wc -c) / 1000000)) MB"
[ "$peak" -lt 2000000000 ] || { echo "more than 2 GB" >&2; exit 1; }
