//! What a recipe says of a dataset, and reading it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Faults};
use crate::record::{Dataset, Record};
use crate::records::Records;
use crate::repository::{RepositoryData, repository_data};
use crate::slice;

/// One entry of a recipe's `datasets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// A file, a folder or a pattern (`data/*.jsonl`), relative to the recipe, or the name of a dataset on the
    /// Hugging Face Hub (`org/data`, `org/data@revision`): JSON Lines, JSON, Parquet or CSV; JSON Lines, JSON and
    /// CSV may be compressed (.gz, .zst).
    pub path: String,
    /// Which of the dataset's configs, where its card names several; of a folder without such a card, which
    /// folder in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which part of a folder, by its card and the files' names: `train` (the default), `validation`, `test`, or
    /// another name; and which of its records, as `train[:5%]`, `train[100:200]`, `train[-10%:]` or
    /// `train[:80%]+validation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The format of the records; recognised from the first record if not given.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub record_type: Option<RecordType>,
    /// How often a record is seen in an epoch: 2 is twice, 0.5 a different seeded half each epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: Option<f64>,
    /// Read this many records and no more, from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_records: Option<usize>,
    /// Names of the fields, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "FieldNames::is_default")]
    pub fields: FieldNames,
}

impl DatasetConfig {
    /// A dataset of which everything but the path is left to be found out.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: None,
            split: None,
            record_type: None,
            weight: None,
            max_records: None,
            fields: FieldNames::default(),
        }
    }
}

impl DatasetConfig {
    /// The files of a repository that hold this dataset, all parts of its `split` together: as
    /// [`repository_data`], for whoever fetches them before they are read.
    ///
    /// # Errors
    /// As [`repository_data`], or a `split` that cannot be read.
    pub fn repository_files(&self, names: &[String], card: Option<&str>) -> Result<RepositoryData, String> {
        let splits = match &self.split {
            None => vec!["train".to_owned()],
            Some(split) => slice::parse(split)?.into_iter().map(|part| part.split).collect(),
        };
        let mut files: Vec<String> = Vec::new();
        for split in splits {
            match repository_data(names, card, self.name.as_deref(), &split)? {
                RepositoryData::Files(found) => files.extend(found),
                RepositoryData::Converted => return Ok(RepositoryData::Converted),
            }
        }
        files.sort();
        files.dedup();
        Ok(RepositoryData::Files(files))
    }
}

/// What the fields of a dataset are called, where not as here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FieldNames {
    /// The conversation: `messages`, or `conversations` for ShareGPT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// `prompt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// `completion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `instruction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// `system`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
}

impl FieldNames {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The formats of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecordType {
    /// `{"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}`, as OpenAI has it.
    Chat,
    /// `{"conversations": [{"from": "human", "value": "..."}, ...], "system": "...", "tools": "..."}`.
    Sharegpt,
    /// `{"instruction": "...", "input": "...", "output": "..."}`, with `system` and `history`.
    Alpaca,
    /// `{"prompt": "...", "completion": "..."}`, strings or lists of messages.
    PromptCompletion,
    /// `{"text": "..."}`.
    Text,
}

impl RecordType {
    /// As a recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
            Self::Text => "text",
        }
    }
}

impl std::fmt::Display for RecordType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads a dataset whose `path` is relative to `root`, all of it at once; [`Records`] reads it bit by bit.
///
/// # Errors
/// As [`Records::open`], or every record that is of another type than the first, lacks a field or has one of a
/// wrong type, with file and line.
pub fn read_dataset(config: &DatasetConfig, root: &Path) -> Result<Dataset, DataError> {
    let found = Records::open(config, root)?;
    let mut faults = Faults::default();
    let mut records: Vec<Record> = Vec::new();
    let mut reader = found.read();
    while let Some(batch) = reader.next_batch(usize::MAX)? {
        for record in batch {
            match record {
                Ok(record) => records.push(record),
                Err(fault) => faults.push(fault.source, fault.message),
            }
        }
    }
    faults.into_result()?;
    Ok(Dataset { records, record_type: found.record_type(), detected: found.detected(), files: found.files() })
}

/// Fields as `` `a`, `b` ``; a hostile record may have thousands.
pub(crate) fn quoted(keys: &[&str]) -> String {
    const MOST: usize = 12;
    if keys.is_empty() {
        return "(none)".to_owned();
    }
    let shown: Vec<String> =
        keys.iter().take(MOST).map(|key| format!("`{}`", key.chars().take(40).collect::<String>())).collect();
    let more = match keys.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

pub(crate) fn config_error(config: &DatasetConfig, message: String) -> DataError {
    DataError::Config { path: config.path.clone(), message }
}

/// A file as the recipe's reader would write it: relative to the recipe where that is possible.
pub(crate) fn file_name(file: &Path, root: &Path) -> Arc<str> {
    let relative: PathBuf = file.strip_prefix(root).unwrap_or(file).to_path_buf();
    Arc::from(relative.to_string_lossy().as_ref())
}
