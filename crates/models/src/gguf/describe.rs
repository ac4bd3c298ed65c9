//! A model's shape as metadata: what `convert_hf_to_gguf.py` of llama.cpp writes for it. `config.rs` reads it back.

use super::write::{GgufMetadata, GgufValue};
use crate::config::{DecoderConfig, RopeConfig, RopeScaling};

/// The keys of the model's architecture, `general.architecture` first; or everything about it that llama.cpp would
/// compute in another way.
pub fn describe(config: &DecoderConfig) -> Result<GgufMetadata, Vec<String>> {
    let mut faults = Vec::new();
    // Mistral goes by llama's name.
    let architecture = match config.model_type.as_str() {
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        _ => "llama",
    };
    let mut metadata = vec![("general.architecture".to_owned(), GgufValue::Text(architecture.to_owned()))];
    let mut put = |key: &str, value: GgufValue| metadata.push((format!("{architecture}.{key}"), value));
    let mut number = |name: &str, value: usize| {
        GgufValue::U32(u32::try_from(value).unwrap_or_else(|_| {
            faults.push(format!("`{name}` is {value}, which is beyond what GGUF files hold"));
            0
        }))
    };
    put("block_count", number("num_hidden_layers", config.num_hidden_layers));
    put("context_length", number("max_position_embeddings", config.max_position_embeddings));
    put("embedding_length", number("hidden_size", config.hidden_size));
    put("feed_forward_length", number("intermediate_size", config.intermediate_size));
    put("attention.head_count", number("num_attention_heads", config.num_attention_heads));
    put("attention.head_count_kv", number("num_key_value_heads", config.num_key_value_heads));
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        put("rope.scaling.type", GgufValue::Text("linear".to_owned()));
        put("rope.scaling.factor", GgufValue::F32(factor as f32));
    }
    put("rope.freq_base", GgufValue::F32(config.rope.theta as f32));
    put("attention.layer_norm_rms_epsilon", GgufValue::F32(config.rms_norm_eps as f32));
    let head_dim = number("head_dim", config.head_dim);
    put("attention.key_length", head_dim.clone());
    put("attention.value_length", head_dim.clone());
    if architecture == "llama" {
        put("vocab_size", number("vocab_size", config.vocab_size));
        put("rope.dimension_count", head_dim);
    }
    match (window(config), architecture) {
        (Ok(None), _) => {}
        // Read by us alone: llama.cpp attends to everything, which is the same up to this many tokens.
        (Ok(Some(window)), "llama") => put("attention.sliding_window", number("sliding_window", window)),
        (Ok(Some(window)), other) => {
            faults.push(format!("a window of {window} tokens: llama.cpp's {other} has none"));
        }
        (Err(()), _) => faults.push("layers with and without a window: llama.cpp's models have one rule".to_owned()),
    }
    if config.o_bias && architecture != "llama" || config.qkv_bias && architecture == "qwen3" {
        faults.push(format!("biases in the attention that llama.cpp's {architecture} does not have"));
    }
    if faults.is_empty() { Ok(metadata) } else { Err(faults) }
}

/// The window of every layer.
fn window(config: &DecoderConfig) -> Result<Option<usize>, ()> {
    let mut windows = config.sliding_window.iter().copied();
    let first = windows.next().flatten();
    if windows.all(|window| window == first) { Ok(first) } else { Err(()) }
}

/// The divisors of the rotary frequencies, for the scaling that GGUF says only so: `generate_extra_tensors` of
/// `convert_hf_to_gguf.py`. They are the tensor `rope_freqs.weight`.
pub fn rope_factors(config: &DecoderConfig) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        config.rope.scaling
    else {
        return None;
    };
    let plain = RopeConfig { theta: config.rope.theta, scaling: RopeScaling::Default };
    let context = original_max_position_embeddings;
    let divisor = |frequency: f32| {
        let wavelength = std::f64::consts::TAU / f64::from(frequency);
        if wavelength < context / high_freq_factor {
            1.0
        } else if wavelength > context / low_freq_factor {
            factor
        } else {
            let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some(plain.frequencies(config.head_dim).into_iter().map(|frequency| divisor(frequency) as f32).collect())
}
