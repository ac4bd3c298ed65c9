//! `metrics.jsonl`: every event of a run, one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::event::Event;

/// The file's name within the run's folder.
pub(crate) const FILE: &str = "metrics.jsonl";

/// Appends events to a run's `metrics.jsonl`.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file. A resumed run keeps the lines up to its step: what came after will be done again.
    pub(crate) fn open(run: &Path, step: usize) -> std::io::Result<Self> {
        let path = run.join(FILE);
        let kept = if step == 0 { String::new() } else { lines_until(&path, step)? };
        let part = run.join(format!("{FILE}.part"));
        std::fs::write(&part, kept)?;
        std::fs::rename(&part, &path)?;
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// Writes a line. Each is one call, so that a crash cuts at most the last.
    pub(crate) fn write(&mut self, event: &Event) -> std::io::Result<()> {
        if matches!(event, Event::Evaluating { .. }) {
            return Ok(());
        }
        let mut line = serde_json::to_string(event)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn lines_until(path: &Path, step: usize) -> std::io::Result<String> {
    let mut kept = String::new();
    let Ok(file) = File::open(path) else { return Ok(kept) };
    for line in BufReader::new(file).lines() {
        let line = line?;
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        let at = value.get("step").and_then(Value::as_u64).unwrap_or(0);
        let is_start = value.get("event").and_then(Value::as_str) == Some("start");
        if at <= step as u64 || (is_start && at <= step as u64 + 1) {
            kept.push_str(&line);
            kept.push('\n');
        }
    }
    Ok(kept)
}
