//! What can be wrong with a GGUF file, in words for the person who has it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::ggml_type::GgmlType;

/// Why a GGUF file cannot be used as a model.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file or its folder cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not what the format asks for.
    #[error("{}: {problem}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: GgufProblem,
    },
    /// The metadata do not describe a model that is supported.
    #[error("{}: {}", file.display(), faults.join("; "))]
    Metadata {
        /// The file.
        file: PathBuf,
        /// A sentence for each fault.
        faults: Vec<String>,
    },
    /// Several models in one folder.
    #[error("{}: there are several GGUF files ({}); give the path of one of them", folder.display(), files.join(", "))]
    Several {
        /// The folder.
        folder: PathBuf,
        /// The names of the files, the parts of a split model counted as one.
        files: Vec<String>,
    },
    /// A model in several files, of which some are not there.
    #[error("{}: one of {count} files of a split model, and not there: {}; download the missing files into the same folder", file.display(), missing.join(", "))]
    MissingParts {
        /// The file that was given.
        file: PathBuf,
        /// Files in all.
        count: usize,
        /// The names of the missing ones.
        missing: Vec<String>,
    },
}

/// What is wrong with the bytes of a GGUF file.
#[derive(Debug, Error)]
pub enum GgufProblem {
    /// Another kind of file.
    #[error(
        "not a GGUF file: it begins with {found:?} where \"GGUF\" is expected (an interrupted download, or a Git LFS pointer?)"
    )]
    Magic {
        /// The first bytes, as text.
        found: String,
    },
    /// A version that is not read.
    #[error("GGUF version {version}, of which 2 and 3 are read{}", if *big_endian { " (the file is big-endian: convert it for this machine)" } else { "; convert the model again with a newer llama.cpp" })]
    Version {
        /// As the file has it, or turned round.
        version: u32,
        /// Whether it was written for machines of the other byte order.
        big_endian: bool,
    },
    /// The file ends inside something.
    #[error(
        "the file ends inside {what}: {needed} bytes are expected at offset {at}, and {left} are left; it is truncated or damaged: download it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where.
        at: u64,
        /// Bytes that it says it has.
        needed: u64,
        /// Bytes that the file still has.
        left: u64,
    },
    /// More things than the rest of the file can hold.
    #[error(
        "{what} at offset {at} is {count}, and the rest of the file cannot hold more than {most}; it is truncated or damaged: download it again"
    )]
    Count {
        /// The number of what.
        what: String,
        /// Where.
        at: u64,
        /// As the file has it.
        count: u64,
        /// The most that could be there.
        most: u64,
    },
    /// More array elements than any model has.
    #[error(
        "{what} brings the elements of all arrays over {most}, which no model has; the file is damaged: download it again"
    )]
    TooLarge {
        /// The array.
        what: String,
        /// The limit.
        most: u64,
    },
    /// A name that is not UTF-8.
    #[error("{what} at offset {at} is not UTF-8; the file is damaged: download it again")]
    NotText {
        /// Of what.
        what: String,
        /// Where.
        at: u64,
    },
    /// A type of metadata that the format does not have.
    #[error(
        "`{key}` has the value type {found}, and the format's types are 0 to 12; the file is damaged: download it again"
    )]
    ValueType {
        /// The key.
        key: String,
        /// The number of the type.
        found: u32,
    },
    /// A truth value that is neither.
    #[error("`{key}` is the truth value {found}: 0 or 1 is expected; the file is damaged: download it again")]
    Truth {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// Arrays in arrays in arrays.
    #[error("`{key}` has arrays nested deeper than {most}")]
    Nested {
        /// The key.
        key: String,
        /// The limit.
        most: usize,
    },
    /// A name that occurs twice.
    #[error("{what} `{name}` occurs twice")]
    Duplicate {
        /// A key or a tensor.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An alignment that is none.
    #[error("`general.alignment` is {found}: a power of two from 1 to 2^20 is expected")]
    Alignment {
        /// As the file has it.
        found: String,
    },
    /// A tensor with too many dimensions, or with none.
    #[error("`{tensor}` has {found} dimensions: 1 to 4 are expected")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// As the file has it.
        found: u32,
    },
    /// A shape whose number of values cannot be.
    #[error("`{tensor}` of shape {shape:?} has no value, or more than 2^63 bytes")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, rows first.
        shape: Vec<u64>,
    },
    /// A row that is not made of whole blocks.
    #[error("`{tensor}` has rows of {columns} values in {kind}, whose blocks have {}", kind.block_values())]
    RowLength {
        /// The tensor.
        tensor: String,
        /// Values of a row.
        columns: u64,
        /// Its type.
        kind: GgmlType,
    },
    /// A tensor that reaches beyond the file.
    #[error(
        "`{tensor}` takes {bytes} bytes from offset {start} of the data, which has {length}; the file is truncated: download it again"
    )]
    Outside {
        /// The tensor.
        tensor: String,
        /// Its first byte, counted from where the data begins.
        start: u64,
        /// Its length.
        bytes: u64,
        /// Bytes of data.
        length: u64,
    },
    /// A tensor that does not begin where tensors may.
    #[error("`{tensor}` starts at offset {start} of the data, which is no multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Two tensors share bytes.
    #[error("`{tensor}` starts at {start}, before the end of `{before}` at {end}: tensors overlap")]
    Overlap {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// The tensor before it.
        before: String,
        /// Its end.
        end: u64,
    },
    /// Tensors in formats that are not read; every one of them.
    #[error("{}; {} are read: take the model in one of them, or as safetensors", unsupported(by_type), GgmlType::NAMES.join(", "))]
    Unsupported {
        /// The tensors' names by their format.
        by_type: Vec<(String, Vec<String>)>,
    },
    /// Metadata without which the tensors cannot be read.
    #[error("{0}")]
    Metadata(String),
    /// Query or key rows that do not make whole heads.
    #[error("`{tensor}` has {rows} rows, which are not {heads} heads of an even width")]
    Heads {
        /// The tensor.
        tensor: String,
        /// Its rows.
        rows: u64,
        /// By the metadata.
        heads: u64,
    },
}

fn unsupported(by_type: &[(String, Vec<String>)]) -> String {
    let one = |(kind, names): &(String, Vec<String>)| match names.as_slice() {
        [name] => format!("the tensor `{name}` is in the format {kind}, which is not supported"),
        names => {
            format!("{} tensors are in the format {kind}, which is not supported ({})", names.len(), names.join(", "))
        }
    };
    by_type.iter().map(one).collect::<Vec<_>>().join("; ")
}
