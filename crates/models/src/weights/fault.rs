//! What can be wrong with weight files, in words for the person who has them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::gguf::{GgufError, GgufProblem};

/// Why weights could not be read or written.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The folder holds no safetensors weights.
    #[error("{}: no model.safetensors and no model.safetensors.index.json; {hint}", folder.display())]
    NoWeights {
        /// The folder that was given.
        folder: PathBuf,
        /// What was found instead, and what to do.
        hint: String,
    },
    /// The weights are there only as pickles, which run code when they are read.
    #[error(
        "{}: the weights are pickle files ({}), which are never read because loading one runs the code inside it; \
         convert the model to safetensors, or take a revision that has model.safetensors",
        folder.display(), files.join(", ")
    )]
    PickleOnly {
        /// The folder that was given.
        folder: PathBuf,
        /// The pickle files in it.
        files: Vec<String>,
    },
    /// Files that do not hold what they say; every fault found.
    #[error("{}", Lines(faults))]
    Unreadable {
        /// At least one.
        faults: Vec<FileFault>,
    },
    /// A GGUF model whose files cannot be told.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A folder that already holds other weights.
    #[error("{}: weights are already here; write into an empty folder", file.display())]
    Occupied {
        /// A weight file that is in the way.
        file: PathBuf,
    },
    /// What was to be written is not a set of tensors.
    #[error("{}: cannot be planned: {reason}", folder.display())]
    Plan {
        /// Where the files would have gone.
        folder: PathBuf,
        /// What is wrong with the names or shapes.
        reason: String,
    },
    /// A tensor's bytes were not as many as planned: a fault of the program, not of its input.
    #[error("{tensor}: {expected} bytes were planned and {found} produced")]
    WrongLength {
        /// The tensor.
        tensor: String,
        /// From its shape and type.
        expected: u64,
        /// What was produced before the fault was noticed.
        found: u64,
    },
    /// The disk or the quota is full. The partial file has been removed.
    #[error(
        "{}: no space left after {written} of {needed} bytes; free at least {} bytes there, or write elsewhere ({source})",
        file.display(), needed.saturating_sub(*written)
    )]
    NoSpace {
        /// The file that was being written.
        file: PathBuf,
        /// Bytes of everything that was to be written.
        needed: u64,
        /// Bytes written before the fault.
        written: u64,
        /// The system's error.
        source: io::Error,
    },
    /// Any other failure of the file system.
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

impl WeightsError {
    pub(super) fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, action, source }
    }

    /// A failed write of `file`, when `written` of `needed` bytes were on the disk.
    pub(super) fn writing(file: &Path, needed: u64, written: u64, source: io::Error) -> Self {
        let file = file.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { file, needed, written, source }
            }
            _ => Self::Io { file, action: "write", source },
        }
    }
}

/// One thing wrong with one file.
#[derive(Debug, Error)]
#[error("{}: {problem}", file.display())]
pub struct FileFault {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: FileProblem,
}

/// What is wrong with a weight file.
#[derive(Debug, Error)]
pub enum FileProblem {
    /// The index names a file that is not there.
    #[error("named by the index and missing; download it again")]
    MissingShard,
    /// It cannot be opened or mapped.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// A folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// Fewer than the eight bytes that every safetensors file starts with.
    #[error("{found} bytes long: not a safetensors file (an interrupted download, or a Git LFS pointer?)")]
    TooShort {
        /// Its length.
        found: u64,
    },
    /// The header would reach beyond the file, or beyond what the format allows.
    #[error(
        "the header says it is {length} bytes long, of at most {limit} in this file of {file_length}; the file is truncated or \
         not safetensors: download it again"
    )]
    HeaderLength {
        /// What the first eight bytes say.
        length: u64,
        /// The most it can be.
        limit: u64,
        /// The length of the file.
        file_length: u64,
    },
    /// The header or the index is not the JSON that it should be.
    #[error("{what} is not what the format asks for: {reason}")]
    Json {
        /// `the header` or `the index`.
        what: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// A GGUF file that does not hold what it says.
    #[error(transparent)]
    Gguf(#[from] GgufProblem),
    /// A name that occurs twice.
    #[error("`{tensor}` occurs twice")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// A type that is not read.
    #[error("`{tensor}` is {found}: only F32, F16 and BF16 weights are read; take the unquantised model")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type, as the header spells it.
        found: String,
    },
    /// Shape and type ask for another number of bytes than the offsets give.
    #[error("`{tensor}` of shape {shape:?} in {dtype} takes {} bytes, its offsets {start}..{end} do not", bytes_text(*expected))]
    Size {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type, as the header spells it.
        dtype: String,
        /// Bytes by shape and type; `None` beyond 64 bits.
        expected: Option<u64>,
        /// Where it starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// A hole between two tensors, or two that overlap.
    #[error(
        "`{tensor}` starts at {found} where {expected} is the end of the tensor before it: tensors overlap or leave a hole"
    )]
    NotContiguous {
        /// The tensor.
        tensor: String,
        /// The end of the one before.
        expected: u64,
        /// Its own start.
        found: u64,
    },
    /// The file is not as long as its header says.
    #[error("{found} bytes long where its header describes {expected}: {}", if found < expected {
        "the file is truncated, download it again" } else { "there is data after the last tensor" })]
    FileLength {
        /// By the header.
        expected: u64,
        /// By the file system.
        found: u64,
    },
    /// The index sends a tensor to something that is not a file name in this folder.
    #[error("the index places `{tensor}` in `{path}`, which is not the name of a .safetensors file in this folder")]
    OutsideFolder {
        /// The tensor.
        tensor: String,
        /// What the index says.
        path: String,
    },
    /// The index names a tensor that the file lacks.
    #[error("`{tensor}` is placed here by the index and is not here")]
    NotInShard {
        /// The tensor.
        tensor: String,
    },
    /// The file holds a tensor that the index lacks or places elsewhere.
    #[error("`{tensor}` is here and the index {}", match indexed { Some(other) => format!("places it in {other}"), None => "does not name it".to_owned() })]
    NotIndexed {
        /// The tensor.
        tensor: String,
        /// Where the index places it.
        indexed: Option<String>,
    },
}

/// Faults beyond this many are counted, not printed: a hostile index could name millions.
const SHOWN: usize = 50;

struct Lines<'a>(&'a [FileFault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

fn bytes_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "more than 2^64".to_owned(), |bytes| bytes.to_string())
}
