//! The names of an adapter's tensors.

use std::fmt;

use thiserror::Error;

/// What every key of `adapter_model.safetensors` starts with: the two wrappers that peft puts around a model.
pub const KEY_PREFIX: &str = "base_model.model.";

/// What a tensor of an adapter is, and for which module (`model.layers.0.self_attn.q_proj`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdapterKey {
    /// `A` of a linear layer, `[r, in]`.
    LoraA {
        /// The module's path.
        module: String,
    },
    /// `B` of a linear layer, `[out, r]`.
    LoraB {
        /// The module's path.
        module: String,
    },
    /// DoRA's magnitudes, `[out]` (of an embedding `[hidden]`).
    Magnitude {
        /// The module's path.
        module: String,
    },
    /// `A` of an embedding, `[r, vocab]`.
    EmbeddingA {
        /// The module's path.
        module: String,
    },
    /// `B` of an embedding, `[hidden, r]`.
    EmbeddingB {
        /// The module's path.
        module: String,
    },
    /// The base's own weight, which peft saves beside the adapter of a head or an embedding. It takes the base's place.
    BaseLayer {
        /// The module's path.
        module: String,
    },
    /// A tensor trained in full (`modules_to_save`).
    Saved {
        /// Its name in the base, `lm_head.weight`.
        name: String,
    },
}

impl AdapterKey {
    /// Reads a key of `adapter_model.safetensors`.
    pub fn parse(key: &str) -> Result<Self, KeyFault> {
        let name = key.strip_prefix(KEY_PREFIX).ok_or_else(|| KeyFault::NoPrefix { key: key.to_owned() })?;
        Self::from_name(name).map_err(|fault| fault.prefixed())
    }

    /// Reads a key without [`KEY_PREFIX`].
    pub fn from_name(name: &str) -> Result<Self, KeyFault> {
        let unsupported = |reason| Err(KeyFault::Unsupported { key: name.to_owned(), reason });
        type Make = fn(String) -> AdapterKey;
        let endings: [(&str, Make); 7] = [
            (".lora_A.weight", |module| Self::LoraA { module }),
            (".lora_B.weight", |module| Self::LoraB { module }),
            (".lora_magnitude_vector", |module| Self::Magnitude { module }),
            // As written by peft before 0.12.
            (".lora_magnitude_vector.weight", |module| Self::Magnitude { module }),
            (".lora_embedding_A", |module| Self::EmbeddingA { module }),
            (".lora_embedding_B", |module| Self::EmbeddingB { module }),
            (".base_layer.weight", |module| Self::BaseLayer { module }),
        ];
        for (ending, make) in endings {
            match name.strip_suffix(ending) {
                Some(module) if is_path(module) => return Ok(make(module.to_owned())),
                Some(_) => return unsupported("it names no module"),
                None => {}
            }
        }
        if name.ends_with(".lora_B.bias") {
            return unsupported("biases of adapters (lora_bias) are not supported");
        }
        if name.contains("token_adapter") || name.contains("trainable_tokens") {
            return unsupported("trained single tokens (trainable_token_indices) are not supported");
        }
        if name.contains("lora_")
            || name.contains(".ia3_")
            || name.contains("base_layer")
            || name.contains("modules_to_save")
        {
            return unsupported("it belongs to no supported kind of adapter");
        }
        if !is_path(name) {
            return unsupported("it names no tensor");
        }
        Ok(Self::Saved { name: name.to_owned() })
    }

    /// The key without [`KEY_PREFIX`].
    pub fn name(&self) -> String {
        match self {
            Self::LoraA { module } => format!("{module}.lora_A.weight"),
            Self::LoraB { module } => format!("{module}.lora_B.weight"),
            Self::Magnitude { module } => format!("{module}.lora_magnitude_vector"),
            Self::EmbeddingA { module } => format!("{module}.lora_embedding_A"),
            Self::EmbeddingB { module } => format!("{module}.lora_embedding_B"),
            Self::BaseLayer { module } => format!("{module}.base_layer.weight"),
            Self::Saved { name } => name.clone(),
        }
    }

    /// The tensor of the base that this one changes or replaces.
    pub fn base_tensor(&self) -> String {
        match self {
            Self::LoraA { module }
            | Self::LoraB { module }
            | Self::Magnitude { module }
            | Self::EmbeddingA { module }
            | Self::EmbeddingB { module }
            | Self::BaseLayer { module } => format!("{module}.weight"),
            Self::Saved { name } => name.clone(),
        }
    }
}

/// The key as it stands in `adapter_model.safetensors`.
impl fmt::Display for AdapterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", self.name())
    }
}

/// Why a key is not that of an adapter's tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// Not from peft.
    #[error("`{key}` does not start with `{KEY_PREFIX}`: the file was not written in peft's format")]
    NoPrefix {
        /// The key.
        key: String,
    },
    /// A tensor of another method.
    #[error("`{key}`: {reason}")]
    Unsupported {
        /// The key.
        key: String,
        /// Why it is not read.
        reason: &'static str,
    },
}

impl KeyFault {
    fn prefixed(self) -> Self {
        match self {
            Self::Unsupported { key, reason } => Self::Unsupported { key: format!("{KEY_PREFIX}{key}"), reason },
            other @ Self::NoPrefix { .. } => other,
        }
    }
}

fn is_path(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.ends_with('.') && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_written() {
        let q = || "model.layers.0.self_attn.q_proj".to_owned();
        let embed = || "model.embed_tokens".to_owned();
        let cases = [
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", AdapterKey::LoraA { module: q() }),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", AdapterKey::LoraB { module: q() }),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                AdapterKey::Magnitude { module: q() },
            ),
            ("base_model.model.model.embed_tokens.lora_embedding_A", AdapterKey::EmbeddingA { module: embed() }),
            ("base_model.model.model.embed_tokens.lora_embedding_B", AdapterKey::EmbeddingB { module: embed() }),
            ("base_model.model.model.embed_tokens.base_layer.weight", AdapterKey::BaseLayer { module: embed() }),
            ("base_model.model.lm_head.weight", AdapterKey::Saved { name: "lm_head.weight".into() }),
        ];
        for (text, key) in cases {
            assert_eq!(AdapterKey::parse(text), Ok(key.clone()));
            assert_eq!(key.to_string(), text);
            assert_eq!(AdapterKey::from_name(&key.name()), Ok(key));
        }
        let old = AdapterKey::parse("base_model.model.x.lora_magnitude_vector.weight");
        assert_eq!(old, Ok(AdapterKey::Magnitude { module: "x".into() }));
    }

    #[test]
    fn tensors_of_other_methods_are_refused_by_name() {
        for key in [
            "model.layers.0.q_proj.lora_A.weight",
            "base_model.model.x.lora_A.default.weight",
            "base_model.model.x.lora_B.bias",
            "base_model.model.x.lora_A",
            "base_model.model.x.ia3_l",
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            "base_model.model.lora_A.weight",
            "base_model.model..lora_A.weight",
            "base_model.model.",
        ] {
            let fault = AdapterKey::parse(key).unwrap_err().to_string();
            assert!(fault.contains(&format!("`{key}`")), "{fault}");
        }
    }
}
