//! Arguments of `data`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
