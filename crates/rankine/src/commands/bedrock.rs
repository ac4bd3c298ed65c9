//! `rankine bedrock`: an export on S3 becomes a model of Amazon Bedrock, and answers.

#[cfg(feature = "aws")]
mod run;

use crate::Environment;
use crate::cli::BedrockArgs;
use crate::fault::Failure;
#[cfg(not(feature = "aws"))]
use crate::fault::Fault;

/// Imports, tells how far an import is, or asks.
///
/// # Errors
/// A refusal of Bedrock, an import that failed, a model that does not answer.
#[cfg(feature = "aws")]
pub fn run(args: &BedrockArgs, environment: &Environment) -> Result<(), Failure> {
    use crate::cli::BedrockCommand;

    match &args.command {
        BedrockCommand::Import(args) => run::import(args, environment),
        BedrockCommand::Status(args) => run::status(args, environment),
        BedrockCommand::Invoke(args) => run::invoke(args, environment),
    }
}

/// Says that this program cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "aws"))]
pub fn run(_: &BedrockArgs, _: &Environment) -> Result<(), Failure> {
    let fault = Fault::new("this rankine was built without the feature `aws`, and cannot ask Bedrock");
    let help = "build it with `cargo build --release --features s3,aws`, or run the scripts in `deploy/` of the export";
    Err(Failure::bad_input(fault.help(help)))
}
