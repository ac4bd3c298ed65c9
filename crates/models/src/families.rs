//! One small file a model family: from `config.json` to the decoder's configuration.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use serde_json::Value;

use crate::config::{DecoderConfig, Fields, RopeConfig, RopeScaling};

/// The families that the decoder serves, by `model_type`.
pub const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Reads the family that `model_type` names. Faults are left in `fields`.
pub(crate) fn read(fields: &mut Fields<'_>) -> Option<DecoderConfig> {
    let config = match fields.value("model_type").and_then(Value::as_str) {
        Some("llama") => llama::read(fields),
        Some("mistral") => mistral::read(fields),
        Some("qwen2") => qwen2::read(fields),
        Some("qwen3") => qwen3::read(fields),
        other => {
            let found = other.map_or("missing".to_owned(), |name| format!("`{name}`, which is not supported"));
            fields.fault(format!("`model_type` is {found}: one of {} is expected", FAMILIES.join(", ")));
            return None;
        }
    };
    refuse_unsupported(fields);
    Some(config)
}

/// What all families share; each then says what is its own.
fn common(fields: &mut Fields<'_>) -> DecoderConfig {
    let hidden_size = fields.count("hidden_size");
    let num_hidden_layers = fields.count("num_hidden_layers");
    let num_attention_heads = fields.count("num_attention_heads");
    let num_key_value_heads = fields.count_or("num_key_value_heads", num_attention_heads);
    let head_dim = fields.count_or("head_dim", (hidden_size / num_attention_heads).max(1));
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        fields.fault(format!(
            "`num_attention_heads` is {num_attention_heads}: a multiple of `num_key_value_heads` \
             ({num_key_value_heads}) is expected"
        ));
    }
    if head_dim % 2 == 1 {
        fields.fault(format!("`head_dim` is {head_dim}: an even number is expected, for rotary positions"));
    }
    DecoderConfig {
        model_type: fields.value("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
        vocab_size: fields.count("vocab_size"),
        hidden_size,
        intermediate_size: fields.count("intermediate_size"),
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6),
        rope: rope(fields),
        sliding_window: vec![None; num_hidden_layers.min(0xffff)],
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", false),
        max_position_embeddings: fields.count_or("max_position_embeddings", 2048),
        initializer_range: fields.number_or("initializer_range", 0.02),
    }
}

/// `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of transformers 4.
fn rope(fields: &mut Fields<'_>) -> RopeConfig {
    let name = if fields.value("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let top_theta = fields.number_or("rope_theta", 10_000.0);
    let Some(mut inner) = fields.object(name) else {
        return RopeConfig { theta: top_theta, scaling: RopeScaling::Default };
    };
    let theta = inner.number_or("rope_theta", top_theta);
    let kind = inner.value("rope_type").or_else(|| inner.value("type"));
    let scaling = match kind.map(|kind| kind.as_str().unwrap_or("")) {
        None if inner.value("factor").is_none() => RopeScaling::Default,
        Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: positive(&mut inner, "factor") },
        Some("llama3") => RopeScaling::Llama3 {
            factor: positive(&mut inner, "factor"),
            low_freq_factor: positive(&mut inner, "low_freq_factor"),
            high_freq_factor: positive(&mut inner, "high_freq_factor"),
            original_max_position_embeddings: positive(&mut inner, "original_max_position_embeddings"),
        },
        found => {
            let found = found.map_or("missing".to_owned(), |found| format!("`{found}`, which is not supported"));
            inner.fault(format!("`rope_type` is {found}: one of default, linear, llama3 is expected"));
            RopeScaling::Default
        }
    };
    if inner.value("partial_rotary_factor").is_some_and(|value| value.as_f64() != Some(1.0)) {
        inner.fault("`partial_rotary_factor` other than 1 is not supported".into());
    }
    fields.absorb(name, inner);
    RopeConfig { theta, scaling }
}

fn positive(fields: &mut Fields<'_>, name: &str) -> f64 {
    if fields.value(name).is_none() {
        fields.fault(format!("`{name}` is missing: a number above 0 is expected"));
        return 1.0;
    }
    let value = fields.number_or(name, 1.0);
    if value <= 0.0 {
        fields.fault(format!("`{name}` is {value}: a number above 0 is expected"));
        return 1.0;
    }
    value
}

/// `layer_types` of transformers 5 where given; else layers from `first` on use the window.
fn sliding_window(fields: &mut Fields<'_>, layers: usize, window: Option<usize>, first: usize) -> Vec<Option<usize>> {
    let Some(value) = fields.value("layer_types") else {
        return (0..layers).map(|layer| window.filter(|_| layer >= first)).collect();
    };
    let kinds = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if kinds.len() != layers {
        fields.fault(format!("`layer_types` has {} entries: one for each of {layers} layers is expected", kinds.len()));
    }
    let mut windows = Vec::with_capacity(kinds.len());
    for kind in kinds {
        match kind.as_str() {
            Some("full_attention") => windows.push(None),
            Some("sliding_attention") => windows.push(window),
            _ => {
                fields.fault(format!(
                    "`layer_types` holds {kind}, which is not supported: full_attention or sliding_attention is expected"
                ));
                break;
            }
        }
    }
    windows.resize(layers.min(0xffff), None);
    windows
}

/// Fields that would change the arithmetic if they were passed over.
fn refuse_unsupported(fields: &mut Fields<'_>) {
    if let Some(value) = fields.value("hidden_act")
        && value != "silu"
    {
        fields.fault(format!("`hidden_act` is {value}, which is not supported: silu is expected"));
    }
    if fields.value("quantization_config").is_some() {
        fields.fault(
            "`quantization_config`: an already quantised base is not supported; use the unquantised model".into(),
        );
    }
    if fields.value("attention_dropout").and_then(Value::as_f64).is_some_and(|share| share > 0.0) {
        fields.fault("`attention_dropout` above 0 is not supported".into());
    }
    if fields.value("partial_rotary_factor").and_then(Value::as_f64).is_some_and(|factor| factor != 1.0) {
        fields.fault("`partial_rotary_factor` other than 1 is not supported".into());
    }
    if let Some(value) = fields.value("num_experts").or_else(|| fields.value("num_local_experts")) {
        fields.fault(format!("a mixture of {value} experts is not supported"));
    }
}
