//! Base and adapter as one model, tensor by tensor.
//!
//! `W' = W + s B A`; with DoRA `W' = m / |W + s B A| (W + s B A)`, the norm of each output's row
//! (<https://arxiv.org/abs/2402.09353>). In f32, cast once. Rows are independent: each thread takes some from the file to what
//! is written while they are in its cache, and a few such parts are in memory at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rankine_models::weights::{PlannedTensor, StoredDtype, StoredTensor, WeightWriter, encode};
use rankine_ops::QuantWeight;
use rayon::prelude::*;

use crate::Progress;
use crate::error::ExportError;
use crate::merge_plan::{Change, Layout, LowRank, MergePlan, Output};
use crate::product::{Matrix, add_product};

/// Gives what is written for some rows in f32, of which the first value has this number.
pub(crate) type Convert<'a> = dyn Fn(usize, &[f32]) -> Result<Vec<u8>, ExportError> + Sync + 'a;

/// Changes the values of some rows.
type ChangeRows<'a> = dyn Fn(Range<usize>, &mut [f32]) -> Result<(), ExportError> + Sync + 'a;

/// Takes the bytes of one part after the other.
pub(crate) type Put<'a> = dyn FnMut(&[u8]) -> Result<(), ExportError> + 'a;

/// Values of a part: 1 MiB of f32.
const PART: usize = 1 << 18;
/// Parts for each thread before they are written.
const PARTS_PER_THREAD: usize = 4;
/// Bytes that are copied in one go.
const COPIED: usize = 1 << 23;

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
        output.write(&mut |bytes| Ok(sink.put(bytes)?))?;
        done += (output.shape.iter().product::<usize>() * planned.dtype.bytes()) as u64;
        progress(Progress { tensor: &planned.name, done, total });
        Ok(())
    })
}

impl Output<'_> {
    fn write(&self, put: &mut Put<'_>) -> Result<(), ExportError> {
        let from = match &self.change {
            Change::Kept => Some(&self.base),
            Change::Replaced(saved) => Some(saved),
            Change::LowRank(_) => None,
        };
        let same = from.filter(|from| from.dtype == self.dtype && self.held.is_none());
        match same.and_then(|from| Some((from, from.plain_bytes()?))) {
            Some((from, bytes)) => copy(from, bytes, put),
            None => self.convert(
                &|first, values| {
                    self.refuse_overflow(values, first)?;
                    Ok(encode(self.dtype, values))
                },
                put,
            ),
        }
    }

    /// Puts what `convert` makes of the values, in their order.
    pub(crate) fn convert(&self, convert: &Convert<'_>, put: &mut Put<'_>) -> Result<(), ExportError> {
        match &self.change {
            Change::Kept => self.rows_of(&self.base).convert(&|_, _| Ok(()), convert, put),
            Change::Replaced(saved) => Rows::of(saved).convert(&|_, _| Ok(()), convert, put),
            Change::LowRank(change) => self.merge(change, convert, put),
        }
    }

    /// The rows of a weight of the base, as it was held in training where that is asked for.
    fn rows_of<'a>(&self, weight: &'a StoredTensor<'a>) -> Rows<'a> {
        let held = self.held.and_then(|form| form.quantised(weight));
        held.map_or_else(|| Rows::of(weight), |held| Rows { values: Values::Held(Box::new(held)), ..Rows::of(weight) })
    }

    fn merge(&self, change: &LowRank<'_>, convert: &Convert<'_>, put: &mut Put<'_>) -> Result<(), ExportError> {
        let weight = self.rows_of(change.base_layer.as_ref().unwrap_or(&self.base));
        let (rows, columns) = (weight.rows, weight.columns);
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let factors = Factors::of(change, rows, columns);
        let magnitude = change.magnitude.as_ref().map(StoredTensor::to_f32);
        let column_factors = match &magnitude {
            Some(magnitude) if change.layout == Layout::Embedding => {
                Some(factors.to_norms_of_columns(&weight, magnitude))
            }
            _ => None,
        };
        let change = |part: Range<usize>, values: &mut [f32]| {
            factors.add(part.clone(), values);
            let rows = values.chunks_exact_mut(columns);
            match (&magnitude, &column_factors) {
                (_, Some(factors)) => {
                    rows.for_each(|row| row.iter_mut().zip(factors).for_each(|(w, factor)| *w *= factor));
                }
                (Some(magnitude), None) => rows.zip(&magnitude[part.clone()]).for_each(|(row, m)| set_norm(row, *m)),
                (None, None) => {}
            }
            if reaches(values, f32::INFINITY)
                && let Some(at) = values.iter().position(|w| !w.is_finite())
            {
                let (tensor, row) = (self.name.clone(), part.start + at / columns);
                return Err(ExportError::NotFinite { tensor, row, value: values[at] });
            }
            Ok(())
        };
        weight.convert(&change, convert, put)
    }

    /// Refuses values that are finite and would not be in the type to come.
    fn refuse_overflow(&self, values: &[f32], first: usize) -> Result<(), ExportError> {
        // Half-way between the largest finite value and the next power of two; from there on, rounding gives infinity.
        let limit = match self.dtype {
            StoredDtype::F32 => return Ok(()),
            StoredDtype::F16 => 65520.0,
            StoredDtype::BF16 => f32::from_bits(0x7f7f_8000),
        };
        if !reaches(values, limit) {
            return Ok(());
        }
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

/// Whether a value is that far from zero, or no number. The bits of floats without their sign are in the floats' order.
fn reaches(values: &[f32], limit: f32) -> bool {
    values.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff)) >= limit.to_bits()
}

