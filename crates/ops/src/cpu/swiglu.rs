//! SwiGLU: `y = g sigmoid(g) u`. The backward pass recomputes the sigmoid.

use rayon::prelude::*;

use super::math::{exp, vectorised};

/// Values of one task.
const TASK: usize = 1 << 14;

pub(super) fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; gate.len()];
    let tasks = y.par_chunks_mut(TASK).zip(gate.par_chunks(TASK)).zip(up.par_chunks(TASK));
    tasks.for_each(|((y, gate), up)| part_forward(y, gate, up));
    y
}

/// `dg = dy u s (1 + g (1 - s))` and `du = dy g s`, with `s = sigmoid(g)`.
pub(super) fn backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let targets = dgate.par_chunks_mut(TASK).zip(dup.par_chunks_mut(TASK));
    let tasks = targets.zip(gate.par_chunks(TASK)).zip(up.par_chunks(TASK)).zip(dy.par_chunks(TASK));
    tasks.for_each(|((((dgate, dup), gate), up), dy)| part_backward(dgate, dup, gate, up, dy));
    (dgate, dup)
}

vectorised! {
    fn part_forward(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * u / (1.0 + exp(-g));
        }
    }
}

vectorised! {
    fn part_backward(dgate: &mut [f32], dup: &mut [f32], gate: &[f32], up: &[f32], dy: &[f32]) {
        let inputs = gate.iter().zip(up).zip(dy);
        for ((dgate, dup), ((g, u), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
            let s = 1.0 / (1.0 + exp(-g));
            *dgate = dy * u * s * (1.0 + g * (1.0 - s));
            *dup = dy * g * s;
        }
    }
}
