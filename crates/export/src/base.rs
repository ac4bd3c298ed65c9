//! The base model's `config.json`, wherever it is.

use std::path::{Path, PathBuf};

use rankine_models::companions::{CONFIG_FILE, Companions};
use rankine_models::weights::WeightFiles;
use serde_json::{Map, Value};

use crate::error::ExportError;

/// A base's `config.json`.
pub(crate) struct Base {
    /// What it says.
    pub(crate) fields: Map<String, Value>,
    /// To the byte.
    pub(crate) text: Vec<u8>,
}

impl Base {
    /// Reads it; `None` where there is none.
    pub(crate) fn config(base: &Path) -> Result<Option<Self>, ExportError> {
        let Some(text) = Companions::of(base)?.read(CONFIG_FILE)? else { return Ok(None) };
        let fields = parse(&text, base.join(CONFIG_FILE))?;
        Ok(Some(Self { fields, text }))
    }
}

/// The fields of a JSON object.
pub(crate) fn parse(text: &[u8], file: PathBuf) -> Result<Map<String, Value>, ExportError> {
    serde_json::from_slice(text).map_err(|error| ExportError::Json { file, reason: error.to_string() })
}

/// Whether head and embedding are one tensor.
pub(crate) fn tied(base: &WeightFiles, config: Option<&Base>) -> bool {
    let says = config.and_then(|config| config.fields.get("tie_word_embeddings")).and_then(Value::as_bool);
    base.get("lm_head.weight").is_none() || says == Some(true)
}
