//! What tokenising noticed of single records, for the checks of [`proof`](crate::proof).

use serde::{Deserialize, Serialize};

use crate::record::RecordSource;

/// Something about one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The record.
    pub source: RecordSource,
    /// Which of the datasets it is in.
    pub dataset: u32,
    /// What was noticed.
    pub kind: RemarkKind,
}

/// What can be noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemarkKind {
    /// No token of it would be trained on, whatever its length. It was left out.
    NothingTrained,
    /// Every token but the first is trained on: the model would learn to write the prompt, too.
    EverythingTrained,
    /// All that would be trained on lies beyond `max_seq_len`. It was left out.
    CutAway {
        /// Tokens before it was cut.
        tokens: usize,
    },
    /// A part of what is trained on lies beyond `max_seq_len`.
    AnswerCut {
        /// Tokens before it was cut.
        tokens: usize,
        /// Trained tokens that were cut off.
        lost: usize,
    },
    /// The template does not show where the answer begins: where it parts. The record was left out.
    NotPrefixStable(String),
    /// The template leaves out what the record has.
    TemplateDrops(String),
    /// A message that the model does not write spells a special token, which then becomes that token.
    SpecialToken {
        /// Which message, from 0.
        message: usize,
        /// Its role.
        role: String,
        /// The token.
        token: String,
    },
}
