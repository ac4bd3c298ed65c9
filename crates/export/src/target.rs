//! What can be made, and with which settings.

use std::fmt;
use std::str::FromStr;

use rankine_models::model::BaseForm;
use rankine_models::weights::{DEFAULT_MAX_SHARD_BYTES, StoredDtype, WeightFiles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is made of a base and an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The adapter alone, in peft's format, with its card and tokenizer.
    Peft,
    /// One model: base and adapter merged, in safetensors.
    Merged,
    /// A merged model for Amazon Bedrock's Custom Model Import, with what the import needs.
    Bedrock,
    /// A repository for Hugging Face Inference Endpoints.
    HfEndpoint,
    /// A folder for Amazon SageMaker's LMI containers.
    Sagemaker,
    /// An adapter that vLLM serves beside its base.
    Vllm,
    /// An adapter that mlx-lm loads.
    Mlx,
    /// One GGUF file for llama.cpp, LM Studio and others: a merged model, or the adapter.
    Gguf,
    /// A GGUF file and the Modelfile with which Ollama runs it.
    Ollama,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 9] = [
        Self::Peft,
        Self::Merged,
        Self::Bedrock,
        Self::HfEndpoint,
        Self::Sagemaker,
        Self::Vllm,
        Self::Mlx,
        Self::Gguf,
        Self::Ollama,
    ];

    /// As a recipe and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Merged => "merged",
            Self::Bedrock => "bedrock",
            Self::HfEndpoint => "hf-endpoint",
            Self::Sagemaker => "sagemaker",
            Self::Vllm => "vllm",
            Self::Mlx => "mlx",
            Self::Gguf => "gguf",
            Self::Ollama => "ollama",
        }
    }

    /// What it is, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Peft => "adapter in PEFT format",
            Self::Merged => "merged model",
            Self::Bedrock => "model for Amazon Bedrock",
            Self::HfEndpoint => "repository for Hugging Face Inference Endpoints",
            Self::Sagemaker => "folder for Amazon SageMaker",
            Self::Vllm => "adapter for vLLM",
            Self::Mlx => "adapter for mlx-lm",
            Self::Gguf => "GGUF file for llama.cpp",
            Self::Ollama => "folder for Ollama",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|target| target.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// The type of a merged model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl From<ExportDtype> for StoredDtype {
    fn from(dtype: ExportDtype) -> Self {
        match dtype {
            ExportDtype::F32 => Self::F32,
            ExportDtype::F16 => Self::F16,
            ExportDtype::Bf16 => Self::BF16,
        }
    }
}

impl From<StoredDtype> for ExportDtype {
    fn from(dtype: StoredDtype) -> Self {
        match dtype {
            StoredDtype::F32 => Self::F32,
            StoredDtype::F16 => Self::F16,
            StoredDtype::BF16 => Self::Bf16,
        }
    }
}

/// Blocks of small integers with a scale each, in place of a merged model's floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GgufQuantize {
    /// 8 bits and a scale for 32 values.
    Q8_0,
    /// 4 bits and a scale for 32 values; the head has 8.
    Q4_0,
}

impl FromStr for GgufQuantize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "q8_0" => Ok(Self::Q8_0),
            "q4_0" => Ok(Self::Q4_0),
            _ => Err("expected q8_0 or q4_0".to_owned()),
        }
    }
}

/// Which weights a platform is given that takes either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// One merged model.
    #[default]
    Merged,
    /// The adapter, which the platform loads beside its base.
    Adapter,
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "merged" => Ok(Self::Merged),
            "adapter" => Ok(Self::Adapter),
            _ => Err("expected merged or adapter".to_owned()),
        }
    }
}

/// What an adapter is merged onto that was trained on a base held in fewer bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Onto {
    /// The base as it is stored.
    #[default]
    Full,
    /// The base as it was trained against: its values rounded to those bits.
    Quantised,
}

impl FromStr for Onto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "quantised" => Ok(Self::Quantised),
            _ => Err("expected full or quantised".to_owned()),
        }
    }
}

/// What to make, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportConfig {
    /// What to make.
    pub target: Target,
    /// Type of a merged model's weights; each tensor keeps the base's where absent.
    pub dtype: Option<ExportDtype>,
    /// `gguf` and `ollama`: integers in place of the merged model's floats.
    pub quantize: Option<GgufQuantize>,
    /// Largest file of a merged model's weights, in bytes.
    pub max_shard_bytes: u64,
    /// `peft`: one rank and one scale for every module, for readers that know no more.
    pub portable: bool,
    /// `hf-endpoint`, `sagemaker` and `gguf`: which weights.
    pub weights: Weights,
    /// Which values of the base the adapter is merged onto, where that was held in fewer bits.
    pub onto: Onto,
    /// How the base was held in training, where that was in fewer bits.
    #[serde(skip)]
    pub held: Option<BaseForm>,
    /// `hf-endpoint`: a `handler.py`, for endpoints without an engine of their own.
    pub handler: bool,
    /// What the platform is to call the model; the folder's name where absent.
    pub name: Option<String>,
}

