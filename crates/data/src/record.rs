//! One training record, whatever file and format it came from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::dataset::RecordType;

/// Where a record stands, so that an error or a loss that is not a number can name it.
///
/// `line` is the 1-based line of JSON Lines and CSV, the 1-based element of a JSON array and the 1-based
/// row of Parquet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RecordSource {
    /// The file, as the recipe's reader would write it.
    #[serde(serialize_with = "as_str")]
    pub file: Arc<str>,
    /// Line, element or row, from 1.
    pub line: usize,
}

impl RecordSource {
    /// The record at `line` of `file`.
    pub fn new(file: impl Into<Arc<str>>, line: usize) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for RecordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A conversation, for the model's chat template.
    Chat {
        /// Messages in the form that chat templates expect: `role`, `content`, `tool_calls` with arguments
        /// as objects. OpenAI's `weight` is taken out.
        messages: Vec<Value>,
        /// For each message, whether it may be trained on: true for assistant turns without `weight: 0`.
        trained: Vec<bool>,
        /// Tools that the conversation may call.
        tools: Option<Value>,
    },
    /// A text and how it goes on.
    PromptCompletion {
        /// What the model is given.
        prompt: String,
        /// What it is to answer.
        completion: String,
    },
    /// Text to go on training on.
    Text(String),
}

/// A record and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// What it says.
    pub content: Content,
    /// Where it stands.
    pub source: RecordSource,
}

/// The records of one `datasets` entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// In the order of the files.
    pub records: Vec<Record>,
    /// The format that they were in.
    pub record_type: RecordType,
    /// Whether the format was recognised rather than given.
    pub detected: bool,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
}

fn as_str<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}
