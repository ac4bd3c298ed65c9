//! A fine-tuning recipe in, a proven adapter or merged model out.
//!
//! This crate reads recipes, decides plans and talks to the terminal; the work is done by the crates below it.

mod account;
mod base;
pub mod cli;
pub mod commands;
pub mod devices;
pub mod fault;
mod lock;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod repositories;
mod terminal;

use std::path::PathBuf;

use cli::{Cli, Command};
use fault::Failure;
use rankine_hub::{AwsConfig, HubConfig};

/// What the program took from its environment.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The Hugging Face Hub and its cache.
    pub hub: HubConfig,
    /// The account on Amazon.
    pub aws: AwsConfig,
    /// Where tokenised datasets are kept.
    pub cache: PathBuf,
    /// Whether the person asked for text without colours.
    pub no_color: bool,
}

/// Runs one command.
///
/// # Errors
/// Why the command did not do its work, with its exit code.
pub fn run(cli: Cli, environment: &Environment) -> Result<(), Failure> {
    match cli.command {
        Command::Train(args) => commands::train::run(&args, environment),
        Command::Plan(args) => commands::plan::run(&args, environment),
        Command::Data(args) => commands::data::run(&args, environment),
        Command::Schema(args) => commands::schema::run(&args),
        Command::Generate(args) => commands::generate::run(&args, environment),
        Command::Chat(args) => commands::chat::run(&args, environment),
        Command::Eval(args) => commands::eval::run(&args, environment),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Bench(args) => commands::bench::run(&args, environment),
        Command::Export(args) => commands::export::run(&args, environment),
        Command::Check(args) => commands::check::run(&args),
        Command::Merge(args) => commands::merge::run(&args, environment),
        Command::Init(args) => commands::init::run(&args),
        Command::Pull(args) => commands::pull::run(&args, environment),
        Command::Cache(args) => commands::cache::run(&args, environment),
        Command::Push(args) => commands::push::run(&args, environment),
        Command::Bedrock(args) => commands::bedrock::run(&args, environment),
    }
}
