//! Arguments of commands that run a model.

use std::path::PathBuf;

use clap::Args;

use crate::recipe::{BaseCompute, Dtype, Quantize};

/// A model to run.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A model folder, or the name of a model on the Hugging Face Hub (`org/name`, `org/name@revision`).
    pub model: String,
    /// An adapter in PEFT format.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Type of the base model's weights in memory.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// How the CPU multiplies with the frozen base
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    pub base_compute: BaseCompute,
    /// Hold the base's linear layers in fewer bits.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub quantize: Option<Quantize>,
    /// Where to run: auto, cpu, cuda, cuda:1, rocm, vulkan, metal or wgpu; `rankine devices` lists them.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// How the next token is chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub max_new_tokens: usize,
    /// 0 always takes the likeliest token; higher is more varied.
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    pub temperature: f64,
    /// Choose among the K likeliest tokens.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have probability P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Leave out tokens below P times the likeliest one's probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Make tokens that were already there less likely (1 does nothing).
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f64>,
    /// End before this text. May be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Decides the random choices.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to go on from, given to the model as it is.
    #[arg(long, value_name = "TEXT", required_unless_present = "messages", conflicts_with = "messages")]
    pub prompt: Option<String>,
    /// A JSON file with a list of chat messages, or an object with `messages` and `tools`; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Print one JSON object at the end instead of text as it comes.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The system message.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The dataset: a file, a folder or a pattern.
    #[arg(long, value_name = "FILE")]
    pub data: String,
    /// Format of the records; recognised if not given.
    #[arg(long = "type", value_name = "TYPE")]
    pub record_type: Option<String>,
    /// Which tokens are measured: assistant, completion, all or last.
    #[arg(long, value_name = "WHICH")]
    pub train_on: Option<String>,
    /// Sequences at a time.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub batch_size: usize,
    /// Longest sequence; a longer record is an error, never cut. Default: what the model was made for.
    #[arg(long, value_name = "N")]
    pub max_seq_len: Option<usize>,
    /// Also write every record's tokens and logits (safetensors), to compare with another tool.
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}