/// A setting that means nothing for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnusedSetting {
    /// As a recipe writes it.
    pub setting: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// What a folder can be read back as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A model of its own.
    Model,
    /// An adapter in peft's format.
    Adapter,
    /// An adapter in mlx-lm's format.
    MlxAdapter,
    /// An adapter in a GGUF file.
    GgufAdapter,
}

impl ExportConfig {
    /// The type of merged weights: what is asked for, else each tensor's own (`None`); no shorter float than f32 holds
    /// what was dequantised.
    pub(crate) fn merged_dtype(&self, base: &WeightFiles) -> Option<StoredDtype> {
        self.dtype.map(StoredDtype::from).or(base.is_quantised().then_some(StoredDtype::F32))
    }

    /// The target with every other setting at its default.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            dtype: None,
            quantize: None,
            max_shard_bytes: DEFAULT_MAX_SHARD_BYTES,
            portable: false,
            weights: Weights::default(),
            onto: Onto::default(),
            held: None,
            handler: false,
            name: None,
        }
    }

    /// What the folder can be read back as.
    pub fn form(&self) -> Form {
        match (self.target, self.weights) {
            (Target::Merged | Target::Bedrock | Target::Ollama, _)
            | (Target::HfEndpoint | Target::Sagemaker | Target::Gguf, Weights::Merged) => Form::Model,
            (Target::Peft | Target::Vllm, _) | (Target::HfEndpoint | Target::Sagemaker, Weights::Adapter) => {
                Form::Adapter
            }
            (Target::Mlx, _) => Form::MlxAdapter,
            (Target::Gguf, Weights::Adapter) => Form::GgufAdapter,
        }
    }

    /// Settings that were given and do nothing.
    pub fn unused(&self) -> Vec<UnusedSetting> {
        let mut unused = Vec::new();
        let mut note = |given: bool, setting, reason| {
            if given {
                unused.push(UnusedSetting { setting, reason });
            }
        };
        let takes_either = matches!(self.target, Target::HfEndpoint | Target::Sagemaker | Target::Gguf);
        note(
            self.weights == Weights::Adapter && !takes_either,
            "weights",
            "only hf-endpoint, sagemaker and gguf take either",
        );
        let gguf = matches!(self.target, Target::Gguf | Target::Ollama) && self.form() == Form::Model;
        note(self.quantize.is_some() && !gguf, "quantize", "it is for a merged model as `gguf` or `ollama`");
        note(self.dtype.is_some() && self.form() != Form::Model, "dtype", "an adapter's tensors are f32");
        note(
            self.dtype.is_some() && gguf && self.quantize.is_some(),
            "dtype",
            "`quantize` says how the weights are stored",
        );
        note(self.onto == Onto::Quantised && self.form() != Form::Model, "onto", "an adapter is merged onto nothing");
        note(self.portable && self.target != Target::Peft, "portable", "it is for the target `peft`");
        note(self.handler && self.target != Target::HfEndpoint, "handler", "it is for the target `hf-endpoint`");
        let named = matches!(
            self.target,
            Target::Bedrock | Target::Sagemaker | Target::Vllm | Target::HfEndpoint | Target::Ollama
        );
        note(self.name.is_some() && !named, "name", "the target's files name no model");
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_recipes() {
        for target in Target::ALL {
            assert_eq!(target.name().parse(), Ok(target));
            assert_eq!(serde_json::to_value(target).unwrap(), target.name());
        }
        assert!("onnx".parse::<Target>().unwrap_err().contains("hf-endpoint"));
    }

    #[test]
    fn settings_that_do_nothing_are_told() {
        let unused = |config: ExportConfig| config.unused().iter().map(|unused| unused.setting).collect::<Vec<_>>();
        let all = |target| ExportConfig {
            dtype: Some(ExportDtype::F16),
            quantize: Some(GgufQuantize::Q8_0),
            portable: true,
            weights: Weights::Adapter,
            onto: Onto::Quantised,
            handler: true,
            name: Some("x".into()),
            ..ExportConfig::new(target)
        };
        assert_eq!(unused(all(Target::Merged)), ["weights", "quantize", "portable", "handler", "name"]);
        assert_eq!(unused(all(Target::Peft)), ["weights", "quantize", "dtype", "onto", "handler", "name"]);
        assert_eq!(unused(all(Target::HfEndpoint)), ["quantize", "dtype", "onto", "portable"]);
        assert_eq!(unused(all(Target::Vllm)), ["weights", "quantize", "dtype", "onto", "portable", "handler"]);
        assert_eq!(unused(all(Target::Gguf)), ["quantize", "dtype", "onto", "portable", "handler", "name"]);
        assert_eq!(unused(all(Target::Ollama)), ["weights", "dtype", "portable", "handler"]);
        assert!(Target::ALL.into_iter().all(|target| ExportConfig::new(target).unused().is_empty()));
    }
}
