//! Base and adapter as one model, tensor by tensor.
//!
//! `W' = W + s B A`; with DoRA `W' = m / |W + s B A| (W + s B A)`, the norm of each output's row
//! (<https://arxiv.org/abs/2402.09353>). In f32, cast once. A block of rows is in memory at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rankine_models::weights::{PlannedTensor, StoredDtype, StoredTensor, TensorSink, WeightWriter, encode};
use rankine_ops::QuantWeight;
use rayon::prelude::*;

use crate::Progress;
use crate::error::ExportError;
use crate::merge_plan::{Change, Layout, LowRank, MergePlan, Output};
use crate::product::{Matrix, add_product};

/// Takes some rows of a tensor in f32, with the number of the first value.
pub(crate) type UseBlock<'a> = dyn FnMut(usize, &mut [f32]) -> Result<(), ExportError> + 'a;

/// Values of a block: 16 MB of f32.
const BLOCK: usize = 1 << 22;

/// Writes every tensor of the plan into `folder`.
pub(crate) fn write_weights(
    plan: &MergePlan<'_>,
    folder: &Path,
    max_shard_bytes: u64,
    metadata: BTreeMap<String, String>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ExportError> {
    let planned = plan.outputs.iter().map(|output| PlannedTensor {
        name: output.name.clone(),
        dtype: output.dtype,
        shape: output.shape.clone(),
    });
    let writer = WeightWriter::plan(folder, planned.collect(), max_shard_bytes)?.with_metadata(metadata);
    let (mut done, total) = (0, writer.total_bytes());
    let mut outputs = plan.outputs.iter();
    writer.write(|planned, sink| {
        // In planned order, one call for each.
        let Some(output) = outputs.next() else { return Ok(()) };
        output.write(sink)?;
        done += (output.shape.iter().product::<usize>() * planned.dtype.bytes()) as u64;
        progress(Progress { tensor: &planned.name, done, total });
        Ok(())
    })
}

impl Output<'_> {
    fn write(&self, sink: &mut TensorSink<'_>) -> Result<(), ExportError> {
        let from = match &self.change {
            Change::Kept => Some(&self.base),
            Change::Replaced(saved) => Some(saved),
            Change::LowRank(_) => None,
        };
        let same = from.filter(|from| from.dtype == self.dtype && self.held.is_none());
        match same.and_then(|from| Some((from, from.plain_bytes()?))) {
            Some((from, bytes)) => copy(from, bytes, sink),
            None => self.for_each_block(&mut |first, values| {
                self.refuse_overflow(values, first)?;
                Ok(sink.put(&encode(self.dtype, values))?)
            }),
        }
    }

    /// Gives the values to `use_block` in f32, some rows at a time, with the number of the first value.
    pub(crate) fn for_each_block(&self, use_block: &mut UseBlock<'_>) -> Result<(), ExportError> {
        match &self.change {
            Change::Kept => blocks(&self.base, &self.values_of(&self.base), use_block),
            Change::Replaced(saved) => blocks(saved, &Values::Stored(saved), use_block),
            Change::LowRank(change) => self.merge(change, use_block),
        }
    }

    /// The values of a weight of the base, as it was held in training where that is asked for.
    fn values_of<'a>(&self, weight: &'a StoredTensor<'a>) -> Values<'a> {
        let held = self.held.and_then(|form| form.quantised(weight));
        held.map_or(Values::Stored(weight), |weight| Values::Held(Box::new(weight)))
    }

    fn merge(&self, change: &LowRank<'_>, use_block: &mut UseBlock<'_>) -> Result<(), ExportError> {
        let &[rows, columns] = self.base.shape.as_slice() else { return Ok(()) };
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let weight = &self.values_of(change.base_layer.as_ref().unwrap_or(&self.base));
        let factors = Factors::of(change, rows, columns);
        let magnitude = change.magnitude.as_ref().map(StoredTensor::to_f32);
        let column_factors = match &magnitude {
            Some(magnitude) if change.layout == Layout::Embedding => {
                Some(factors.to_norms_of_columns(weight, magnitude)?)
            }
            _ => None,
        };
        factors.for_each_block(weight, |first, block| {
            match (&magnitude, &column_factors) {
                (_, Some(factors)) => block
                    .par_chunks_exact_mut(columns)
                    .for_each(|row| row.iter_mut().zip(factors).for_each(|(w, factor)| *w *= factor)),
                (Some(magnitude), None) => {
                    block.par_chunks_exact_mut(columns).zip(&magnitude[first..]).for_each(|(row, m)| set_norm(row, *m));
                }
                (None, None) => {}
            }
            if let Some(at) = block.iter().position(|w| !w.is_finite()) {
                let (tensor, row) = (self.name.clone(), first + at / columns);
                return Err(ExportError::NotFinite { tensor, row, value: block[at] });
            }
            use_block(first * columns, block)
        })
    }

    /// Refuses values that are finite and would not be in the type to come.
    fn refuse_overflow(&self, values: &[f32], first: usize) -> Result<(), ExportError> {
        // Half-way between the largest finite value and the next power of two; from there on, rounding gives infinity.
        let limit = match self.dtype {
            StoredDtype::F32 => return Ok(()),
            StoredDtype::F16 => 65520.0,
            StoredDtype::BF16 => f32::from_bits(0x7f7f_8000),
        };
        let columns = self.base.shape.last().copied().unwrap_or(1).max(1);
        match values.iter().position(|w| w.is_finite() && w.abs() >= limit) {
            Some(at) => Err(ExportError::Overflow {
                tensor: self.name.clone(),
                row: (first + at) / columns,
                value: values[at],
                dtype: self.dtype.name(),
            }),
            None => Ok(()),
        }
    }
}

