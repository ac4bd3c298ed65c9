//! What a GGUF file is made of, opened: shape, weights, adapter, tokenizer.

use std::path::Path;

use rankine_models::adapter_file::AdapterFile;
use rankine_models::companions::{CONFIG_FILE, Companions, GENERATION_FILE, TEMPLATE_FILES};
use rankine_models::config::DecoderConfig;
use rankine_models::gguf::VocabularyFiles;
use rankine_models::weights::{StoredDtype, WeightFiles};
use serde_json::Value;

use crate::error::ExportError;
use crate::merge_plan::MergePlan;
use crate::{ExportInputs, Target};

/// Base, adapter and what describes them.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) decoder: DecoderConfig,
    pub(crate) base: WeightFiles,
    pub(crate) adapter: Option<AdapterFile>,
}

impl Source {
    pub(crate) fn open(inputs: &ExportInputs<'_>) -> Result<Self, ExportError> {
        Ok(Self {
            decoder: DecoderConfig::from_folder(inputs.base)?,
            base: WeightFiles::open(inputs.base)?,
            adapter: inputs.adapter.map(AdapterFile::open).transpose()?,
        })
    }

    /// What becomes of each tensor, with values of one type or each of its own.
    pub(crate) fn plan(
        &self,
        inputs: &ExportInputs<'_>,
        dtype: Option<StoredDtype>,
    ) -> Result<MergePlan<'_>, ExportError> {
        let tied = Some(self.decoder.tie_word_embeddings);
        MergePlan::of(inputs, &self.base, self.adapter.as_ref(), tied, dtype)
    }
}

/// The tokenizer's files, with the template that was trained.
pub(crate) fn vocabulary_files(inputs: &ExportInputs<'_>, target: Target) -> Result<VocabularyFiles, ExportError> {
    let place = inputs.tokenizer.unwrap_or(inputs.base);
    let from = Companions::of(place)?;
    let base = Companions::of(inputs.base)?;
    let tokenizer = json(&from, place, "tokenizer.json")?;
    if tokenizer.is_null() {
        return Err(ExportError::MissingFile { file: place.join("tokenizer.json"), target });
    }
    Ok(VocabularyFiles {
        tokenizer,
        tokenizer_config: json(&from, place, "tokenizer_config.json")?,
        config: json(&base, inputs.base, CONFIG_FILE)?,
        generation_config: json(&base, inputs.base, GENERATION_FILE)?,
        chat_template: template(inputs, &from, place)?,
    })
}

/// The trained template, else the one that has a file of its own.
fn template(inputs: &ExportInputs<'_>, from: &Companions, place: &Path) -> Result<Option<String>, ExportError> {
    if let Some(template) = inputs.chat_template {
        return Ok(Some(template.to_owned()));
    }
    let [plain, wrapped] = TEMPLATE_FILES;
    if let Some(bytes) = from.read(plain)? {
        let not_text = |error: std::string::FromUtf8Error| ExportError::Json {
            file: place.join(plain),
            reason: error.to_string(),
        };
        return String::from_utf8(bytes).map(Some).map_err(not_text);
    }
    Ok(json(from, place, wrapped)?["chat_template"].as_str().map(str::to_owned))
}

/// Null where there is no such file.
fn json(from: &Companions, place: &Path, name: &str) -> Result<Value, ExportError> {
    let Some(bytes) = from.read(name)? else { return Ok(Value::Null) };
    serde_json::from_slice(&bytes)
        .map_err(|error| ExportError::Json { file: place.join(name), reason: error.to_string() })
}