/// The tensor's own bytes.
fn copy(from: &StoredTensor<'_>, bytes: &[u8], put: &mut Put<'_>) -> Result<(), ExportError> {
    let width = from.dtype.bytes();
    let step = COPIED / width;
    for start in (0..from.len()).step_by(step) {
        let end = from.len().min(start + step);
        put(&bytes[start * width..end * width])?;
        from.release(start..end);
    }
    Ok(())
}

/// Where a weight's values come from.
enum Values<'a> {
    /// As they are stored.
    Stored(&'a StoredTensor<'a>),
    /// Rounded to the bits in which they were trained against.
    Held(Box<QuantWeight>),
}

/// A tensor, row by row; a vector is one row.
struct Rows<'a> {
    values: Values<'a>,
    rows: usize,
    columns: usize,
}

impl<'a> Rows<'a> {
    fn of(tensor: &'a StoredTensor<'a>) -> Self {
        let columns = tensor.shape.last().copied().unwrap_or(1);
        Self { values: Values::Stored(tensor), rows: tensor.len().checked_div(columns).unwrap_or(0), columns }
    }

    /// The rows in parts, none of them empty.
    fn parts(&self) -> Vec<Range<usize>> {
        let rows = (PART / self.columns.max(1)).max(1);
        (0..self.rows).step_by(rows).map(|first| first..self.rows.min(first + rows)).collect()
    }

    fn read(&self, part: &Range<usize>) -> Vec<f32> {
        let range = part.start * self.columns..part.end * self.columns;
        let mut values = vec![0.0; range.len()];
        match &self.values {
            Values::Stored(tensor) => tensor.read_into(range, &mut values),
            Values::Held(weight) => weight.read_into(range, &mut values),
        }
        values
    }

    fn release(&self, rows: Range<usize>) {
        if let Values::Stored(tensor) = &self.values {
            tensor.release(rows.start * self.columns..rows.end * self.columns);
        }
    }

    /// Puts what `change` and then `convert` make of the rows.
    fn convert(&self, change: &ChangeRows<'_>, convert: &Convert<'_>, put: &mut Put<'_>) -> Result<(), ExportError> {
        for parts in self.parts().chunks(PARTS_PER_THREAD * rayon::current_num_threads()) {
            let convert = |part: &Range<usize>| {
                let mut values = self.read(part);
                change(part.clone(), &mut values)?;
                convert(part.start * self.columns, &values)
            };
            let converted: Vec<Result<Vec<u8>, ExportError>> = parts.par_iter().map(convert).collect();
            for bytes in converted {
                put(&bytes?)?;
            }
            if let [first, ..] = parts
                && let [.., last] = parts
            {
                self.release(first.start..last.end);
            }
        }
        Ok(())
    }
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
    fn to_norms_of_columns(&self, weight: &Rows<'_>, magnitude: &[f32]) -> Vec<f32> {
        let mut squares = vec![0.0_f64; self.columns];
        for part in weight.parts() {
            let mut values = weight.read(&part);
            self.add(part.clone(), &mut values);
            for row in values.chunks_exact(self.columns) {
                squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w) * f64::from(*w));
            }
            weight.release(part);
        }
        magnitude.iter().zip(&squares).map(|(m, square)| m / square.sqrt() as f32).collect()
    }

    /// `values += s left right`, in these rows.
    fn add(&self, rows: Range<usize>, values: &mut [f32]) {
        let (left, right) = self.left_and_right();
        add_product(values, left.rows(rows), right, self.scale);
    }
}
