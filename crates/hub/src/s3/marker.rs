//! The small object that says whether an upload is whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::local::{Content, LocalFile};

/// Its name, beside the files.
pub const MARKER: &str = "rankine-upload.json";

/// What it holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) state: State,
    pub(super) files: BTreeMap<String, Content>,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Files are being sent, or were.
    Sending,
    /// All are there, and were compared.
    Whole,
}

impl Marker {
    pub(super) fn new(state: State, files: &[LocalFile]) -> Self {
        let files = files.iter().map(|file| (file.name.clone(), file.content.clone())).collect();
        Self { state, files }
    }

    /// `None` where it is somebody else's.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        // A map of names to numbers and digits.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}
