//! RMSNorm: `y = w x r` with `r = 1 / sqrt(mean(x^2) + eps)` of each row, kept for the backward pass.

use rayon::prelude::*;

use super::math::{dot, vectorised};

/// Rows of one task.
const ROWS: usize = 32;

/// `y` and each row's `r`.
pub(super) fn forward(x: &[f32], weight: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = weight.len();
    let mut y = vec![0.0; x.len()];
    let mut inverse = vec![0.0; x.len() / width];
    let tasks = y.par_chunks_mut(ROWS * width).zip(inverse.par_chunks_mut(ROWS)).zip(x.par_chunks(ROWS * width));
    tasks.for_each(|((y, inverse), x)| rows_forward(y, inverse, x, weight, eps));
    (y, inverse)
}

/// `dx = r (w dy) - x r^3 / d * sum(w dy x)`.
pub(super) fn backward_input(x: &[f32], weight: &[f32], inverse: &[f32], dy: &[f32]) -> Vec<f32> {
    let width = weight.len();
    let mut dx = vec![0.0; x.len()];
    let tasks = dx
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .zip(dy.par_chunks(ROWS * width))
        .zip(inverse.par_chunks(ROWS));
    tasks.for_each(|(((dx, x), dy), inverse)| rows_backward(dx, x, dy, inverse, weight));
    dx
}

/// `dw = sum over rows of dy x r`. In row order, so that the sum does not depend on the threads.
pub(super) fn backward_weight(x: &[f32], inverse: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    let mut dw = vec![0.0; width];
    accumulate(&mut dw, x, inverse, dy);
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
    fn rows_backward(dx: &mut [f32], x: &[f32], dy: &[f32], inverse: &[f32], weight: &[f32]) {
        let width = weight.len();
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)).zip(inverse);
        for (((dx, x), dy), r) in rows {
            for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * w;
            }
            let along = dot(dx, x) * r * r * r / width as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = *dx * r - x * along;
            }
        }
    }
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
