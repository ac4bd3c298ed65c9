//! Where each tensor lies, under its name in a Hugging Face checkpoint, and reading it as that checkpoint has it.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::dequantize::dequantize;
use super::fault::GgufProblem;
use super::ggml_type::GgmlType;
use super::header::{Header, TensorInfo};
use super::metadata::Metadata;
use super::names::checkpoint_name;

/// Long-context factors of the rotary frequencies, which are part of the configuration and no weight.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What of the metadata decides how tensors are to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Query and key heads, where their rows are interleaved.
    heads: Option<(u64, u64)>,
}

/// One tensor of a file.
#[derive(Debug)]
pub(crate) struct TensorPlace {
    /// As a Hugging Face checkpoint names it.
    pub(crate) name: String,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    /// In the file, header included.
    pub(crate) range: Range<usize>,
    pub(crate) packing: Packing,
}

/// How a tensor's values are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(crate) kind: GgmlType,
    /// Values of a row.
    pub(crate) columns: usize,
    /// The width of the heads whose rows are interleaved.
    pub(crate) interleaved: Option<usize>,
}

/// The bytes of a tensor with their packing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) packing: Packing,
    pub(crate) bytes: &'a [u8],
}

impl Layout {
    /// From the metadata of the model's first file.
    pub(crate) fn of(metadata: &Metadata) -> Result<Self, GgufProblem> {
        let needed = |what: String| GgufProblem::Metadata(what);
        let architecture = metadata
            .text("general.architecture")
            .ok_or_else(|| needed("`general.architecture` is missing: llama, qwen2 or qwen3 is expected".to_owned()))?;
        // llama.cpp's converter reorders the rows of this family alone, whose rotary pairs are neighbours in ggml.
        if architecture != "llama" {
            return Ok(Self { heads: None });
        }
        let key = "llama.attention.head_count";
        let heads =
            metadata.number(key).ok_or_else(|| needed(format!("`{key}` is missing: a whole number is expected")))?;
        let groups = metadata.number("llama.attention.head_count_kv").unwrap_or(heads);
        Ok(Self { heads: Some((heads, groups)) })
    }
}

