//! The command line.

mod bedrock;
mod data;
mod export;
mod model;
mod repository;
mod training;

use clap::{Args, Parser, Subcommand};

pub use bedrock::{BedrockArgs, BedrockCommand, BedrockImportArgs, BedrockInvokeArgs, BedrockStatusArgs};
pub use data::{ConvertArgs, DataArgs, DataCommand};
pub use export::{CheckArgs, ExportArgs, MergeArgs, OntoArgs};
pub use model::{ChatArgs, EvalArgs, GenerateArgs, ModelArgs, SamplingArgs};
pub use repository::{CacheArgs, PullArgs, PushArgs};
pub use training::{BenchArgs, DevicesArgs, InitArgs, PlanArgs, RecipeArgs, TrainArgs};

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

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Print a table of every key instead, in Markdown.
    #[arg(long)]
    pub markdown: bool,
}
