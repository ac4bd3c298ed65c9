//! The metadata's `config.json`, as the model had it before it was converted.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::ggml_type::GgmlType;
use super::header::Header;
use super::metadata::{Keys, Value};
use super::tensors::ROPE_FACTORS;
use crate::config::{RopeConfig, RopeScaling};
use crate::weights::StoredDtype;

/// The architectures that are read, by `general.architecture`.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// The values of [`ROPE_FACTORS`], where the file has them.
pub(super) struct RopeFactors<'a>(pub(super) Option<&'a [f32]>);

/// The fields of `config.json`; `factors` are the file's long-context factors. Or everything that is wrong.
pub(super) fn config(header: &Header, factors: &RopeFactors<'_>) -> Result<Map<String, Json>, Vec<String>> {
    let mut keys = Keys::new(&header.metadata);
    keys.missing("general.architecture", "llama, qwen2 or qwen3");
    let architecture = keys.text("general.architecture").unwrap_or_default();
    if !ARCHITECTURES.contains(&architecture) {
        if !architecture.is_empty() {
            keys.fault(format!(
                "`general.architecture` is `{architecture}`, which is not supported: one of {} is expected",
                ARCHITECTURES.join(", ")
            ));
        }
        return Err(keys.faults);
    }
    let key = |name: &str| format!("{architecture}.{name}");
    let mut config = Map::new();
    let window = keys.number(&key("attention.sliding_window")).filter(|_| architecture == "llama");
    // Mistral goes by llama's name; only its window tells.
    let model_type = if window.is_some() { "mistral" } else { architecture };
    let class = match model_type {
        "mistral" => "MistralForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    config.insert("architectures".into(), json!([class]));
    config.insert("model_type".into(), model_type.into());
    let mut put = |name: &str, value: Option<u64>| value.map(|value| config.insert(name.into(), value.into()));
    let hidden = keys.needed_number(&key("embedding_length"));
    let heads = keys.needed_number(&key("attention.head_count"));
    let groups = one_of_layers(&mut keys, &key("attention.head_count_kv")).or(heads);
    put("hidden_size", hidden);
    put("intermediate_size", {
        keys.missing(&key("feed_forward_length"), "a whole number");
        one_of_layers(&mut keys, &key("feed_forward_length"))
    });
    put("num_hidden_layers", keys.needed_number(&key("block_count")));
    put("num_attention_heads", heads);
    put("num_key_value_heads", groups);
    let head_dim = keys.number(&key("attention.key_length")).or_else(|| hidden?.checked_div(heads?));
    put("head_dim", head_dim);
    put("vocab_size", vocabulary(header, &mut keys, architecture));
    put("max_position_embeddings", keys.number(&key("context_length")));
    put("sliding_window", window);
    refuse(&mut keys, architecture, head_dim);

    if let Some(eps) = keys.float(&key("attention.layer_norm_rms_epsilon")) {
        config.insert("rms_norm_eps".into(), eps.into());
    } else {
        keys.missing(&key("attention.layer_norm_rms_epsilon"), "a number");
    }
    let theta = keys.float(&key("rope.freq_base")).unwrap_or(10_000.0);
    config.insert("rope_theta".into(), theta.into());
    if let Some(scaling) = rope_scaling(&mut keys, architecture, head_dim, theta, factors) {
        config.insert("rope_scaling".into(), scaling);
    }
    let has = |name: &str| header.tensors.iter().any(|tensor| tensor.name == name);
    config.insert("hidden_act".into(), "silu".into());
    config.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
    if matches!(model_type, "llama" | "qwen3") {
        config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
    }
    if model_type == "llama" {
        config.insert("mlp_bias".into(), has("blk.0.ffn_gate.bias").into());
    }
    for (name, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = keys.number(key) {
            config.insert(name.into(), id.into());
        }
    }
    config.insert("torch_dtype".into(), usual_dtype(header).torch_name().into());
    if keys.faults.is_empty() { Ok(config) } else { Err(keys.faults) }
}

/// The float type of most values.
fn usual_dtype(header: &Header) -> StoredDtype {
    let mut values: HashMap<StoredDtype, u64> = HashMap::new();
    for tensor in &header.tensors {
        if let Ok(kind) = GgmlType::from_code(tensor.code) {
            let count = tensor.shape.iter().fold(1_u64, |product, d| product.saturating_mul(*d));
            let sum = values.entry(kind.float()).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    values.into_iter().max_by_key(|(_, count)| *count).map_or(StoredDtype::F32, |(dtype, _)| dtype)
}

/// A number, or a list of the same number for each layer.
fn one_of_layers(keys: &mut Keys<'_>, key: &str) -> Option<u64> {
    let Some(Value::Array(_)) = keys.value(key) else { return keys.number(key) };
    let list = keys.list(key, "a whole number", Value::as_u64)?;
    let first = *list.first()?;
    if list.iter().any(|other| *other != first) {
        keys.fault(format!("`{key}` differs from layer to layer, which is not supported"));
    }
    Some(first)
}

/// Rows of the embedding table, which may be more than the tokens.
fn vocabulary(header: &Header, keys: &mut Keys<'_>, architecture: &str) -> Option<u64> {
    let table = header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let rows = table.and_then(|tensor| tensor.shape.first().copied());
    let stated = keys.number(&format!("{architecture}.vocab_size"));
    let tokens = keys.array("tokenizer.ggml.tokens").map(|tokens| tokens.len() as u64);
    let vocabulary = rows.or(stated).or(tokens);
    if vocabulary.is_none() {
        keys.fault("the size of the vocabulary is missing: there is no `token_embd.weight`".to_owned());
    }
    vocabulary
}

/// What would change the arithmetic if it were passed over.
fn refuse(keys: &mut Keys<'_>, architecture: &str, head_dim: Option<u64>) {
    let key = |name: &str| format!("{architecture}.{name}");
    if let Some(experts) = keys.number(&key("expert_count")).filter(|experts| *experts > 0) {
        keys.fault(format!("a mixture of {experts} experts is not supported"));
    }
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = keys.number(&key(name)).filter(|width| Some(*width) != head_dim) {
            let head_dim = head_dim.map_or("unknown".to_owned(), |width| width.to_string());
            keys.fault(format!(
                "`{}` is {width}, and the width of a head is {head_dim}: they must be the same",
                key(name)
            ));
        }
    }
    if keys.flag(&key("attention.causal")) == Some(false) {
        keys.fault(format!("`{}` is false: only causal models are supported", key("attention.causal")));
    }
    for name in ["attention.scale", "attention.clamp_kqv", "embedding_scale", "residual_scale", "logit_scale"] {
        if let Some(value) = keys.value(&key(name)).filter(|value| value.as_f64() != Some(0.0)) {
            keys.fault(format!("`{}` is {value}, which is not supported", key(name)));
        }
    }
    for name in ["attention.head_count", "block_count", "embedding_length"] {
        if keys.value(&key(name)).and_then(Value::as_u64) == Some(0) {
            keys.fault(format!("`{}` is 0: a number above 0 is expected", key(name)));
        }
    }
}

fn rope_scaling(
    keys: &mut Keys<'_>,
    architecture: &str,
    head_dim: Option<u64>,
    theta: f64,
    factors: &RopeFactors<'_>,
) -> Option<Json> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    if let Some(factors) = factors.0 {
        return llama3(keys, &key("scaling.original_context_length"), head_dim?, theta, factors);
    }
    // Files of before 2024 have the divisor alone.
    let old = keys.float(&key("scale_linear"));
    let factor = keys.float(&key("scaling.factor")).or(old).filter(|factor| *factor > 0.0);
    let linear = |factor: f64| (factor != 1.0).then(|| json!({"rope_type": "linear", "factor": factor}));
    match keys.text(&key("scaling.type")) {
        Some("none") => None,
        // A factor alone means this one.
        None => factor.and_then(linear),
        Some("linear") => {
            if factor.is_none() {
                keys.fault(format!("`{}` is missing: a number above 0 is expected", key("scaling.factor")));
            }
            factor.and_then(linear)
        }
        Some(other) => {
            let key = key("scaling.type");
            keys.fault(format!("`{key}` is `{other}`, which is not supported: none or linear is expected"));
            None
        }
    }
}

/// The `rope_scaling` that the factors were computed from. The file has what became of it: the divisor of each
/// frequency (`generate_extra_tensors` of llama.cpp's `convert_hf_to_gguf.py`).
fn llama3(keys: &mut Keys<'_>, original_key: &str, head_dim: u64, theta: f64, factors: &[f32]) -> Option<Json> {
    let stated = keys.float(original_key);
    let largest = factors.iter().copied().fold(1.0_f32, f32::max);
    if factors.len() as u64 != head_dim / 2 || factors.iter().any(|factor| !factor.is_finite() || *factor < 1.0) {
        keys.fault(format!(
            "`{ROPE_FACTORS}` has {} values that are no divisors of {} frequencies",
            factors.len(),
            head_dim / 2
        ));
        return None;
    }
    if largest == 1.0 {
        return None;
    }
    let plain = RopeConfig { theta, scaling: RopeScaling::Default }.frequencies(head_dim as usize);
    // Every published model of this kind has these two, and most have this context.
    let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
    let powers = (4..=20).map(|exponent| f64::from(1 << exponent));
    for original in stated.into_iter().chain([8192.0]).chain(powers) {
        let scaling = RopeScaling::Llama3 {
            factor: f64::from(largest),
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        };
        let scaled = RopeConfig { theta, scaling }.frequencies(head_dim as usize);
        let same = |((plain, scaled), factor): ((&f32, &f32), &f32)| (plain / scaled - factor).abs() <= 1e-4 * factor;
        if plain.iter().zip(&scaled).zip(factors).all(same) {
            return Some(json!({
                "rope_type": "llama3",
                "factor": f64::from(largest),
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                // A whole number in every config.json.
                "original_max_position_embeddings": original as u64,
            }));
        }
    }
    keys.fault(format!(
        "`{ROPE_FACTORS}` does not follow Llama 3.1's rule with the factors 1 and 4 and a context that is a power of two: \
         take the model as safetensors"
    ));
    None
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
