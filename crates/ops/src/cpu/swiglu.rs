//! SwiGLU: `y = g sigmoid(g) u`. The backward pass recomputes the sigmoid.

use crate::kernel::math::{exp, vectorised};
use crate::kernel::{InstructionSet, Threads, fresh};

/// Rows of one task.
const ROWS: usize = 16;

/// Operations for a value, about.
const WORK: usize = 16;

/// Gate and up, side by side in a row of `stride` values or apart; `f` values of each row.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateUp<'a> {
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) stride: usize,
    pub(super) f: usize,
}

impl<'a> GateUp<'a> {
    /// From [n, 2 f], gate before up.
    pub(super) fn side_by_side(values: &'a [f32], f: usize) -> Self {
        Self { gate: values, up: values.get(f..).unwrap_or_default(), stride: 2 * f, f }
    }
}

/// [n, f].
pub(super) fn forward(set: InstructionSet, x: GateUp<'_>, n: usize) -> Vec<f32> {
    let GateUp { gate, up, stride, f } = x;
    // SAFETY: every row is written.
    let mut y = unsafe { fresh(n * f) };
    Threads::All.chunks(&mut y, ROWS * f, WORK * n * f, |task, y| {
        let first = task * ROWS * stride;
        rows_forward(set, y, &gate[first..], &up[first..], stride, f);
    });
    y
}

/// `dg = dy u s (1 + g (1 - s))` and `du = dy g s`, with `s = sigmoid(g)`; side by side, [n, 2 f].
pub(super) fn backward(set: InstructionSet, x: GateUp<'_>, dy: &[f32]) -> Vec<f32> {
    let GateUp { gate, up, stride, f } = x;
    // SAFETY: every row is written.
    let mut dx = unsafe { fresh(2 * dy.len()) };
    Threads::All.chunks(&mut dx, ROWS * 2 * f, WORK * dy.len(), |task, dx| {
        let first = task * ROWS * stride;
        rows_backward(set, dx, &gate[first..], &up[first..], &dy[task * ROWS * f..], stride, f);
    });
    dx
}

vectorised! {
    fn rows_forward(y: &mut [f32], gate: &[f32], up: &[f32], stride: usize, f: usize) {
        for (y, (gate, up)) in y.chunks_exact_mut(f).zip(gate.chunks(stride).zip(up.chunks(stride))) {
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                *y = g * u / (1.0 + exp(-g));
            }
        }
    }
}

vectorised! {
    fn rows_backward(dx: &mut [f32], gate: &[f32], up: &[f32], dy: &[f32], stride: usize, f: usize) {
        let rows = dx.chunks_exact_mut(2 * f).zip(gate.chunks(stride).zip(up.chunks(stride))).zip(dy.chunks_exact(f));
        for ((dx, (gate, up)), dy) in rows {
            let (dgate, dup) = dx.split_at_mut(f);
            for ((dgate, dup), ((g, u), dy)) in dgate.iter_mut().zip(dup).zip(gate.iter().zip(up).zip(dy)) {
                let s = 1.0 / (1.0 + exp(-g));
                *dgate = dy * u * s * (1.0 + g * (1.0 - s));
                *dup = dy * g * s;
            }
        }
    }
}