/// Checks every entry against the file's length and gives it its checkpoint's name, in the order of the file; or says
/// everything that is wrong.
pub(crate) fn places(header: &Header, layout: Layout, file_length: u64) -> Result<Vec<TensorPlace>, Vec<GgufProblem>> {
    let mut problems = Vec::new();
    let mut unsupported: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut places = Vec::new();
    let length = file_length.saturating_sub(header.data_start);
    for info in &header.tensors {
        match GgmlType::from_code(info.code) {
            Err(kind) => unsupported.entry(kind).or_default().push(info.name.clone()),
            Ok(kind) => match place(info, kind, layout, header, length) {
                Ok(place) => places.push((info, place)),
                Err(problem) => problems.push(problem),
            },
        }
    }
    if !unsupported.is_empty() {
        problems.push(GgufProblem::Unsupported { by_type: unsupported.into_iter().collect() });
    }
    places.sort_by_key(|(_, place)| (place.range.start, place.range.end));
    for pair in places.windows(2) {
        let [(before, first), (info, second)] = pair else { continue };
        if second.range.start < first.range.end {
            problems.push(GgufProblem::Overlap {
                tensor: info.name.clone(),
                start: info.offset,
                before: before.name.clone(),
                end: first.range.end as u64 - header.data_start,
            });
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(places.into_iter().filter(|(info, _)| info.name != ROPE_FACTORS).map(|(_, place)| place).collect())
}

/// One tensor alone, its rows as they lie.
pub(super) fn place_of(info: &TensorInfo, header: &Header, file_length: u64) -> Result<TensorPlace, GgufProblem> {
    let unsupported = |kind| GgufProblem::Unsupported { by_type: vec![(kind, vec![info.name.clone()])] };
    let kind = GgmlType::from_code(info.code).map_err(unsupported)?;
    place(info, kind, Layout { heads: None }, header, file_length.saturating_sub(header.data_start))
}

fn place(
    info: &TensorInfo,
    kind: GgmlType,
    layout: Layout,
    header: &Header,
    length: u64,
) -> Result<TensorPlace, GgufProblem> {
    let tensor = || info.name.clone();
    let impossible = || GgufProblem::Shape { tensor: tensor(), shape: info.shape.clone() };
    let values = info.shape.iter().try_fold(1_u64, |product, d| product.checked_mul(*d)).filter(|values| *values > 0);
    let values = values.ok_or_else(impossible)?;
    let columns = info.shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(kind.block_values() as u64) {
        return Err(GgufProblem::RowLength { tensor: tensor(), columns, kind });
    }
    let bytes = (values / kind.block_values() as u64).checked_mul(kind.block_bytes() as u64);
    let bytes = bytes.filter(|bytes| *bytes <= i64::MAX as u64).ok_or_else(impossible)?;
    let start = info.offset;
    if !start.is_multiple_of(header.alignment) {
        return Err(GgufProblem::Misaligned { tensor: tensor(), start, alignment: header.alignment });
    }
    let end = start.checked_add(bytes).filter(|end| *end <= length);
    let Some(end) = end else { return Err(GgufProblem::Outside { tensor: tensor(), start, bytes, length }) };
    // Both are at most the file's length.
    let range = (header.data_start + start) as usize..(header.data_start + end) as usize;
    let (interleaved, columns) = interleaved(info, kind, layout, columns)?;
    let shape = info.shape.iter().map(|d| *d as usize).collect();
    let packing = Packing { kind, columns: columns as usize, interleaved };
    // A name that is not known stays as it is: whoever loads the model lists it.
    let name = checkpoint_name(&info.name).unwrap_or_else(|| info.name.clone());
    Ok(TensorPlace { name, shape, range, packing })
}

/// The width of the heads, where the tensor is a query's or key's weight or bias with interleaved rows; and the values
/// of a row, which is one value in a bias.
fn interleaved(
    info: &TensorInfo,
    kind: GgmlType,
    layout: Layout,
    columns: u64,
) -> Result<(Option<usize>, u64), GgufProblem> {
    let part = info.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, part)| part);
    let heads = match (layout.heads, part) {
        (Some((queries, _)), Some("attn_q.weight" | "attn_q.bias")) => queries,
        (Some((_, keys)), Some("attn_k.weight" | "attn_k.bias")) => keys,
        _ => return Ok((None, columns)),
    };
    let rows = info.shape.first().copied().unwrap_or(1);
    let columns = if info.shape.len() == 1 { 1 } else { columns };
    if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) || info.shape.len() > 2 {
        return Err(GgufProblem::Heads { tensor: info.name.clone(), rows, heads });
    }
    if !columns.is_multiple_of(kind.block_values() as u64) {
        return Err(GgufProblem::RowLength { tensor: info.name.clone(), columns, kind });
    }
    Ok((Some((rows / heads) as usize), columns))
}

impl Packed<'_> {
    /// The values `range` (counted row by row, as the checkpoint has them) as f32, on all cores.
    ///
    /// # Panics
    /// Where the range does not lie in the tensor or `out` is not as long as it.
    pub(crate) fn read_into(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "values of the range");
        let columns = self.packing.columns;
        let (first, offset) = (range.start / columns, range.start % columns);
        let head = if offset == 0 { 0 } else { (columns - offset).min(out.len()) };
        let (head, rest) = out.split_at_mut(head);
        if !head.is_empty() {
            self.read_part(first, offset, head);
        }
        let first = if offset == 0 { first } else { first + 1 };
        // A row of a bias is one value: many rows for one thread at a time.
        let rows = 16_384_usize.div_ceil(columns);
        rest.par_chunks_mut(rows * columns).enumerate().for_each(|(chunk, out)| {
            for (row, out) in out.chunks_mut(columns).enumerate() {
                self.read_part(first + chunk * rows + row, 0, out);
            }
        });
    }

    /// Some values of a row, from `offset` on.
    fn read_part(&self, row: usize, offset: usize, out: &mut [f32]) {
        let Packing { kind, columns, .. } = self.packing;
        let width = columns / kind.block_values() * kind.block_bytes();
        let row = self.packing.interleaved.map_or(row, |head| stored_row(row, head));
        let bytes = &self.bytes[row * width..(row + 1) * width];
        if out.len() == columns {
            return dequantize(kind, bytes, out);
        }
        let values = kind.block_values();
        let blocks = offset / values..(offset + out.len()).div_ceil(values);
        let mut whole = vec![0.0; blocks.len() * values];
        dequantize(kind, &bytes[blocks.start * kind.block_bytes()..blocks.end * kind.block_bytes()], &mut whole);
        let from = offset - blocks.start * values;
        out.copy_from_slice(&whole[from..from + out.len()]);
    }
}

