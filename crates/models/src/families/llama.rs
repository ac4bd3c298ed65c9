//! Llama 1 to 3.3, SmolLM2 and whatever else says `"model_type": "llama"`.

use super::common;
use crate::config::{DecoderConfig, Fields};

/// `LlamaConfig` in transformers.
pub(super) fn read(fields: &mut Fields<'_>) -> DecoderConfig {
    let attention_bias = fields.flag_or("attention_bias", false);
    let mlp_bias = fields.flag_or("mlp_bias", false);
    DecoderConfig { qkv_bias: attention_bias, o_bias: attention_bias, mlp_bias, ..common(fields) }
}
