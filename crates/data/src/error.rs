//! What can be wrong with data, said so that it can be put right.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::proof::Proof;
use crate::record::RecordSource;
use crate::template::TemplateError;

/// How many faults of one kind are written out; the rest are counted.
const SHOWN: usize = 10;

/// Why data could not be read, rendered, tokenised or cached.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or folder that could not be opened, read or written.
    #[error("{}: could not {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No data where the recipe says that there is some.
    #[error("{}: {expected}\n  help: {help}", path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
        /// What was looked for and what was found.
        expected: String,
        /// What to do.
        help: String,
    },
    /// A file that is not what its name says.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// Records with faults, all of them at once.
    #[error("{0}")]
    Records(Faults),
    /// A dataset's settings that contradict themselves.
    #[error("dataset `{path}`: {message}")]
    Config {
        /// `path` of the dataset.
        path: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A model folder without a tokenizer that can be read.
    #[error("{}: no tokenizer\n  looked for: {looked_for}\n  help: {help}", folder.display())]
    MissingTokenizer {
        /// The folder.
        folder: PathBuf,
        /// The files that were looked for.
        looked_for: String,
        /// What to do.
        help: String,
    },
    /// A tokenizer that failed on a text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A chat template that cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Records of a stream that a check refuses, when their turn comes.
    #[error("{}", refused(.0))]
    Checks(Proof),
    /// After masking and truncation nothing was left to learn.
    #[error("{0}")]
    NothingTrained(String),
}

fn refused(proof: &Proof) -> String {
    let mut text = "a check stops what was to be trained on next".to_owned();
    for finding in proof.stopping() {
        text.push_str(&format!("\n{}: {}", finding.check, finding.details()));
        finding.help.iter().for_each(|help| text.push_str(&format!("\n  help: {help}")));
    }
    text
}

/// One record that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub source: RecordSource,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A message of several lines stays under its own file and line.
        write!(f, "{}: {}", self.source, self.message.replace('\n', "\n    "))
    }
}

/// Faults of many records: the first few in words, the rest as a count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    shown: Vec<Fault>,
    count: usize,
    help: Option<String>,
}

impl Faults {
    /// Adds a fault.
    pub fn push(&mut self, source: RecordSource, message: impl Into<String>) {
        self.count += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(Fault { source, message: message.into() });
        }
    }

    /// What to do about all of them; the first advice stays.
    pub fn help(&mut self, help: impl Into<String>) {
        if self.help.is_none() {
            self.help = Some(help.into());
        }
    }

    /// How many there are, those that are not shown included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The faults that are written out.
    pub fn shown(&self) -> &[Fault] {
        &self.shown
    }

    /// An error if there are any.
    pub(crate) fn into_result(self) -> Result<(), DataError> {
        if self.is_empty() { Ok(()) } else { Err(DataError::Records(self)) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "1 record cannot be used:")?,
            count => write!(f, "{count} records cannot be used:")?,
        }
        for fault in &self.shown {
            write!(f, "\n  {fault}")?;
        }
        if self.count > self.shown.len() {
            write!(f, "\n  and {} more", self.count - self.shown.len())?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_faults_are_counted_but_not_all_shown() {
        let mut faults = Faults::default();
        for line in 1..=25 {
            faults.push(RecordSource::new("a.jsonl", line), "no `text`");
        }
        faults.help("add it");
        let text = faults.to_string();
        assert!(text.starts_with("25 records cannot be used:\n  a.jsonl:1: no `text`"), "{text}");
        assert!(text.contains("a.jsonl:10:") && !text.contains("a.jsonl:11:"), "{text}");
        assert!(text.ends_with("\n  and 15 more\n  help: add it"), "{text}");
    }
}