/// Where the checkpoint's row lies in the file. Rotary positions pair value `i` of a head with value `i + e / 2`; in
/// ggml's llama the two are neighbours, so rows `(half, i)` of a head of `width` rows lie at `(i, half)`.
pub(super) fn stored_row(row: usize, width: usize) -> usize {
    let (head, within) = (row / width, row % width);
    let (half, i) = (within / (width / 2), within % (width / 2));
    head * width + 2 * i + half
}

/// The rows of a query's or key's weight or bias in the order in which the `llama` architecture has them. `bytes` are
/// whole rows as the checkpoint has them, `width` is that of a head.
///
/// # Panics
/// Where `bytes` are not `rows` rows, or the rows not whole heads of an even width.
pub fn interleave_rows(bytes: &[u8], rows: usize, width: usize) -> Vec<u8> {
    assert!(rows > 0 && bytes.len().is_multiple_of(rows), "{} bytes of {rows} rows", bytes.len());
    assert!(width.is_multiple_of(2) && rows.is_multiple_of(width), "{rows} rows in heads of {width}");
    let size = bytes.len() / rows;
    let mut stored = vec![0; bytes.len()];
    for (row, bytes) in bytes.chunks_exact(size.max(1)).enumerate() {
        let at = stored_row(row, width) * size;
        stored[at..at + size].copy_from_slice(bytes);
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8], kind: GgmlType, columns: usize, interleaved: Option<usize>) -> Packed<'_> {
        Packed { packing: Packing { kind, columns, interleaved }, bytes }
    }

    #[test]
    fn interleaved_rows_are_put_back() {
        // llama.cpp: weights.reshape(heads, 2, width / 2, columns).swapaxes(1, 2), here of two heads of width 4.
        let stored: Vec<f32> =
            [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|row| [*row as f32, *row as f32 + 0.5]).collect();
        let bytes: Vec<u8> = stored.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut values = [0.0; 16];
        packed(&bytes, GgmlType::F32, 2, Some(4)).read_into(0..16, &mut values);
        let expected: Vec<f32> = (0..8).flat_map(|row| [row as f32, row as f32 + 0.5]).collect();
        assert_eq!(values.as_slice(), expected);
        let plain: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(interleave_rows(&plain, 8, 4), bytes);
    }

    #[test]
    fn any_range_is_the_same_part_of_the_whole() {
        let bytes: Vec<u8> = (0..6 * 2 * 18_usize).map(|i| if i % 18 == 1 { 0x2c } else { (i * 37) as u8 }).collect();
        for interleaved in [None, Some(6), Some(2)] {
            let tensor = packed(&bytes, GgmlType::Q4_0, 64, interleaved);
            let mut whole = vec![0.0; 6 * 64];
            tensor.read_into(0..whole.len(), &mut whole);
            for (start, end) in [(0, 1), (5, 70), (63, 65), (64, 192), (31, 33), (100, 384), (384, 384), (200, 201)] {
                let mut part = vec![0.0; end - start];
                tensor.read_into(start..end, &mut part);
                assert_eq!(part, whole[start..end], "{start}..{end} {interleaved:?}");
            }
        }
    }
}
