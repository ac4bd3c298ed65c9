//! The head with its loss: a tile of the vocabulary at a time, and nothing of [n, v] kept.

use super::frozen::FrozenProduct;
use crate::kernel::math::{exp_and_sum, maximum, scale};
use crate::kernel::{
    InstructionSet, IntegerLeft, Job, Left, LeftSource, Threads, Values, Write, fresh, products, with_crew,
};

/// Rows that are taken over all of the vocabulary at once.
const ROWS: usize = 512;

/// Rows of one task.
const LINES: usize = 8;

/// Vocabulary of one tile: `ROWS * TILE` logits are held. Whole blocks and panels of integers.
const TILE: usize = 2048;

/// Logits that are held at once.
pub const HEAD_LOGITS: usize = ROWS * TILE;

/// The head's weight [v, d], and how products with it are computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) weight: Values<'a>,
    pub(crate) width: usize,
    pub(crate) product: &'a FrozenProduct,
    pub(crate) set: InstructionSet,
}

/// One row between two tiles.
#[derive(Debug, Clone, Copy)]
struct Row {
    target: usize,
    /// The largest logit so far.
    top: f32,
    /// The sum of `exp(logit - top)` so far.
    total: f32,
    /// The target's logit.
    picked: f32,
}

impl Head<'_> {
    /// The summed cross-entropy of `hidden` [n, d] and, where asked for, its gradient by `hidden`:
    /// `softmax(h W^T) W - W[target]`. Each row is by itself, and their sum runs in row order, so that neither
    /// depends on the threads.
    pub(crate) fn loss_and_gradient(
        &self,
        hidden: &[f32],
        targets: &[i64],
        wants_gradient: bool,
    ) -> (f64, Option<Vec<f32>>) {
        let width = self.width;
        // SAFETY: where it is asked for, each row is set.
        let mut gradient = unsafe { fresh(if wants_gradient { hidden.len() } else { 0 }) };
        let mut sum = 0.0;
        for (index, (hidden, targets)) in hidden.chunks(ROWS * width).zip(targets.chunks(ROWS)).enumerate() {
            let start = index * ROWS * width;
            let gradient = wants_gradient.then(|| &mut gradient[start..start + hidden.len()]);
            sum += with_crew(|| self.rows(hidden, targets, gradient));
        }
        (sum, wants_gradient.then_some(gradient))
    }

    /// Some rows over all of the vocabulary: with the largest logit so far as the exponent's zero, raised as larger
    /// ones come ([Milakov & Gimelshein 2018](https://arxiv.org/abs/1805.02867)).
    fn rows(&self, hidden: &[f32], targets: &[i64], mut gradient: Option<&mut [f32]>) -> f64 {
        let Self { weight, width, set, .. } = *self;
        let (n, vocab) = (targets.len(), weight.len() / width);
        let row = |target: &i64| {
            let target = usize::try_from(*target).unwrap_or_default();
            Row { target, top: f32::NEG_INFINITY, total: 0.0, picked: 0.0 }
        };
        let mut rows: Vec<Row> = targets.iter().map(row).collect();
        let left = self.pack(hidden, n, width);
        // SAFETY: the product sets the part that is read.
        let mut logits = unsafe { fresh(n * TILE.min(vocab)) };
        for start in (0..vocab).step_by(TILE) {
            let count = TILE.min(vocab - start);
            let logits = &mut logits[..n * count];
            let job = match &left {
                Packed::Float(left) => {
                    Job::float(0..count, vec![self.product.forward(left, weight, width, start)], Write::Set)
                }
                Packed::Integer(left) => {
                    Job::integer(0..count, self.product.forward_integers(left, weight, width, start), Write::Set)
                }
            };
            products(logits, count, &[job], Threads::All);
            let first = start == 0;
            let mut along = gradient.as_deref_mut().map(|gradient| gradient.chunks_exact_mut(width));
            let mut lines: Vec<(&mut Row, &mut [f32], &mut [f32])> = rows
                .iter_mut()
                .zip(logits.chunks_exact_mut(count))
                .map(|(row, logits)| (row, logits, along.as_mut().and_then(Iterator::next).unwrap_or_default()))
                .collect();
            Threads::All.chunks(&mut lines, LINES, n * count, |_, lines| {
                for (row, logits, gradient) in lines {
                    let factor = row.add(set, logits, start);
                    if factor != 1.0 && !first {
                        scale(set, gradient, factor);
                    }
                }
            });
            let Some(gradient) = gradient.as_deref_mut() else { continue };
            let write = if first { Write::Set } else { Write::Add };
            let powers = self.pack(logits, n, count);
            let job = match &powers {
                Packed::Float(left) => {
                    Job::float(0..width, vec![self.product.backward(left, 0..count, weight, width, start)], write)
                }
                Packed::Integer(left) => {
                    Job::integer(0..width, self.product.backward_integers(left, weight, width, start), write)
                }
            };
            products(gradient, width, &[job], Threads::All);
        }
        if let Some(gradient) = gradient {
            Threads::All.chunks(gradient, width, n * width, |index, gradient| {
                let row = &rows[index];
                let mut line = vec![0.0; width];
                weight.from(row.target * width).widen(set, &mut line);
                let factor = 1.0 / row.total;
                gradient.iter_mut().zip(&line).for_each(|(gradient, weight)| *gradient = *gradient * factor - weight);
            });
        }
        rows.iter().map(|row| f64::from(row.total.ln() + row.top - row.picked)).sum()
    }

    fn pack(&self, values: &[f32], rows: usize, k: usize) -> Packed {
        let source = LeftSource::new(values, k);
        match self.product.compute().format(self.set) {
            None => {
                let precision = self.product.compute().precision(self.set);
                Packed::Float(Left::pack_at(precision, self.set, source, rows, k, Threads::All))
            }
            Some(format) => Packed::Integer(IntegerLeft::pack(self.set, format, source, rows, k, Threads::All)),
        }
    }
}

impl Row {
    /// Takes a tile of logits in, from vocabulary `start` on, and leaves `exp(logit - top)` in their place. Returns the
    /// factor that what was summed before is worth under the new top.
    fn add(&mut self, set: InstructionSet, logits: &mut [f32], start: usize) -> f32 {
        if let Some(logit) = self.target.checked_sub(start).and_then(|place| logits.get(place)) {
            self.picked = *logit;
        }
        let top = maximum(set, logits).max(self.top);
        let factor = if top > self.top { (self.top - top).exp() } else { 1.0 };
        self.top = top;
        self.total = self.total * factor + exp_and_sum(set, logits, 1.0, top);
        factor
    }
}

/// The left side of a product, packed for the way that it is computed in.
enum Packed {
    Float(Left),
    Integer(IntegerLeft),
}
