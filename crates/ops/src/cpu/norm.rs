//! RMSNorm: `y = w x r` with `r = 1 / sqrt(mean(x^2) + eps)` of each row, kept for the backward pass.

use crate::kernel::math::{dot, vectorised};
use crate::kernel::{InstructionSet, Threads, Write, fresh};

/// Rows of one task.
const ROWS: usize = 32;

/// `y` and each row's `r`.
pub(super) fn forward(set: InstructionSet, x: &[f32], weight: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = weight.len();
    // SAFETY: every row of both is written.
    let (mut y, mut inverse) = unsafe { (fresh(x.len()), fresh(x.len() / width)) };
    let mut rows: Vec<_> = y.chunks_mut(ROWS * width).zip(inverse.chunks_mut(ROWS)).collect();
    Threads::All.chunks(&mut rows, 1, x.len(), |task, rows| {
        for (y, inverse) in rows {
            rows_forward(set, y, inverse, &x[task * ROWS * width..], weight, eps);
        }
    });
    (y, inverse)
}

/// `y` again from each row's `r`.
pub(super) fn again(set: InstructionSet, x: &[f32], weight: &[f32], inverse: &[f32]) -> Vec<f32> {
    let width = weight.len();
    // SAFETY: every row is written.
    let mut y = unsafe { fresh(x.len()) };
    Threads::All.chunks(&mut y, ROWS * width, x.len(), |task, y| {
        rows_again(set, y, &inverse[task * ROWS..], &x[task * ROWS * width..], weight);
    });
    y
}

/// `dx = r (w dy) - x r^3 / d * sum(w dy x)`.
/// Into `dx`, or on top of what is there.
pub(super) fn backward_input(
    set: InstructionSet,
    x: &[f32],
    weight: &[f32],
    inverse: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    write: Write<'_>,
) {
    let width = weight.len();
    let add = write == Write::Add;
    Threads::All.chunks(dx, ROWS * width, 2 * x.len(), |task, dx| {
        let first = task * ROWS * width;
        rows_backward(set, dx, &x[first..], &dy[first..], &inverse[task * ROWS..], weight, add);
    });
}

/// `dw = sum over rows of dy x r`. In row order, so that the sum does not depend on the threads.
pub(super) fn backward_weight(set: InstructionSet, x: &[f32], inverse: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    let mut dw = vec![0.0; width];
    accumulate(set, &mut dw, x, inverse, dy);
    dw
}

vectorised! {
    fn rows_forward(y: &mut [f32], inverse: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for ((y, inverse), x) in y.chunks_exact_mut(width).zip(inverse).zip(x.chunks_exact(width)) {
            let r = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
            *inverse = r;
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * r * w;
            }
        }
    }
}

vectorised! {
    fn rows_again(y: &mut [f32], inverse: &[f32], x: &[f32], weight: &[f32]) {
        let width = weight.len();
        for ((y, r), x) in y.chunks_exact_mut(width).zip(inverse).zip(x.chunks_exact(width)) {
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * r * w;
            }
        }
    }
}

vectorised! {
    fn rows_backward(dx: &mut [f32], x: &[f32], dy: &[f32], inverse: &[f32], weight: &[f32], add: bool) {
        let width = weight.len();
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)).zip(inverse);
        for (((dx, x), dy), r) in rows {
            let along = triple(dy, weight, x) * r * r * r / width as f32;
            let values = dx.iter_mut().zip(x).zip(dy.iter().zip(weight));
            if add {
                values.for_each(|((dx, x), (dy, w))| *dx += dy * w * r - x * along);
            } else {
                values.for_each(|((dx, x), (dy, w))| *dx = dy * w * r - x * along);
            }
        }
    }
}

/// `sum(a * b * c)`.
#[inline(always)]
fn triple(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a_whole, a_rest) = a.as_chunks::<16>();
    let (b_whole, b_rest) = b.as_chunks::<16>();
    let (c_whole, c_rest) = c.as_chunks::<16>();
    for ((a, b), c) in a_whole.iter().zip(b_whole).zip(c_whole) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane] * c[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).zip(c_rest).map(|((a, b), c)| a * b * c).sum();
    lanes.iter().sum::<f32>() + rest
}

vectorised! {
    fn accumulate(dw: &mut [f32], x: &[f32], inverse: &[f32], dy: &[f32]) {
        let width = dw.len();
        for ((x, dy), r) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(inverse) {
            for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                *dw += dy * x * r;
            }
        }
    }
}
