//! Arguments of commands that make or judge a folder for others.

use std::path::PathBuf;

use clap::Args;
use rankine_export::{GgufQuantize, Onto, Target, Weights};

use crate::recipe::{Dtype, Quantize};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The folder of a finished run.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["base", "adapter"])]
    pub run: Option<PathBuf>,
    /// The base model's folder, or its name on the Hugging Face Hub.
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// The adapter, in PEFT format. Without one, the model itself is exported.
    #[arg(long, value_name = "DIR", requires = "base")]
    pub adapter: Option<PathBuf>,
    /// What to make: peft, merged, bedrock, hf-endpoint, sagemaker, vllm, mlx, gguf or ollama.
    #[arg(long)]
    pub target: Target,
    /// Folder to write, or `s3://bucket/folder`.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// S3: write over other objects of the same names.
    #[arg(long)]
    pub force: bool,
    /// Type of a merged model's weights; auto is the base model's.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// gguf and ollama: q8_0 or q4_0, integers in place of the merged model's floats.
    #[arg(long, value_name = "BITS")]
    pub quantize: Option<GgufQuantize>,
    /// peft: one rank and one scale for every module, for readers that know no more.
    #[arg(long)]
    pub portable: bool,
    /// hf-endpoint, sagemaker and gguf: merged, or adapter.
    #[arg(long, default_value = "merged", value_name = "WHICH")]
    pub weights: Weights,
    /// The base of a QLoRA adapter.
    #[command(flatten)]
    pub onto: OntoArgs,
    /// hf-endpoint: a handler.py, for endpoints without an engine of their own.
    #[arg(long)]
    pub handler: bool,
    /// What the platform is to call the model. Default: the folder's name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Do not load and compare what was written: for a model that is larger than memory.
    #[arg(long)]
    pub no_proof: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The folder, ours or not.
    #[arg(value_name = "DIR", required_unless_present = "rules")]
    pub folder: Option<PathBuf>,
    /// By whose rules: peft, merged, bedrock, hf-endpoint, sagemaker, vllm, mlx, gguf or ollama.
    #[arg(long, required_unless_present = "rules")]
    pub target: Option<Target>,
    /// Print the rules, all of them or the target's, instead of checking a folder.
    #[arg(long, conflicts_with = "folder")]
    pub rules: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The base model's folder, or its name on the Hugging Face Hub.
    pub base: String,
    /// The adapter, in PEFT format.
    pub adapter: PathBuf,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Type of the written weights; auto is the base model's.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// The base of a QLoRA adapter.
    #[command(flatten)]
    pub onto: OntoArgs,
}

/// What an adapter is merged onto that was trained on a base in fewer bits.
#[derive(Debug, Args)]
pub struct OntoArgs {
    /// A QLoRA adapter is merged onto the base as it is stored (full), or rounded as it was trained against
    /// (quantised).
    #[arg(long, default_value = "full", value_name = "WHICH")]
    pub onto: Onto,
    /// How the base was held in training, for an adapter that does not say so; ours do.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub trained_on: Option<Quantize>,
}