/// Where a weight's values come from.
enum Values<'a> {
    /// As they are stored.
    Stored(&'a StoredTensor<'a>),
    /// Rounded to the bits in which they were trained against.
    Held(Box<QuantWeight>),
}

impl Values<'_> {
    fn read_into(&self, range: Range<usize>, into: &mut [f32]) {
        match self {
            Self::Stored(weight) => weight.read_into(range, into),
            Self::Held(weight) => weight.read_into(range, into),
        }
    }

    fn release(&self, range: Range<usize>) {
        if let Self::Stored(weight) = self {
            weight.release(range);
        }
    }
}

/// The tensor's own bytes.
fn copy(from: &StoredTensor<'_>, bytes: &[u8], sink: &mut TensorSink<'_>) -> Result<(), ExportError> {
    let width = from.dtype.bytes();
    for start in (0..from.len()).step_by(BLOCK) {
        let end = from.len().min(start + BLOCK);
        sink.put(&bytes[start * width..end * width])?;
        from.release(start..end);
    }
    Ok(())
}

/// The values of a tensor of `from`'s shape, whole rows at a time.
fn blocks(from: &StoredTensor<'_>, stored: &Values<'_>, use_block: &mut UseBlock<'_>) -> Result<(), ExportError> {
    let columns = from.shape.last().copied().unwrap_or(1).max(1);
    let size = (BLOCK / columns).max(1) * columns;
    let mut values = vec![0.0; size.min(from.len())];
    for start in (0..from.len()).step_by(size) {
        let end = from.len().min(start + size);
        let values = &mut values[..end - start];
        stored.read_into(start..end, values);
        use_block(start, values)?;
        stored.release(start..end);
    }
    Ok(())
}

/// `row * magnitude / |row|`.
fn set_norm(row: &mut [f32], magnitude: f32) {
    let square: f64 = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    let factor = magnitude / square.sqrt() as f32;
    row.iter_mut().for_each(|w| *w *= factor);
}

/// The update as a product over the weight's rows: `left [rows, r]` times `right [r, columns]`.
struct Factors {
    layout: Layout,
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    rows: usize,
    columns: usize,
    scale: f32,
}

impl Factors {
    fn of(change: &LowRank<'_>, rows: usize, columns: usize) -> Self {
        let [a, b] = [&change.a, &change.b].map(|factor| {
            let values = factor.to_f32();
            factor.release(0..factor.len());
            values
        });
        Self { layout: change.layout, a, b, rank: change.a.shape[0], rows, columns, scale: change.scale }
    }

    fn left_and_right(&self) -> (Matrix<'_>, Matrix<'_>) {
        let Self { a, b, rank, rows, columns, .. } = self;
        match self.layout {
            Layout::Linear => (Matrix::new(b, *rows, *rank), Matrix::new(a, *rank, *columns)),
            Layout::Embedding => {
                (Matrix::new(a, *rank, *rows).transposed(), Matrix::new(b, *columns, *rank).transposed())
            }
        }
    }

    /// What each column of `W + s left right` is multiplied by to have the norm `magnitude`.
    ///
    /// An embedding's magnitudes are those of its columns, so every row is read before the first is written.
    fn to_norms_of_columns(&self, weight: &Values<'_>, magnitude: &[f32]) -> Result<Vec<f32>, ExportError> {
        let mut squares = vec![0.0_f64; self.columns];
        self.for_each_block(weight, |_, block| {
            for row in block.chunks_exact(self.columns) {
                squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w) * f64::from(*w));
            }
            Ok(())
        })?;
        Ok(magnitude.iter().zip(&squares).map(|(m, square)| m / square.sqrt() as f32).collect())
    }

    /// Gives `W + s left right` to `use_block`, some rows at a time, with the number of the first of them.
    fn for_each_block(
        &self,
        weight: &Values<'_>,
        mut use_block: impl FnMut(usize, &mut [f32]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let (left, right) = self.left_and_right();
        let block_rows = (BLOCK / self.columns).clamp(1, self.rows);
        let mut block = vec![0.0; block_rows * self.columns];
        for first in (0..self.rows).step_by(block_rows) {
            let end = self.rows.min(first + block_rows);
            let block = &mut block[..(end - first) * self.columns];
            let values = first * self.columns..end * self.columns;
            weight.read_into(values.clone(), block);
            add_product(block, left.rows(first..end), right, self.scale);
            use_block(first, block)?;
            weight.release(values);
        }
        Ok(())
    }
}
