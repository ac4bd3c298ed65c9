//! One file a target; merge tensor by tensor; every export is read back.
//!
//! An export is made in a hidden folder beside its place and renamed: under the final name there is the old folder, the
//! whole new one, or nothing. It never changes the base or the adapter.

mod base;
mod bedrock;
mod card;
mod chat_template;
pub mod check;
mod companions;
mod deploy;
mod error;
mod gguf;
mod hf_endpoint;
mod merge;
mod merge_plan;
mod merged;
mod mlx;
mod ollama;
mod output;
mod peft;
mod portable;
mod product;
mod quantisation;
mod sagemaker;
mod target;
mod transformers4;
mod vllm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rankine_models::adapter_file::{Adapter, AdapterConfig, read_adapter, read_config};
use rankine_models::drift::Drift;
use rankine_models::weights::write_aside;
use serde::{Deserialize, Serialize};

pub use card::{CardFacts, DatasetFacts};
pub use error::{ExportError, MergeFault};
pub use output::REPORT_FILE;
pub use portable::PortableFault;
pub use quantisation::{Apart, Quantisation};
pub use target::{ExportConfig, ExportDtype, Form, GgufQuantize, Onto, Target, UnusedSetting, Weights};

use card::Card;
use check::{Finding, Level};
use merged::Spelling;
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
    /// What the folder can be read back as.
    #[serde(default)]
    pub form: Option<Form>,
    /// The base model as its user wrote it.
    pub base_model: Option<String>,
    /// Tensors that the adapter changed or replaced.
    pub changed_tensors: usize,
    /// Tensors that are the base's.
    pub kept_tensors: usize,
    /// Whether head and embedding were one tensor in the base and are two here.
    pub untied: bool,
    /// How far its logits are from those of base and adapter, where they were compared.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// What it was trained on and merged onto, where the base was held in fewer bits in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantisation: Option<Quantisation>,
    /// What the platform will do otherwise than one would think.
    #[serde(default)]
    pub warnings: Vec<Finding>,
    /// Bytes of every file but `export.json`, by its path in the folder.
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
    let output = OutputFolder::begin(out, &sources)?;
    let folder = output.path();
    let name = config.name.clone().unwrap_or_else(|| deploy::model_name(out));
    let draft = &mut Draft { config, inputs, folder, name: &name, progress };
    let made = match (config.target, config.form()) {
        (Target::Peft, _) => peft::write(draft)?,
        (Target::Merged, _) => merged::write(draft, Spelling::OfTheBase)?,
        (Target::Bedrock, _) => bedrock::write(draft)?,
        (Target::HfEndpoint, Form::Model) => hf_endpoint::write_merged(draft)?,
        (Target::HfEndpoint, _) => hf_endpoint::write_adapter(draft)?,
        (Target::Sagemaker, Form::Model) => sagemaker::write_merged(draft)?,
        (Target::Sagemaker, _) => sagemaker::write_adapter(draft)?,
        (Target::Vllm, _) => vllm::write(draft)?,
        (Target::Mlx, _) => mlx::write(draft)?,
        (Target::Gguf, _) => gguf::write(draft)?,
        (Target::Ollama, _) => ollama::write(draft)?,
    };
    let Made { base_model, changed_tensors, kept_tensors, untied, card } = made;
    write_aside(&folder.join(card::FILE), card.render(None).as_bytes())?;
    let (errors, warnings): (Vec<Finding>, Vec<Finding>) =
        check::check(folder, config.target)?.into_iter().partition(|finding| finding.level == Level::Error);
    if !errors.is_empty() {
        return Err(ExportError::Rules { out: out.to_owned(), target: config.target, findings: errors });
    }
    let report = ExportReport {
        rankine: env!("CARGO_PKG_VERSION").to_owned(),
        target: config.target,
        form: Some(config.form()),
        base_model,
        changed_tensors,
        kept_tensors,
        untied,
        drift: None,
        quantisation: Quantisation::of(config, inputs)?,
        warnings,
        files: BTreeMap::new(),
    };
    let base = inputs.base.to_owned();
    let trained = inputs.adapter.map(read_config).transpose()?;
    Ok(WrittenExport { config: config.clone(), name, base, trained, folder: output, card, report })
}

/// Writes an export of `inputs` and puts it at `out`.
pub fn export(
    config: &ExportConfig,
    inputs: &ExportInputs<'_>,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ExportReport, ExportError> {
    write(config, inputs, out, progress)?.publish(None)
}

/// An export that is whole and not yet under its name. Dropping it removes it.
#[derive(Debug)]
pub struct WrittenExport {
    config: ExportConfig,
    name: String,
    /// What it was made of, for what a format does not say again.
    base: PathBuf,
    trained: Option<AdapterConfig>,
    folder: OutputFolder,
    card: Card,
    report: ExportReport,
}

/// What a written export is read back as.
#[derive(Debug)]
pub enum ReadBack {
    /// A model of its own, in this folder.
    Model(PathBuf),
    /// An adapter for the base, as the target's reader understands it.
    Adapter(Box<Adapter>),
}

impl WrittenExport {
    /// Where it is until it is published.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What it consists of, but for its files.
    pub fn report(&self) -> &ExportReport {
        &self.report
    }

    /// What the target's reader will find in its files.
    pub fn read_back(&self) -> Result<ReadBack, ExportError> {
        let folder = self.path();
        Ok(match (self.config.form(), self.config.target) {
            (Form::Model, _) => ReadBack::Model(folder.to_owned()),
            (Form::MlxAdapter, _) => ReadBack::Adapter(Box::new(mlx::read(folder)?)),
            (Form::GgufAdapter, _) => {
                let trained = self.trained.as_ref().ok_or(ExportError::NoAdapter)?;
                ReadBack::Adapter(Box::new(gguf::lora::read(folder, &self.base, trained)?))
            }
            (Form::Adapter, Target::Sagemaker) => {
                ReadBack::Adapter(Box::new(read_adapter(&sagemaker::adapter_folder(folder, &self.name))?))
            }
            (Form::Adapter, _) => ReadBack::Adapter(Box::new(read_adapter(folder)?)),
        })
    }

    /// Notes how far what was read back is from the base as it was held in training, with the adapter.
    pub fn compared_with_trained(&mut self, drift: Drift) {
        if let Some(quantisation) = &mut self.report.quantisation {
            quantisation.from_trained = Some(drift);
        }
    }

    /// Renames it into place; `drift` is how far what was read back is from base and adapter.
    pub fn publish(mut self, drift: Option<Drift>) -> Result<ExportReport, ExportError> {
        if let Some(quantisation) = &self.report.quantisation {
            self.card.say(&quantisation.words());
        }
        write_aside(&self.path().join(card::FILE), self.card.render(drift.as_ref()).as_bytes())?;
        self.report.drift = drift;
        self.report.files = self.folder.files()?;
        self.folder.write_report(&self.report)?;
        self.folder.publish()?;
        Ok(self.report)
    }
}

/// An export that is being written: what it is made of, where, and who hears of it.
struct Draft<'a> {
    config: &'a ExportConfig,
    inputs: &'a ExportInputs<'a>,
    /// Where the files go.
    folder: &'a Path,
    /// What the platform is to call the model.
    name: &'a str,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

/// What a target reports of itself.
#[derive(Debug)]
struct Made {
    base_model: Option<String>,
    changed_tensors: usize,
    kept_tensors: usize,
    untied: bool,
    card: Card,
}

#[cfg(test)]
mod tests;
