//! Arguments of what a recipe is for: to train, plan and time it, and to make what it needs.

use std::path::PathBuf;

use clap::Args;

use crate::recipe::{BaseCompute, Dtype, Quantize};

/// A recipe and the changes to it.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// The recipe, a YAML file.
    pub recipe: PathBuf,
    /// Change a key of the recipe: `--set lora.r=8`, `--set 'datasets=[{path: x.jsonl}]'`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Use exactly what rankine.lock beside the recipe says, and refuse anything else.
    #[arg(long)]
    pub locked: bool,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The recipe and the changes to it.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Go on from the newest whole checkpoint.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Start over in an `output_dir` that already holds a run.
    #[arg(long)]
    pub overwrite: bool,
    /// Print every event as a line of JSON on stdout.
    #[arg(long)]
    pub json: bool,
    /// No progress, only errors.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The recipe and the changes to it.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Also say how long it will take: times a pass through the first layers on this machine.
    #[arg(long)]
    pub time: bool,
    /// Print the plan as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Only this one: `cpu`, `cuda`, `wgpu:1`, `wgpu:software`, ...
    pub device: Option<String>,
    /// Train a tiny model on each and on the CPU, and compare every loss and gradient.
    #[arg(long)]
    pub self_test: bool,
    /// Run the self-test in this process, which a driver may end, and not in one of its own.
    #[arg(long, hide = true)]
    pub in_process: bool,
    /// Type of the frozen weights in the self-test; auto is f32.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A recipe, or a model folder or name (then: LoRA on all linear layers, 4 sequences of 256 tokens).
    #[arg(value_name = "RECIPE_OR_MODEL")]
    pub subject: String,
    /// Change a key of the recipe.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Sequences of one optimizer step.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Tokens of a sequence.
    #[arg(long)]
    pub seq: Option<usize>,
    /// Steps that are timed, after one that is not. Default: 5.
    #[arg(long)]
    pub steps: Option<usize>,
    /// Rank of the adapter of a model without a recipe. Default: 16.
    #[arg(long)]
    pub rank: Option<usize>,
    /// How the CPU multiplies with the frozen base.
    #[arg(long, value_enum, value_name = "WAY")]
    pub base_compute: Option<BaseCompute>,
    /// Hold the linear layers of a model without a recipe in fewer bits.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub quantize: Option<Quantize>,
    /// Hold the CPU's kernels to one instruction set: portable, neon, avx2, avx512, avx512-vnni, amx.
    #[arg(long, value_name = "SET")]
    pub instruction_set: Option<String>,
    /// Tokens of one forward and backward pass.
    #[arg(long, value_name = "TOKENS")]
    pub piece_tokens: Option<usize>,
    /// Type of the base model's weights in memory.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Where to run: auto, cpu, cuda, cuda:1, rocm, vulkan, metal or wgpu; `rankine devices` lists them.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Print the figures as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// A `config.json` with the new model's shape.
    pub config: PathBuf,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Take this tokenizer.json.
    #[arg(long, value_name = "FILE", conflicts_with = "train_tokenizer")]
    pub tokenizer: Option<PathBuf>,
    /// Train a byte-level BPE tokenizer on these datasets.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub train_tokenizer: Vec<String>,
    /// Words of the trained tokenizer. Default: `vocab_size` of the config.
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
    /// Type of the written weights; auto is f32. A trained model keeps it.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Decides the random weights.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}
