//! Qwen3, dense: norms over query and key heads.

use super::{common, qwen2::windows};
use crate::config::{DecoderConfig, Fields};

/// `Qwen3Config` in transformers, whose heads are 128 wide where `head_dim` is absent.
pub(super) fn read(fields: &mut Fields<'_>) -> DecoderConfig {
    let head_dim = fields.count_or("head_dim", 128);
    let attention_bias = fields.flag_or("attention_bias", false);
    let config = DecoderConfig { head_dim, ..common(fields) };
    let sliding_window = windows(fields, &config);
    DecoderConfig { qkv_bias: attention_bias, o_bias: attention_bias, qk_norm: true, sliding_window, ..config }
}
