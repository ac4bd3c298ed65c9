//! What a person writes to ask for a run.
//!
//! A recipe is what was typed: keys that were left out are `None` here. What will run, with every default decided, is
//! a [`Plan`](crate::plan::Plan). The doc comments of this file are the reference: they become the JSON schema that
//! editors show and the table of the README.

mod check;
mod hints;
mod parse;
mod schema;
mod set;
mod yaml;

use std::num::NonZeroUsize;

use rankine_data::proof::Check;
use rankine_data::{DatasetConfig, TrainOn, ValSize};
use rankine_export::{GgufQuantize, Onto, Target, Weights};
use rankine_nn::lora::{AdapterKind, LoraConfig};
use rankine_ops::{Compute, QuantFormat};
use rankine_train::config::{LrScheduler, OptimizerKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::defaults;

pub use check::Places;
pub use parse::{RecipeFile, parse, read};
pub use schema::{json_schema, markdown};

/// A recipe for `rankine train`.
///
/// Paths of files that are read are looked up in the recipe's folder, then in the working directory. `output_dir` and
/// what is exported are written under the working directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model to start from: a folder with `config.json`, `tokenizer.json` and safetensors, a `.gguf` file, or its
    /// name on the Hugging Face Hub (`org/model`, `org/model@revision`).
    pub base_model: String,
    /// Branch, tag or commit of a `base_model` on the Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "main"))]
    pub revision: Option<String>,
    /// What is trained: a LoRA adapter, a DoRA adapter, or the whole model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "lora"))]
    pub adapter: Option<AdapterKind>,
    /// Shape and place of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Go on from this adapter (a folder in PEFT format) instead of a new one; its shape is the adapter's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_path: Option<String>,

    /// What to train on.
    #[schemars(length(min = 1))]
    pub datasets: Vec<DatasetConfig>,
    /// Take a part of the training records for validation: a share below 1 (`0.05`) or a number of records (`200`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_size: Option<ValSize>,
    /// Validate on these records instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_datasets: Option<Vec<DatasetConfig>>,
    /// Longest sequence in tokens; longer records are cut. Default: what the model was made for, at most 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub max_seq_len: Option<usize>,
    /// Fill each sequence with several records. They do not see each other, and the result is the same as unpacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::PACKING))]
    pub packing: Option<bool>,
    /// Which tokens are trained on: the assistant's answers or the completion, everything, or the last answer. Text
    /// records are trained on whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "assistant"))]
    pub train_on: Option<TrainOn>,
    /// A Jinja chat template instead of the model's own: a file, the template itself, or `chatml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Checks of the data that may fail; `rankine data` names them, and any other that fails stops the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waive: Option<Vec<Check>>,
    /// Share of the records that may lose a part of their answer at `max_seq_len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1), extend("default" = defaults::MAX_TRUNCATED_SHARE))]
    pub max_truncated_share: Option<f64>,
    /// A new order each epoch, from `seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::SHUFFLE))]
    pub shuffle: Option<bool>,
    /// Train while the data is read, without a pass over it first; needs `max_steps`. Records are shuffled,
    /// packed and checked within blocks of `shuffle_buffer`, so that what a check refuses is only found when its turn
    /// comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::STREAMING))]
    pub streaming: Option<bool>,
    /// Records of a stream that are in memory, shuffled and packed together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("default" = defaults::SHUFFLE_BUFFER))]
    pub shuffle_buffer: Option<usize>,

    /// How often each record is seen; may be a fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::EPOCHS))]
    pub epochs: Option<f64>,
    /// Stop after this many optimizer steps; wins over `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// Sequences in one forward and backward pass. `auto`: a step has as many sequences as with the default, in passes
    /// as large as the memory that is free allows; a resumed run keeps what was chosen. On the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::MICRO_BATCH_SIZE))]
    pub micro_batch_size: Option<MicroBatchSize>,
    /// Passes whose gradients make one optimizer step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("default" = defaults::GRADIENT_ACCUMULATION_STEPS))]
    pub gradient_accumulation_steps: Option<usize>,

    /// Peak learning rate. Default: 2e-4 for an adapter, 2e-5 for `adapter: full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The learning rate's course after warm-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "cosine"))]
    pub lr_scheduler: Option<LrScheduler>,
    /// Share of all steps in which the learning rate rises from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::WARMUP_RATIO))]
    pub warmup_ratio: Option<f64>,
    /// The same as a number of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// The update rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "adamw"))]
    pub optimizer: Option<OptimizerKind>,
    /// Decay of the optimizer's two moments. Default: `[0.9, 0.999]`; `[0.9, 0.99]` for `lion`. The first is the
    /// momentum of `sgd`; `adafactor` has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Keeps `adamw` from dividing by 0. Default: 1e-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Decoupled weight decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::WEIGHT_DECAY))]
    pub weight_decay: Option<f64>,
    /// Gradients are scaled down to this norm, taken over all of them together; 0 leaves them as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::MAX_GRAD_NORM))]
    pub max_grad_norm: Option<f64>,
    /// LoRA+: the adapter's `B` matrices learn at this multiple of `learning_rate` (16 in the paper).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// NEFTune: noise on the embeddings in training (5 in the paper).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neftune_alpha: Option<f64>,

    /// Type of the base model's weights in memory; what is trained is always f32. `auto` is the checkpoint's own type,
    /// and f32 where a GPU cannot calculate with that. The CPU calculates in f32 whatever the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub dtype: Option<Dtype>,
    /// How the CPU multiplies with the frozen base: in `f32`; in `bf16` where the processor has AMX; or in block fixed
    /// point, `int16` (closer to f32 than bf16 is) or `int8`. Where the processor has something both closer and faster
    /// than what is asked for, it computes that, and says so (with AMX two bf16 a value for `int16`, one for `int8`);
    /// what rounding does to the loss is measured and printed at the start. Beside products in bf16 an adapter's are two
    /// bf16 a value; all other arithmetic is f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "f32"))]
    pub base_compute: Option<BaseCompute>,
    /// Hold the base's linear layers in fewer bits (QLoRA): `nf4` (bitsandbytes' 4-bit quantiles with double-quantised
    /// scales, 4.1 bits a weight), `int4` (symmetric, blocks of 64, 4.5 bits) or `int8` (symmetric, by row, 8 bits).
    /// Embeddings, norms and the head stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// Where the base's linear layers are: in `memory`, or left in their files and read there one layer ahead
    /// (`stream`), so that a base larger than memory can be trained on; `auto` streams where the memory that is free
    /// would not do. The numbers are the same to the bit. On the CPU, for weights that are used as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub base_residency: Option<BaseResidency>,
    /// Compute activations again in the backward pass instead of keeping them: `none`, `block` (every decoder layer but
    /// the last), `auto` (`block` where the memory that is free would not do) or `every N` (one layer of each N). The
    /// numbers stay the same to the bit. On the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "none"))]
    pub gradient_checkpointing: Option<String>,
    /// Where it runs: `auto`, `cpu`, `cuda`, `rocm`, `vulkan`, `metal` or `wgpu`; a second GPU is `cuda:1`. `auto` is the
    /// first GPU that this build was made for and the machine has, else the CPU; `rankine devices` lists them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub device: Option<String>,
    /// Decides every random choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::SEED))]
    pub seed: Option<u64>,

    /// Optimizer steps between evaluations. Default: once an epoch, where there is validation data.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub eval_steps: Option<usize>,
    /// Optimizer steps between checkpoints. Default: at each evaluation, else once an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub save_steps: Option<usize>,
    /// Checkpoints that are kept; the best one is kept besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("default" = defaults::SAVE_TOTAL_LIMIT))]
    pub save_total_limit: Option<usize>,
    /// Stop after this many evaluations without a lower validation loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub early_stopping_patience: Option<usize>,
    /// End with the checkpoint of the lowest validation loss instead of the last. Default: true with
    /// `early_stopping_patience`, else false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_best: Option<bool>,
    /// Prompts that the model answers at each evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_prompts: Option<Vec<String>>,

    /// Folder of the run: metrics, checkpoints, the adapter. Default: `runs/` and the recipe's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_dir: Option<String>,
    /// Go on from the newest whole checkpoint in `output_dir`, as `--resume` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = defaults::RESUME))]
    pub resume: Option<bool>,
    /// What is made from the trained adapter besides `output_dir/adapter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<Vec<ExportConfig>>,
}

