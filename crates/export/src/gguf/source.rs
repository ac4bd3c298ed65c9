//! What a GGUF file is made of, opened: shape, weights, adapter, tokenizer.

use std::path::Path;

use rankine_data::{ChatTemplate, SpecialTokens, TemplateError};
use rankine_models::adapter_file::AdapterFile;
use rankine_models::companions::{CONFIG_FILE, Companions, GENERATION_FILE};
use rankine_models::config::DecoderConfig;
use rankine_models::gguf::VocabularyFiles;
use rankine_models::weights::{StoredDtype, WeightFiles};
use serde_json::{Map, Value, json};

use crate::chat_template::chat_template;
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

/// The tokenizer's files, with the template that chats are rendered with.
pub(crate) fn vocabulary_files(inputs: &ExportInputs<'_>, target: Target) -> Result<VocabularyFiles, ExportError> {
    let place = inputs.tokenizer.unwrap_or(inputs.base);
    let from = Companions::of(place)?;
    let base = Companions::of(inputs.base)?;
    let tokenizer = read_json(&from, place, "tokenizer.json")?;
    if tokenizer.is_null() {
        return Err(ExportError::MissingFile { file: place.join("tokenizer.json"), target });
    }
    let tokenizer_config = read_json(&from, place, "tokenizer_config.json")?;
    let chat_template = chat_template(inputs)?;
    Ok(VocabularyFiles {
        tokenizer,
        chats: chat_template.as_deref().map(|source| chats(source, &tokenizer_config)).unwrap_or_default(),
        tokenizer_config,
        config: read_json(&base, inputs.base, CONFIG_FILE)?,
        generation_config: read_json(&base, inputs.base, GENERATION_FILE)?,
        chat_template,
    })
}

/// The template with the special tokens that it may name.
pub(crate) fn compiled(source: &str, tokenizer_config: &Value) -> Result<(ChatTemplate, SpecialTokens), TemplateError> {
    let nothing = Map::new();
    let special = SpecialTokens::from_config(tokenizer_config.as_object().unwrap_or(&nothing), &nothing);
    Ok((ChatTemplate::new(source, &special)?, special))
}

/// A question that was answered, and one with a system message that is to be. What the template refuses is left out.
fn chats(source: &str, tokenizer_config: &Value) -> Vec<String> {
    let Ok((template, _)) = compiled(source, tokenizer_config) else { return Vec::new() };
    let says = |role: &str, content: &str| json!({"role": role, "content": content});
    let (asked, answered) = (says("user", "Where is it?"), says("assistant", "In the hall."));
    let chats = [(vec![asked.clone(), answered], false), (vec![says("system", "Be brief."), asked], true)];
    let render = |(messages, prompt): (Vec<Value>, bool)| template.render(&messages, None, prompt, &Map::new()).ok();
    chats.into_iter().filter_map(render).map(|rendered| rendered.text).collect()
}

/// Null where there is no such file.
fn read_json(from: &Companions, place: &Path, name: &str) -> Result<Value, ExportError> {
    let Some(bytes) = from.read(name)? else { return Ok(Value::Null) };
    serde_json::from_slice(&bytes)
        .map_err(|error| ExportError::Json { file: place.join(name), reason: error.to_string() })
}
