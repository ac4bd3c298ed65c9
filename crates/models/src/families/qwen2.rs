//! Qwen2 and Qwen2.5: biases on q, k and v.

use super::{common, sliding_window};
use crate::config::{DecoderConfig, Fields};

/// `Qwen2Config` in transformers.
pub(super) fn read(fields: &mut Fields<'_>) -> DecoderConfig {
    let config = common(fields);
    DecoderConfig { qkv_bias: true, sliding_window: windows(fields, &config), ..config }
}

/// Qwen's window: off unless `use_sliding_window`, and then from layer `max_window_layers` on.
pub(super) fn windows(fields: &mut Fields<'_>, config: &DecoderConfig) -> Vec<Option<usize>> {
    let used = fields.flag_or("use_sliding_window", false);
    let window = used.then(|| fields.count_or("sliding_window", 4096));
    let first = fields.value("max_window_layers").and_then(serde_json::Value::as_u64).unwrap_or(28);
    sliding_window(fields, config.num_hidden_layers.min(0xffff), window, first as usize)
}
