//! The head with its loss: a tile of the vocabulary at a time, and nothing of [n, v] kept.

use rayon::prelude::*;

use crate::kernel::math::{exp_and_sum, maximum, scale};
use crate::kernel::{
    Compute, InstructionSet, IntegerLeft, IntegerTerm, Job, Left, LeftSource, Order, Right, Term, Threads, Values,
    Write, fresh, products,
};

/// Rows that one task takes over all of the vocabulary.
const ROWS: usize = 256;

/// Vocabulary of one tile: its logits stay in the second-level cache.
const TILE: usize = 512;

/// The head's weight [v, d], and how products with it are computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) weight: Values<'a>,
    pub(crate) width: usize,
    pub(crate) compute: Compute,
    pub(crate) set: InstructionSet,
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
        // Two tasks a thread even out the threads; a task is worth a pass over the weight from a few tiles of rows on.
        let rows = targets.len().div_ceil(2 * rayon::current_num_threads()).clamp(32, ROWS);
        // SAFETY: where it is asked for, each task sets all of its rows.
        let mut gradient = unsafe { fresh(if wants_gradient { hidden.len() } else { 0 }) };
        let mut losses = vec![0.0; targets.len()];
        let tasks = losses.par_chunks_mut(rows).zip(targets.par_chunks(rows)).zip(hidden.par_chunks(rows * width));
        if wants_gradient {
            tasks.zip(gradient.par_chunks_mut(rows * width)).for_each(|(((losses, targets), hidden), gradient)| {
                self.rows(hidden, targets, losses, Some(gradient));
            });
        } else {
            tasks.for_each(|((losses, targets), hidden)| self.rows(hidden, targets, losses, None));
        }
        (losses.iter().map(|loss| f64::from(*loss)).sum(), wants_gradient.then_some(gradient))
    }

    /// Some rows over all of the vocabulary: with the largest logit so far as the exponent's zero, raised as larger
    /// ones come ([Milakov & Gimelshein 2018](https://arxiv.org/abs/1805.02867)).
    fn rows(&self, hidden: &[f32], targets: &[i64], losses: &mut [f32], mut gradient: Option<&mut [f32]>) {
        let Self { weight, width, compute, set } = *self;
        let (n, vocab) = (targets.len(), weight.len() / width);
        let mut tops = vec![f32::NEG_INFINITY; n];
        let mut totals = vec![0.0_f32; n];
        let mut picked = vec![0.0_f32; n];
        let left = Packed::new(set, compute, hidden, n, width);
        let mut logits = vec![0.0; n * TILE.min(vocab)];
        for start in (0..vocab).step_by(TILE) {
            let count = TILE.min(vocab - start);
            let logits = &mut logits[..n * count];
            let part = weight.from(start * width);
            products(
                logits,
                count,
                &[left.job(count, Right::new(part, Order::AlongK, width), Write::Set)],
                Threads::One,
            );
            for (row, logits) in logits.chunks_exact_mut(count).enumerate() {
                if let Some(place) = usize::try_from(targets[row]).ok().and_then(|target| target.checked_sub(start)) {
                    picked[row] = logits.get(place).copied().unwrap_or(picked[row]);
                }
                let top = maximum(set, logits).max(tops[row]);
                if top > tops[row] {
                    let factor = (tops[row] - top).exp();
                    totals[row] *= factor;
                    if let Some(gradient) = gradient.as_deref_mut().filter(|_| start > 0) {
                        scale(set, &mut gradient[row * width..(row + 1) * width], factor);
                    }
                    tops[row] = top;
                }
                totals[row] += exp_and_sum(set, logits, 1.0, tops[row]);
            }
            if let Some(gradient) = gradient.as_deref_mut() {
                let powers = Packed::new(set, compute, logits, n, count);
                let write = if start == 0 { Write::Set } else { Write::Add };
                let right = Right::new(part, Order::AcrossColumns, width);
                products(gradient, width, &[powers.job(width, right, write)], Threads::One);
            }
        }
        let mut line = vec![0.0; width];
        for row in 0..n {
            losses[row] = totals[row].ln() + tops[row] - picked[row];
            if let Some(gradient) = gradient.as_deref_mut() {
                let target = usize::try_from(targets[row]).unwrap_or_default();
                weight.from(target * width).widen(set, &mut line);
                let factor = 1.0 / totals[row];
                let gradient = &mut gradient[row * width..(row + 1) * width];
                gradient.iter_mut().zip(&line).for_each(|(gradient, weight)| *gradient = *gradient * factor - weight);
            }
        }
    }
}

/// The left side of a product, packed for the way that it is computed in.
enum Packed {
    Float(Left),
    Integer(IntegerLeft),
}

impl Packed {
    fn new(set: InstructionSet, compute: Compute, values: &[f32], rows: usize, k: usize) -> Self {
        let source = LeftSource::new(values, k);
        match compute.format(set) {
            None => Self::Float(Left::pack(set, source, rows, k, Threads::One)),
            Some(format) => Self::Integer(IntegerLeft::pack(set, format, source, rows, k, Threads::One)),
        }
    }

    fn job<'a>(&'a self, columns: usize, right: Right<'a>, write: Write<'a>) -> Job<'a> {
        match self {
            Self::Float(left) => Job::float(0..columns, vec![Term::new(left, right)], write),
            Self::Integer(left) => {
                let integer = vec![IntegerTerm { left, right }];
                Job { columns: 0..columns, integer, terms: Vec::new(), write }
            }
        }
    }
}
