//! A folder that is being checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::finding::{Finding, Level, Rule};
use crate::error::ExportError;
use crate::target::Target;

/// A folder with what was found in it so far.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) target: Target,
    /// Bytes of the files at the top, by name.
    pub(super) files: BTreeMap<String, u64>,
    /// The folders at the top.
    pub(super) folders: Vec<String>,
    pub(super) findings: Vec<Finding>,
}

/// A JSON file.
pub(super) enum Json {
    Missing,
    /// With the parser's words.
    Invalid(String),
    Object(Map<String, Value>),
}

impl Json {
    pub(super) fn object(self) -> Option<Map<String, Value>> {
        match self {
            Self::Object(map) => Some(map),
            Self::Missing | Self::Invalid(_) => None,
        }
    }
}

impl Folder {
    pub(super) fn open(path: &Path, target: Target) -> Result<Self, ExportError> {
        let mut folder =
            Self { path: path.to_owned(), target, files: BTreeMap::new(), folders: Vec::new(), findings: Vec::new() };
        for entry in fs::read_dir(path).map_err(ExportError::io(path, "list"))? {
            let entry = entry.map_err(ExportError::io(path, "list"))?;
            // Through links: a cache's snapshot consists of them.
            let Ok(about) = fs::metadata(entry.path()) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if about.is_dir() {
                folder.folders.push(name);
            } else {
                folder.files.insert(name, about.len());
            }
        }
        folder.folders.sort();
        Ok(folder)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    pub(super) fn json(&self, name: &str) -> Json {
        let path = self.path.join(name);
        if !path.is_file() {
            return Json::Missing;
        }
        let parsed = fs::read(&path).map_err(|error| error.to_string());
        match parsed.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string())) {
            Ok(map) => Json::Object(map),
            Err(reason) => Json::Invalid(reason),
        }
    }

    pub(super) fn error(&mut self, rule: Rule, file: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.note(rule, Level::Error, file, what, fix);
    }

    pub(super) fn warn(&mut self, rule: Rule, file: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.note(rule, Level::Warning, file, what, fix);
    }

    pub(super) fn note(
        &mut self,
        rule: Rule,
        level: Level,
        file: &str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding { rule, level, file: file.to_owned(), what: what.into(), fix: fix.into() });
    }

    /// Whether something is served from the folder, and not only loaded by a program that may bring its own.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.target, Target::Bedrock | Target::HfEndpoint | Target::Sagemaker)
    }

    /// An error where the folder is served, else a warning.
    pub(super) fn served_level(&self) -> Level {
        if self.is_served() { Level::Error } else { Level::Warning }
    }
}
