//! Arguments of `bedrock`.

use clap::{Args, Subcommand};

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
