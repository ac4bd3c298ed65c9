//! Arguments of commands that talk to the Hub or look into its cache.

use std::path::PathBuf;

use clap::Args;

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
