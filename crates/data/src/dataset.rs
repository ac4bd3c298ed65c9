//! What a recipe says of a dataset, and reading it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convert::{detect, to_record};
use crate::error::{DataError, Faults};
use crate::files::find_files;
use crate::reader::{RawRecord, ReadRecord, read_file};
use crate::record::{Dataset, Record};

/// One entry of a recipe's `datasets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// A file, a folder or a pattern (`data/*.jsonl`), relative to the recipe, or the name of a dataset on the
    /// Hugging Face Hub (`org/data`, `org/data@revision`): JSON Lines, JSON, Parquet or CSV; JSON Lines, JSON and
    /// CSV may be compressed (.gz, .zst).
    pub path: String,
    /// Which files of a folder, by their names: `train` (the default), `validation`, `test`, or another
    /// word of the names.
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
            split: None,
            record_type: None,
            weight: None,
            max_records: None,
            fields: FieldNames::default(),
        }
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

/// Reads a dataset whose `path` is relative to `root`.
///
/// # Errors
/// A path without data, a file that cannot be read, an empty dataset, or every record that is of another
/// type than the first, lacks a field or has one of a wrong type, with file and line.
pub fn read_dataset(config: &DatasetConfig, root: &Path) -> Result<Dataset, DataError> {
    if let Some(weight) = config.weight
        && !(weight.is_finite() && weight > 0.0)
    {
        return Err(config_error(
            config,
            format!("`weight` is {weight}: expected a number above 0; remove the dataset to leave it out"),
        ));
    }
    if config.max_records == Some(0) {
        return Err(config_error(
            config,
            "`max_records` is 0: expected at least 1; remove the dataset to leave it out".to_owned(),
        ));
    }
    let files = find_files(config, root)?;
    let mut raw: Vec<ReadRecord> = Vec::new();
    for file in &files {
        let left = config.max_records.map(|limit| limit.saturating_sub(raw.len()));
        if left == Some(0) {
            break;
        }
        raw.extend(read_file(file, file_name(file, root), &config.fields, left)?);
    }
    if raw.is_empty() {
        return Err(DataError::NotFound {
            path: root.join(&config.path),
            expected: format!("the dataset is empty: {} and no record in {}", counted(files.len()), them(files.len())),
            help: "give a file that holds at least one record".to_owned(),
        });
    }
    let mut faults = Faults::default();
    // Without a single record that could be read there is nothing to tell the format from.
    let Some(first) = raw.iter().find_map(|record| record.as_ref().ok()) else {
        raw.into_iter().filter_map(Result::err).for_each(|fault| faults.push(fault.source, fault.message));
        return Err(DataError::Records(faults));
    };
    let (record_type, detected) = match config.record_type {
        Some(record_type) => (record_type, false),
        None => (detected_type(first, config)?, true),
    };
    let first_source = first.source.clone();
    let mut records = Vec::with_capacity(raw.len());
    for record in raw {
        let record = match record {
            Ok(record) => record,
            Err(fault) => {
                faults.push(fault.source, fault.message);
                continue;
            }
        };
        match to_record(&record, record_type, &config.fields) {
            Ok(content) => records.push(Record { content, source: record.source }),
            Err(message) => {
                let message = match detect(&record.value, &config.fields) {
                    Some(other) if other != record_type && detected => format!(
                        "{message}; the record looks like `{other}`, but the dataset is `{record_type}` after its \
                         first record ({first_source})"
                    ),
                    Some(other) if other != record_type => {
                        format!("{message}; the record looks like `{other}`, but the recipe says `type: {record_type}`")
                    }
                    _ => message,
                };
                faults.push(record.source, message);
            }
        }
    }
    faults.into_result()?;
    Ok(Dataset { records, record_type, detected, files })
}

fn detected_type(first: &RawRecord, config: &DatasetConfig) -> Result<RecordType, DataError> {
    detect(&first.value, &config.fields).ok_or_else(|| {
        let mut faults = Faults::default();
        let keys: Vec<&str> = first.value.keys().map(String::as_str).collect();
        let preference = first.value.contains_key("chosen") && first.value.contains_key("rejected");
        faults.push(first.source.clone(), format!("the format is not recognised from the fields {}", quoted(&keys)));
        faults.help(if preference {
            "chosen and rejected answers are preference data, which this kind of training does not read".to_owned()
        } else {
            "expected `messages`, `conversations`, `instruction` and `output`, `prompt` and `completion`, or `text`; \
             if the fields have other names say so in the recipe, as `fields: {prompt: question, completion: answer}`"
                .to_owned()
        });
        DataError::Records(faults)
    })
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

fn config_error(config: &DatasetConfig, message: String) -> DataError {
    DataError::Config { path: config.path.clone(), message }
}

/// A file as the recipe's reader would write it: relative to the recipe where that is possible.
fn file_name(file: &Path, root: &Path) -> Arc<str> {
    let relative: PathBuf = file.strip_prefix(root).unwrap_or(file).to_path_buf();
    Arc::from(relative.to_string_lossy().as_ref())
}

fn counted(files: usize) -> String {
    match files {
        1 => "1 file was read".to_owned(),
        count => format!("{count} files were read"),
    }
}

fn them(files: usize) -> &'static str {
    if files == 1 { "it" } else { "them" }
}
