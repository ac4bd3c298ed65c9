//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rankine_export::{GgufQuantize, Onto, Target, Weights};

use crate::recipe::{BaseCompute, Dtype, Quantize};

/// Fine-tunes language models: a recipe in, an adapter or a merged model out.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted with a checkpoint.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train by a recipe, evaluate, and export.
    Train(TrainArgs),
    /// Print what a recipe would run, without training.
    Plan(PlanArgs),
    /// Show what a recipe's data teaches, check it, and convert datasets.
    Data(DataArgs),
    /// Print the JSON schema of a recipe.
    Schema(SchemaArgs),
    /// Answer one prompt.
    Generate(GenerateArgs),
    /// Talk with a model.
    Chat(ChatArgs),
    /// Measure a model on a dataset: loss, perplexity and exact match.
    Eval(EvalArgs),
    /// List the devices that can run, what each can do, and whether it computes rightly.
    Devices(DevicesArgs),
    /// Time training steps: tokens a second, seconds by part, memory.
    Bench(BenchArgs),
    /// Make a folder for a platform of a run, or of a base and an adapter, and prove that it is what was trained.
    Export(ExportArgs),
    /// Check any folder by a platform's rules, offline.
    Check(CheckArgs),
    /// Merge an adapter into its base model.
    Merge(MergeArgs),
    /// Make a new, untrained model to pretrain from scratch.
    Init(InitArgs),
    /// Fetch a model or a dataset from the Hugging Face Hub into the cache.
    Pull(PullArgs),
    /// List what is in the Hugging Face cache.
    Cache(CacheArgs),
    /// Upload an adapter or a merged model to the Hugging Face Hub, or a folder to S3.
    Push(PushArgs),
    /// Import an export into Amazon Bedrock, watch it, and ask the model.
    Bedrock(BedrockArgs),
}

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

/// Arguments of `data`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DataArgs {
    /// Another thing to do with data.
    #[command(subcommand)]
    pub command: Option<DataCommand>,
    /// The recipe, a YAML file.
    #[arg(required = true)]
    pub recipe: Option<PathBuf>,
    /// Change a key of the recipe: `--set max_seq_len=1024`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Show so many records from the start, token by token.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub records: usize,
    /// Show this record of the training data instead, one token a line. May be repeated.
    #[arg(long, value_name = "N")]
    pub record: Vec<usize>,
    /// Also write the report as one self-contained page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What else is done with data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Turn a dataset into the fine-tuning format of another platform.
    Convert(ConvertArgs),
}

/// Arguments of `data convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The dataset: a file, a folder or a pattern.
    pub input: String,
    /// The format: openai, bedrock, bedrock-conversation, claude-haiku, sharegpt, alpaca or prompt-completion.
    #[arg(long, value_name = "FORMAT")]
    pub to: String,
    /// The file to write, JSON Lines. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Format of the records that are read; recognised if not given.
    #[arg(long = "type", value_name = "TYPE")]
    pub record_type: Option<String>,
    /// Which files of a folder, by their names.
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Write the file although no model of the platform takes it.
    #[arg(long)]
    pub ignore_limits: bool,
    /// Print what became of the records as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Print a table of every key instead, in Markdown.
    #[arg(long)]
    pub markdown: bool,
}

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

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// `org/name`, at a branch, a tag or a commit: `org/name@revision`. A dataset of a model's name is
    /// `datasets/org/name`.
    #[arg(value_name = "MODEL_OR_DATASET[@REVISION]")]
    pub repository: String,
    /// Fetch the files that match, instead of what a model or a dataset needs: `--include '*Q4_K_M.gguf'`. May be
    /// repeated.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// No progress, only errors.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// An adapter, a model, or the folder of a run, whose adapter (or model) is meant.
    #[arg(value_name = "RUN_OR_DIR")]
    pub folder: PathBuf,
    /// Where to: `org/name`, a repository that is made if there is none, or `s3://bucket/folder`.
    #[arg(value_name = "ORG/NAME")]
    pub repository: String,
    /// A new repository may be seen by everybody; else by its owner alone.
    #[arg(long)]
    pub public: bool,
    /// The first line of the commit.
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// S3: write over other objects of the same names.
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bedrock`.
#[derive(Debug, Args)]
pub struct BedrockArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BedrockCommand,
}

/// What is done with Bedrock.
#[derive(Debug, Subcommand)]
pub enum BedrockCommand {
    /// Submit an import of a folder on S3, and wait for its model.
    Import(BedrockImportArgs),
    /// Say how far an import is.
    Status(BedrockStatusArgs),
    /// Ask an imported model.
    Invoke(BedrockInvokeArgs),
}

/// Arguments of `bedrock import`.
#[derive(Debug, Args)]
pub struct BedrockImportArgs {
    /// The folder with the export: `s3://bucket/folder`.
    #[arg(value_name = "S3_FOLDER")]
    pub from: String,
    /// The ARN of the role that Bedrock takes to read it; `deploy/` of the export says how to make one.
    #[arg(long, value_name = "ARN")]
    pub role: String,
    /// The model's name. Default: that of the folder.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The job's name. Default: the model's, with the time.
    #[arg(long, value_name = "NAME")]
    pub job_name: Option<String>,
    /// Submit it and end; `rankine bedrock status` says how far it is.
    #[arg(long)]
    pub no_wait: bool,
    /// The region, instead of AWS_REGION or the profile's.
    #[arg(long)]
    pub region: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bedrock status`.
#[derive(Debug, Args)]
pub struct BedrockStatusArgs {
    /// The job's ARN or name.
    pub job: String,
    /// Wait until it has ended.
    #[arg(long)]
    pub wait: bool,
    /// The region, instead of AWS_REGION or the profile's.
    #[arg(long)]
    pub region: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bedrock invoke`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("question").required(true).args(["message", "prompt", "body"]))]
pub struct BedrockInvokeArgs {
    /// The imported model's ARN.
    pub model: String,
    /// What the user says: the model's chat template is applied.
    #[arg(long, short, value_name = "TEXT")]
    pub message: Option<String>,
    /// What comes before the message.
    #[arg(long, value_name = "TEXT", requires = "message")]
    pub system: Option<String>,
    /// A text to go on with, without a template.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// A whole request instead, as JSON.
    #[arg(long, value_name = "JSON")]
    pub body: Option<String>,
    /// Most tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: u32,
    /// 0 takes the likeliest token each time.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// The region, instead of AWS_REGION or the profile's.
    #[arg(long)]
    pub region: Option<String>,
    /// Print the whole answer as JSON.
    #[arg(long)]
    pub json: bool,
}
