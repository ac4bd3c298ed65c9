//! Adapters in GGUF files: what `llama-adapter.cpp` of llama.cpp reads.

use std::fs::File;
use std::path::Path;

use rankine_ops::FileMap;

use super::dequantize::dequantize;
use super::fault::{GgufError, GgufProblem};
use super::header::Header;
use super::names::checkpoint_name;
use super::tensors::{place_of, stored_row};

/// What the name of an adapter's factor ends with.
pub const LORA_A: &str = ".lora_a";
/// What the name of an adapter's other factor ends with.
pub const LORA_B: &str = ".lora_b";

/// An adapter as a GGUF file has it, with the names of the base's checkpoint.
#[derive(Debug, Clone)]
pub struct GgufAdapter {
    /// `general.architecture`.
    pub architecture: String,
    /// `adapter.lora.alpha`: every update is scaled by it over its own rank.
    pub alpha: f32,
    /// Of each adapted tensor.
    pub updates: Vec<GgufUpdate>,
}

/// One update, as the file has it: queries and keys of `llama` have the rows of `b` interleaved.
#[derive(Debug, Clone)]
pub struct GgufUpdate {
    /// The base's tensor in a checkpoint.
    pub tensor: String,
    /// Rows, columns and values.
    pub a: (usize, usize, Vec<f32>),
    /// Rows, columns and values.
    pub b: (usize, usize, Vec<f32>),
}

/// Reads an adapter's file.
///
/// # Errors
/// A file that cannot be read, is not GGUF, or is no adapter.
pub fn read_adapter(path: &Path) -> Result<GgufAdapter, GgufError> {
    let map = File::open(path).and_then(|opened| FileMap::new(&opened));
    let map = map.map_err(|source| GgufError::Unreadable { file: path.to_owned(), source })?;
    read(&map).map_err(|problem| GgufError::Header { file: path.to_owned(), problem })
}

fn read(bytes: &[u8]) -> Result<GgufAdapter, GgufProblem> {
    let header = Header::read(bytes)?;
    let text = |key: &str| header.metadata.text(key).unwrap_or_default();
    for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        if text(key) != expected {
            return Err(GgufProblem::Metadata(format!("`{key}` is `{}`: {expected} is expected", text(key))));
        }
    }
    let alpha = header.metadata.get("adapter.lora.alpha").and_then(|value| value.as_f64()).unwrap_or(0.0) as f32;
    let mut updates = Vec::new();
    for info in &header.tensors {
        let Some(name) = info.name.strip_suffix(LORA_A) else { continue };
        let other = format!("{name}{LORA_B}");
        let pair = header.tensors.iter().find(|tensor| tensor.name == other);
        let (Some(pair), Some(tensor)) = (pair, checkpoint_name(name)) else {
            return Err(GgufProblem::Metadata(format!(
                "`{}` belongs to no known tensor, or has no `{other}`",
                info.name
            )));
        };
        let values = |info| {
            let place = place_of(info, &header, bytes.len() as u64)?;
            let &[rows, columns] = place.shape.as_slice() else {
                return Err(GgufProblem::Metadata(format!("`{name}`: a matrix is expected")));
            };
            let mut values = vec![0.0; rows * columns];
            dequantize(place.packing.kind, &bytes[place.range], &mut values);
            Ok((rows, columns, values))
        };
        updates.push(GgufUpdate { tensor, a: values(info)?, b: values(pair)? });
    }
    if updates.is_empty() {
        return Err(GgufProblem::Metadata(format!("there is no tensor whose name ends with {LORA_A}")));
    }
    Ok(GgufAdapter { architecture: text("general.architecture").to_owned(), alpha, updates })
}

impl GgufUpdate {
    /// `b` with the rows of heads of that width as a checkpoint has them.
    pub fn straightened(&self, width: usize) -> Vec<f32> {
        let (rows, columns, values) = &self.b;
        (0..*rows)
            .flat_map(|row| {
                let at = stored_row(row, width) * columns;
                values[at..at + columns].iter().copied()
            })
            .collect()
    }
}
