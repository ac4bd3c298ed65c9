//! The header: version, metadata, and where each tensor lies.

use std::collections::BTreeSet;

use super::cursor::Cursor;
use super::fault::GgufProblem;
use super::metadata::{Metadata, Value};

/// Where tensors begin, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The most dimensions of the format.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays of arrays: none of llama.cpp's keys goes beyond one.
const MAX_NESTING: usize = 4;

/// Everything before the data of a file, checked for itself. What the tensors' entries claim is not yet checked
/// against the file: [`super::places`] does that.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
    /// Of every tensor's first byte.
    pub(crate) alignment: u64,
    /// Where the data begins.
    pub(crate) data_start: u64,
}

/// A tensor's entry, as the file has it.
#[derive(Debug)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    /// Rows first, as PyTorch has it: the file has the innermost dimension first.
    pub(crate) shape: Vec<u64>,
    /// The number of its format.
    pub(crate) code: u32,
    /// From where the data begins.
    pub(crate) offset: u64,
}

impl Header {
    /// Reads the header at the beginning of `bytes`, which may be the whole file.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, GgufProblem> {
        let mut cursor = Cursor::new(bytes);
        let magic = bytes.get(..4).unwrap_or(bytes);
        if magic != b"GGUF" {
            return Err(GgufProblem::Magic { found: String::from_utf8_lossy(magic).into_owned() });
        }
        cursor.take(4, "the magic number")?;
        let version = cursor.u32("the version")?;
        if !matches!(version, 2 | 3) {
            let swapped = version.swap_bytes();
            let big_endian = matches!(swapped, 1..=3);
            return Err(GgufProblem::Version { version: if big_endian { swapped } else { version }, big_endian });
        }
        // A name's length, a number of dimensions, one dimension, a format and an offset.
        const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;
        // A key's length, a type and a byte.
        const LEAST_PAIR: u64 = 8 + 4 + 1;
        let tensors = cursor.count(LEAST_TENSOR, "the number of tensors")?;
        let pairs = cursor.count(LEAST_PAIR, "the number of metadata keys")?;
        let mut metadata = Metadata::default();
        for index in 0..pairs {
            let key = cursor.name(&format!("the name of metadata key {}", index + 1))?;
            let kind = cursor.u32(&format!("the type of `{key}`"))?;
            let value = value(&mut cursor, &key, kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufProblem::Duplicate { what: "the metadata key", name: key });
            }
        }
        let tensors = tensor_infos(&mut cursor, tensors)?;
        let alignment = alignment(&metadata)?;
        // A file without tensors may end with its header, unpadded.
        let data_start = (cursor.at() as u64).next_multiple_of(alignment);
        Ok(Self { metadata, tensors, alignment, data_start })
    }
}

fn tensor_infos(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<TensorInfo>, GgufProblem> {
    let mut infos = Vec::new();
    let mut names = BTreeSet::new();
    for index in 0..count {
        let name = cursor.name(&format!("the name of tensor {}", index + 1))?;
        let dimensions = cursor.u32(&format!("the shape of `{name}`"))?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(GgufProblem::Dimensions { tensor: name, found: dimensions });
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            shape.push(cursor.u64(&format!("the shape of `{name}`"))?);
        }
        shape.reverse();
        let code = cursor.u32(&format!("the format of `{name}`"))?;
        let offset = cursor.u64(&format!("the offset of `{name}`"))?;
        if !names.insert(name.clone()) {
            return Err(GgufProblem::Duplicate { what: "the tensor", name });
        }
        infos.push(TensorInfo { name, shape, code, offset });
    }
    Ok(infos)
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufProblem> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(value) => match value.as_u64() {
            Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => Ok(alignment),
            _ => Err(GgufProblem::Alignment { found: value.to_string() }),
        },
    }
}

fn value(cursor: &mut Cursor<'_>, key: &str, kind: u32, depth: usize) -> Result<Value, GgufProblem> {
    let what = format!("the value of `{key}`");
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(cursor.array(&what)?).into()),
        1 => Value::Signed(i8::from_le_bytes(cursor.array(&what)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(cursor.array(&what)?).into()),
        3 => Value::Signed(i16::from_le_bytes(cursor.array(&what)?).into()),
        4 => Value::Unsigned(cursor.u32(&what)?.into()),
        5 => Value::Signed(i32::from_le_bytes(cursor.array(&what)?).into()),
        6 => Value::Single(f32::from_le_bytes(cursor.array(&what)?)),
        7 => match u8::from_le_bytes(cursor.array(&what)?) {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            found => return Err(GgufProblem::Truth { key: key.to_owned(), found }),
        },
        8 => match std::str::from_utf8(cursor.bytes(&what)?) {
            Ok(text) => Value::String(text.to_owned()),
            // Some descriptions were cut inside a character. Whoever needs this one is told.
            Err(_) => Value::NotText,
        },
        9 => {
            if depth == MAX_NESTING {
                return Err(GgufProblem::Nested { key: key.to_owned(), most: MAX_NESTING });
            }
            let kind = cursor.u32(&what)?;
            let least = match kind {
                0 | 1 | 7 => 1,
                2 | 3 => 2,
                4..=6 => 4,
                8 | 10..=12 => 8,
                9 => 4 + 8,
                found => return Err(GgufProblem::ValueType { key: key.to_owned(), found }),
            };
            let count = cursor.count(least, &format!("the length of `{key}`"))?;
            cursor.spend(count, &format!("`{key}`"))?;
            Value::Array((0..count).map(|_| value(cursor, key, kind, depth + 1)).collect::<Result<_, _>>()?)
        }
        10 => Value::Unsigned(cursor.u64(&what)?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array(&what)?)),
        12 => Value::Double(f64::from_le_bytes(cursor.array(&what)?)),
        found => return Err(GgufProblem::ValueType { key: key.to_owned(), found }),
    })
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
