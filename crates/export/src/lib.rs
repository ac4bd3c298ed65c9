//! One file a target; merge tensor by tensor; every export is read back.
//!
//! An export is made in a hidden folder beside its place and renamed: under the final name there is the old folder, the
//! whole new one, or nothing. It never changes the base or the adapter.

mod card;
mod companions;
mod error;
mod gguf;
mod merge_plan;
mod merged;
mod ollama;
mod output;
mod peft;
mod product;
mod target;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use card::{CardFacts, DatasetFacts};
pub use error::{ExportError, MergeFault};
pub use output::REPORT_FILE;
pub use target::{ExportConfig, ExportDtype, Form, Quantize, Target, UnusedSetting, Weights};

use output::OutputFolder;

/// What goes into an export.
#[derive(Debug, Clone)]
pub struct ExportInputs<'a> {
    /// The base model's folder.
    pub base: &'a Path,
    /// The adapter's folder; `None` for a model that was trained in full, which is then the base.
    pub adapter: Option<&'a Path>,
    /// Where the tokenizer's files are; the base's folder where `None`.
    pub tokenizer: Option<&'a Path>,
    /// The chat template that was trained with, where it is not the tokenizer's own.
    pub chat_template: Option<&'a str>,
    /// What the card says of the training.
    pub facts: &'a CardFacts,
}

/// How far an export is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The tensor that was just written.
    pub tensor: &'a str,
    /// Bytes of tensors written.
    pub done: u64,
    /// Bytes of tensors in all.
    pub total: u64,
}

/// What an export consists of; `export.json` in its folder holds the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The rankine that made it.
    pub rankine: String,
    /// What was made.
    pub target: Target,
    /// The base model as its user wrote it.
    pub base_model: Option<String>,
    /// Tensors that the adapter changed or replaced.
    pub changed_tensors: usize,
    /// Tensors that are the base's.
    pub kept_tensors: usize,
    /// Whether head and embedding were one tensor in the base and are two here.
    pub untied: bool,
    /// Bytes of every file but `export.json`, by name.
    pub files: BTreeMap<String, u64>,
}

/// Writes an export of `inputs` for `out`, without putting it there yet: [`WrittenExport::path`] can be checked first.
pub fn write(
    config: &ExportConfig,
    inputs: &ExportInputs<'_>,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<WrittenExport, ExportError> {
    if let Some(UnusedSetting { setting, .. }) = config.unused().first() {
        return Err(ExportError::Setting { setting, target: config.target });
    }
    let sources: Vec<&Path> = [Some(inputs.base), inputs.adapter, inputs.tokenizer].into_iter().flatten().collect();
    let folder = OutputFolder::begin(out, &sources)?;
    let made = match config.target {
        Target::Peft | Target::Vllm => peft::write(inputs, folder.path())?,
        Target::Merged | Target::Bedrock | Target::HfEndpoint | Target::Sagemaker => {
            merged::write(config, inputs, folder.path(), progress)?
        }
        Target::Mlx => return Err(ExportError::NoAdapter),
        Target::Gguf => gguf::write(config, inputs, folder.path(), progress)?,
        Target::Ollama => ollama::write(config, inputs, folder.path(), progress)?,
    };
    let report = ExportReport {
        rankine: env!("CARGO_PKG_VERSION").to_owned(),
        target: config.target,
        base_model: made.base_model,
        changed_tensors: made.changed_tensors,
        kept_tensors: made.kept_tensors,
        untied: made.untied,
        files: folder.files()?,
    };
    folder.write_report(&report)?;
    Ok(WrittenExport { folder, report })
}

/// Writes an export of `inputs` and puts it at `out`.
pub fn export(
    config: &ExportConfig,
    inputs: &ExportInputs<'_>,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ExportReport, ExportError> {
    write(config, inputs, out, progress)?.publish()
}

/// An export that is whole and not yet under its name. Dropping it removes it.
#[derive(Debug)]
pub struct WrittenExport {
    folder: OutputFolder,
    report: ExportReport,
}

impl WrittenExport {
    /// Where it is until it is published.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What it consists of.
    pub fn report(&self) -> &ExportReport {
        &self.report
    }

    /// Renames it into place.
    pub fn publish(self) -> Result<ExportReport, ExportError> {
        self.folder.publish()?;
        Ok(self.report)
    }
}

/// What a target reports of itself.
#[derive(Debug)]
struct Made {
    base_model: Option<String>,
    changed_tensors: usize,
    kept_tensors: usize,
    untied: bool,
}

#[cfg(test)]
mod tests;
