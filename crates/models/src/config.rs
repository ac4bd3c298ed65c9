//! `config.json` to the configuration of the decoder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::families;
use crate::gguf::{self, GgufError, SmallFiles};

/// What the decoder needs to know. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`, as the checkpoint spells it.
    pub model_type: String,
    /// `v`.
    pub vocab_size: usize,
    /// `d`.
    pub hidden_size: usize,
    /// `f`.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// `h`.
    pub num_attention_heads: usize,
    /// `k`.
    pub num_key_value_heads: usize,
    /// `e`.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// For each layer the latest tokens that a query sees, itself included; `None` is all of them.
    pub sliding_window: Vec<Option<usize>>,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of the attention's output.
    pub o_bias: bool,
    /// Biases of the feed-forward.
    pub mlp_bias: bool,
    /// A norm over each query and key head.
    pub qk_norm: bool,
    /// The head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Tokens that the model was made for.
    pub max_position_embeddings: usize,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
}

/// Rotary positions and how they are stretched.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies differ from the plain ones.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched to longer contexts (`modeling_rope_utils.py` in transformers).
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long waves divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Waves longer than `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Waves shorter than `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was trained on.
        original_max_position_embeddings: f64,
    },
}

impl RopeConfig {
    /// The `head_dim / 2` angular frequencies, in radians a token.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| 1.0 / (self.theta as f32).powf((2 * i) as f32 / head_dim as f32));
        match self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f32;
                let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
                plain
                    .map(|frequency| {
                        let wavelength = std::f32::consts::TAU / frequency;
                        if wavelength < original / high {
                            frequency
                        } else if wavelength > original / low {
                            frequency / factor
                        } else {
                            let smooth = (original / wavelength - low) / (high - low);
                            (1.0 - smooth) * frequency / factor + smooth * frequency
                        }
                    })
                    .collect()
            }
        }
    }
}

/// A linear layer of the model, by its path in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearModule {
    /// `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Rows of the weight.
    pub out_features: usize,
    /// Columns of the weight.
    pub in_features: usize,
}

/// A tensor that the checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl DecoderConfig {
    /// Reads `config.json` of a model folder, or what a GGUF file has in its place.
    ///
    /// # Errors
    /// A missing or broken file, or every field that is missing, of a wrong type or of an unsupported value.
    pub fn from_folder(folder: &Path) -> Result<Self, ConfigError> {
        match gguf::find(folder)? {
            Some(found) => {
                let files = SmallFiles::open(&found)?;
                Self::from_fields(files.file(), &files.config()?)
            }
            None => Self::from_file(&folder.join("config.json")),
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`Self::from_folder`].
    pub fn from_file(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        let value: Map<String, Value> =
            serde_json::from_str(&text).map_err(|source| ConfigError::NotJson { file: file.to_owned(), source })?;
        Self::from_fields(file, &value)
    }

    fn from_fields(file: &Path, map: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut fields = Fields { map, faults: Vec::new() };
        let config = families::read(&mut fields);
        match config {
            Some(config) if fields.faults.is_empty() => Ok(config),
            _ => Err(ConfigError::Unsupported { file: file.to_owned(), faults: fields.faults }),
        }
    }

    /// Every linear layer but the head, in the order of the forward pass, then the head.
    pub fn linear_modules(&self) -> Vec<LinearModule> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let layer = [
            ("self_attn.q_proj", q, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, q),
            ("mlp.gate_proj", f, d),
            ("mlp.up_proj", f, d),
            ("mlp.down_proj", d, f),
        ];
        let mut modules = Vec::with_capacity(7 * self.num_hidden_layers + 1);
        for index in 0..self.num_hidden_layers {
            modules.extend(layer.iter().map(|&(name, out_features, in_features)| LinearModule {
                path: format!("model.layers.{index}.{name}"),
                out_features,
                in_features,
            }));
        }
        modules.push(LinearModule { path: "lm_head".into(), out_features: self.vocab_size, in_features: d });
        modules
    }

    /// Every tensor of the checkpoint. A tied head has none of its own.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |name: String, shape: Vec<usize>| TensorSpec { name, shape };
        let d = self.hidden_size;
        let mut tensors = vec![spec("model.embed_tokens.weight".into(), vec![self.vocab_size, d])];
        for module in self.linear_modules() {
            if module.path == "lm_head" && self.tie_word_embeddings {
                continue;
            }
            if self.has_bias(&module.path) {
                tensors.push(spec(format!("{}.bias", module.path), vec![module.out_features]));
            }
            tensors.push(spec(format!("{}.weight", module.path), vec![module.out_features, module.in_features]));
        }
        for index in 0..self.num_hidden_layers {
            let layer = format!("model.layers.{index}");
            tensors.push(spec(format!("{layer}.input_layernorm.weight"), vec![d]));
            tensors.push(spec(format!("{layer}.post_attention_layernorm.weight"), vec![d]));
            if self.qk_norm {
                tensors.push(spec(format!("{layer}.self_attn.q_norm.weight"), vec![self.head_dim]));
                tensors.push(spec(format!("{layer}.self_attn.k_norm.weight"), vec![self.head_dim]));
            }
        }
        tensors.push(spec("model.norm.weight".into(), vec![d]));
        tensors
    }

    /// Weights of the whole model.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }

    /// Whether the linear layer at `path` has a bias.
    pub fn has_bias(&self, path: &str) -> bool {
        match path.rsplit('.').next() {
            Some("q_proj" | "k_proj" | "v_proj") => self.qkv_bias,
            Some("o_proj") => self.o_bias,
            Some("gate_proj" | "up_proj" | "down_proj") => self.mlp_bias,
            _ => false,
        }
    }
}

