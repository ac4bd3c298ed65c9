//! Why an export was not made.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rankine_models::adapter_file::AdapterFileError;
use rankine_models::config::ConfigError;
use rankine_models::gguf::GgufError;
use rankine_models::weights::WeightsError;
use thiserror::Error;

use crate::Target;
use crate::check::Finding;
use crate::portable::PortableFault;

/// Why an export was not made. Nothing is left of it, and what was at its place before still is.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The base's weights, or the writing of the merged ones.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// What a GGUF base has in place of a folder's files.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// The adapter was not trained over this base; every tensor that does not fit.
    #[error("the adapter {} does not fit the base {}:\n{}", adapter.display(), base.display(), Lines(faults))]
    Mismatch {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The base's folder.
        base: PathBuf,
        /// At least one.
        faults: Vec<MergeFault>,
    },
    /// A merged value that is no number.
    #[error(
        "`{tensor}`, row {row}: the merged value is {value}; the adapter or the base holds values that are not finite"
    )]
    NotFinite {
        /// The base's tensor.
        tensor: String,
        /// Its row.
        row: usize,
        /// `NaN` or `inf`.
        value: f32,
    },
    /// A value that the chosen type cannot hold.
    #[error("`{tensor}`, row {row}: {value} is beyond the range of {dtype}; export with dtype bf16 or f32")]
    Overflow {
        /// The base's tensor.
        tensor: String,
        /// Its row.
        row: usize,
        /// The value.
        value: f32,
        /// The type.
        dtype: &'static str,
    },
    /// `target: peft` of a model that has no adapter.
    #[error("there is no adapter to export: the model was trained in full; use the target `merged`")]
    NoAdapter,
    /// A setting that the target does not have.
    #[error("`{setting}` does not apply to the target `{target}`: leave it out")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// The target.
        target: Target,
    },
    /// What the target's readers cannot be told.
    #[error(
        "the target `{target}` cannot hold this adapter:\n{}\nmerge it instead: the target `merged`",
        Sentences(faults)
    )]
    NotPortable {
        /// The target.
        target: Target,
        /// At least one.
        faults: Vec<PortableFault>,
    },
    /// What the platform would reject, or load wrongly in silence.
    #[error("{} would not be accepted as `{target}`:\n{}", out.display(), Sentences(findings))]
    Rules {
        /// Where the export was to go.
        out: PathBuf,
        /// The target.
        target: Target,
        /// The errors.
        findings: Vec<Finding>,
    },
    /// Settings that the target's spelling cannot say.
    #[error("{}: {reason}", file.display())]
    Spelling {
        /// The file.
        file: PathBuf,
        /// What.
        reason: String,
    },
    /// Something at the export's place that it will not overwrite.
    #[error("{}: {reason}; choose another folder, or remove this one", out.display())]
    Occupied {
        /// Where the export was to go.
        out: PathBuf,
        /// What is there.
        reason: String,
    },
    /// A place inside the base or the adapter, or around them.
    #[error("{}: an export never changes what it is made of, and this is {} or in the way of it", out.display(), source_folder.display())]
    Overlap {
        /// Where the export was to go.
        out: PathBuf,
        /// The folder it would change.
        source_folder: PathBuf,
    },
    /// What the target's format cannot say, or its readers would understand in another way; all of it.
    #[error("the target `{target}` cannot hold this:\n  {}", reasons.join("\n  "))]
    Inexpressible {
        /// The target.
        target: Target,
        /// A sentence for each.
        reasons: Vec<String>,
    },
    /// The shape of the model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that the target cannot do without.
    #[error("{}: missing; it is needed for the target `{target}`", file.display())]
    MissingFile {
        /// The file.
        file: PathBuf,
        /// The target.
        target: Target,
    },
    /// A JSON file of the base that is none.
    #[error("{}: not a JSON object: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A text file of the base that is none.
    #[error("{}: not UTF-8 text; fetch the file again", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
    /// The file system.
    #[error("{}: cannot {action}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was being done, as a verb.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl ExportError {
    pub(crate) fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, action, source }
    }
}

/// One thing about an adapter that does not fit a base.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MergeFault {
    /// The base has no such tensor.
    #[error("`{key}` changes `{tensor}`, which the base does not have")]
    NoBaseTensor {
        /// The adapter's key.
        key: String,
        /// The base's tensor.
        tensor: String,
    },
    /// The shape is another.
    #[error("`{key}` has shape {found:?}, and {expected:?} is expected over the base")]
    Shape {
        /// The adapter's key.
        key: String,
        /// The shape that would fit.
        expected: Vec<usize>,
        /// The shape.
        found: Vec<usize>,
    },
    /// A matrix is expected.
    #[error("`{key}` changes `{tensor}`, which has shape {shape:?} in the base and is no matrix")]
    NotMatrix {
        /// The adapter's key.
        key: String,
        /// The base's tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// More tokens at one end of the model than at the other.
    #[error(
        "the adapter extends the vocabulary at one end only: the embedding has {embedding} tokens and the head {head}"
    )]
    Vocabulary {
        /// Rows of the embedding.
        embedding: usize,
        /// Rows of the head.
        head: usize,
    },
    /// A module that should carry an adapter and does not.
    #[error("`{module}` is targeted by adapter_config.json, and the adapter has no tensors for it")]
    MissingAdapter {
        /// The module's path.
        module: String,
    },
    /// A module that should be saved in full and is not.
    #[error("`{tensor}` is named by modules_to_save, and the adapter does not hold it")]
    MissingSaved {
        /// The base's tensor.
        tensor: String,
    },
}

/// Another base mismatches in hundreds of tensors, and the first few say as much.
const SHOWN: usize = 40;

/// A line each.
struct Sentences<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Sentences<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|fault| format!("  {fault}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

struct Lines<'a>(&'a [MergeFault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}  {fault}", if i == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  ... and {more} more"),
        }
    }
}
