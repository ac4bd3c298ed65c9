//! Rules of the platforms, asked of any folder without a connection: what would be refused after an upload, and what would
//! be taken and loaded wrongly in silence.

mod adapter;
mod bedrock;
mod finding;
mod folder;
mod gguf;
mod mlx;
mod model;
mod repository;
mod tokenizer;

use std::path::Path;

use rankine_models::adapter_file::CONFIG_FILE as ADAPTER_CONFIG;

pub use finding::{Finding, Level, Rule};

use crate::error::ExportError;
use crate::hf_endpoint::HANDLER;
use crate::sagemaker::ADAPTERS;
use crate::target::Target;
use folder::Folder;

/// Sizes that a platform takes at most; tests have smaller ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of all weights.
    pub(crate) total: u64,
    /// Bytes of one file of weights.
    pub(crate) shard: u64,
    /// Bytes of a file's header.
    pub(crate) header: u64,
    /// Tokens of a context.
    pub(crate) context: u64,
}

impl Limits {
    /// Amazon Bedrock's.
    pub(crate) const BEDROCK: Self =
        Self { total: 200_000_000_000, shard: 5_368_709_120, header: 100_000_000, context: 131_072 };
}

/// Everything about the folder that the target's platform will not take, or will take otherwise than one would think.
///
/// # Errors
/// A folder that is not there or cannot be listed.
pub fn check(folder: &Path, target: Target) -> Result<Vec<Finding>, ExportError> {
    check_within(folder, target, &Limits::BEDROCK)
}

pub(crate) fn check_within(path: &Path, target: Target, limits: &Limits) -> Result<Vec<Finding>, ExportError> {
    let mut folder = Folder::open(path, target)?;
    let is_adapter = folder.has(ADAPTER_CONFIG);
    match target {
        Target::Peft => adapter::check(&mut folder, "", adapter::Reader::Peft),
        Target::Vllm => adapter::check(&mut folder, "", adapter::Reader::Vllm),
        Target::Mlx => mlx::check(&mut folder),
        Target::Merged => check_model(&mut folder),
        Target::Gguf => gguf::check(&mut folder),
        Target::Ollama => gguf::check_ollama(&mut folder),
        Target::Bedrock => {
            check_model(&mut folder);
            bedrock::check(&mut folder, limits);
        }
        Target::HfEndpoint => {
            match (is_adapter, folder.has(HANDLER)) {
                (true, true) => adapter::check(&mut folder, "", adapter::Reader::Peft),
                (true, false) => adapter::check(&mut folder, "", adapter::Reader::Vllm),
                (false, _) => check_model(&mut folder),
            }
            repository::check(&mut folder);
        }
        Target::Sagemaker => match path.join(ADAPTERS).is_dir() {
            true => repository::check_adapters(&mut folder),
            false => check_model(&mut folder),
        },
    }
    let mut findings = folder.findings;
    findings.sort_by_key(|finding| finding.level);
    Ok(findings)
}

fn check_model(folder: &mut Folder) {
    model::check(folder);
    tokenizer::check(folder);
}