/// A `config.json` that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; a model folder holds config.json beside its weights", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A GGUF file whose metadata do not describe a model.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is not a JSON object.
    #[error("{}: not a JSON object: {source}", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Fields that are missing, wrong or not supported.
    #[error("{}: {}", file.display(), faults.join("; "))]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// A sentence for each field.
        faults: Vec<String>,
    },
}

/// The fields of a `config.json`, read with their faults collected.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    faults: Vec<String>,
}

impl<'a> Fields<'a> {
    /// The value of a field; `null` is absent.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the key is there, `null` included.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Notes what is wrong.
    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// A whole number above 0.
    pub(crate) fn count(&mut self, name: &str) -> usize {
        match self.value(name) {
            None => {
                self.fault(format!("`{name}` is missing: a whole number is expected"));
                1
            }
            Some(_) => self.count_or(name, 1),
        }
    }

    /// A whole number above 0, or `default` where absent.
    pub(crate) fn count_or(&mut self, name: &str, default: usize) -> usize {
        match self.value(name) {
            None => default,
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                // Far above any model, and small enough that no product of two counts overflows.
                Some(n @ 1..=0x1_0000_0000) => n,
                _ => {
                    self.fault(format!("`{name}` is {value}: a whole number above 0 is expected"));
                    1
                }
            },
        }
    }

    /// A number, or `default` where absent.
    pub(crate) fn number_or(&mut self, name: &str, default: f64) -> f64 {
        match self.value(name) {
            None => default,
            Some(value) => value.as_f64().unwrap_or_else(|| {
                self.fault(format!("`{name}` is {value}: a number is expected"));
                default
            }),
        }
    }

    /// True or false, or `default` where absent.
    pub(crate) fn flag_or(&mut self, name: &str, default: bool) -> bool {
        match self.value(name) {
            None => default,
            Some(value) => value.as_bool().unwrap_or_else(|| {
                self.fault(format!("`{name}` is {value}: true or false is expected"));
                default
            }),
        }
    }

    /// The fields of an object below `name`.
    pub(crate) fn object(&mut self, name: &str) -> Option<Fields<'a>> {
        match self.value(name) {
            None => None,
            Some(Value::Object(map)) => Some(Fields { map, faults: Vec::new() }),
            Some(value) => {
                self.fault(format!("`{name}` is {value}: an object is expected"));
                None
            }
        }
    }

    /// Takes over the faults of an object below `name`.
    pub(crate) fn absorb(&mut self, name: &str, inner: Fields<'_>) {
        self.faults.extend(inner.faults.into_iter().map(|fault| format!("in `{name}`: {fault}")));
    }
}
