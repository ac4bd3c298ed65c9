//! Mistral 7B and its descendants: a sliding window in every layer.

use super::{common, sliding_window};
use crate::config::{DecoderConfig, Fields};

/// `MistralConfig` in transformers, whose window is 4096 where the key is absent and none where it is null.
pub(super) fn read(fields: &mut Fields<'_>) -> DecoderConfig {
    let window = match fields.has("sliding_window") {
        true => fields.value("sliding_window").is_some().then(|| fields.count("sliding_window")),
        false => Some(4096),
    };
    let config = common(fields);
    let sliding_window = sliding_window(fields, config.num_hidden_layers.min(0xffff), window, 0);
    DecoderConfig { sliding_window, ..config }
}