/// One thing that is made from the trained adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// What to make.
    pub target: Target,
    /// Type of a merged model's weights; `auto` is the base model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub dtype: Option<Dtype>,
    /// Folder to write. Default: the target's name in `output_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// `gguf` and `ollama`: integers of that many bits in place of the merged model's floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<GgufQuantize>,
    /// `peft`: one rank and one scale for every module, for readers that know no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub portable: Option<bool>,
    /// `hf-endpoint`, `sagemaker` and `gguf`: one merged model, or the adapter for the platform to load beside its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "merged"))]
    pub weights: Option<Weights>,
    /// With `quantize`: what the adapter is merged onto, the base as it is stored (`full`) or rounded as it was trained
    /// against (`quantised`). The difference is measured and told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "full"))]
    pub onto: Option<Onto>,
    /// `hf-endpoint`: a `handler.py` for endpoints without an engine of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub handler: Option<bool>,
    /// What the platform is to call the model. Default: the name of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Sequences in one forward and backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum MicroBatchSize {
    /// So many.
    Sequences(NonZeroUsize),
    /// As many as fit.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Decided by the memory that is free.
    Auto,
}

/// Where the base's linear layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BaseResidency {
    /// In memory, and in their files where they would not fit.
    #[default]
    Auto,
    /// In memory.
    Memory,
    /// In their files.
    Stream,
}

/// How products with the frozen base are computed on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BaseCompute {
    /// 32-bit floats.
    #[default]
    F32,
    /// Products of bf16, summed in 32-bit floats.
    Bf16,
    /// Blocks of 16-bit integers.
    Int16,
    /// Blocks of 8-bit integers.
    Int8,
}

impl BaseCompute {
    /// As a recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int16 => "int16",
            Self::Int8 => "int8",
        }
    }
}

impl From<BaseCompute> for Compute {
    fn from(compute: BaseCompute) -> Self {
        match compute {
            BaseCompute::F32 => Self::F32,
            BaseCompute::Bf16 => Self::Bf16,
            BaseCompute::Int16 => Self::Int16,
            BaseCompute::Int8 => Self::Int8,
        }
    }
}

/// How the base's linear layers are held in fewer bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    /// 4 bits at the quantiles of a normal distribution.
    Nf4,
    /// 4 bits, evenly spaced.
    Int4,
    /// 8 bits, evenly spaced.
    Int8,
}

impl Quantize {
    /// As a recipe writes it.
    pub fn name(self) -> &'static str {
        QuantFormat::from(self).name()
    }
}

impl From<Quantize> for QuantFormat {
    fn from(quantize: Quantize) -> Self {
        match quantize {
            Quantize::Nf4 => Self::Nf4,
            Quantize::Int4 => Self::Int4,
            Quantize::Int8 => Self::Int8,
        }
    }
}

/// A type of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Decided by what it is for.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats.
    Bf16,
    /// 16-bit IEEE floats.
    F16,
}
