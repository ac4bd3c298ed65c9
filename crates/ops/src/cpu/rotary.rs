//! Rotary positions: pairs `(x[i], x[i + e/2])` of each head turned by the token's angle.

use rayon::prelude::*;

use super::math::vectorised;
use crate::layout::Angles;

/// Which way. The backward pass is the rotation the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Forward,
    Back,
}

/// Tokens of one task.
const TOKENS: usize = 32;

pub(super) fn rotate(x: &[f32], angles: &Angles, turn: Turn) -> Vec<f32> {
    let half = angles.half();
    let tokens = angles.cos().len() / half;
    let width = x.len() / tokens;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let mut y = vec![0.0; x.len()];
    let tasks = y
        .par_chunks_mut(TOKENS * width)
        .zip(x.par_chunks(TOKENS * width))
        .zip(angles.cos().par_chunks(TOKENS * half).zip(angles.sin().par_chunks(TOKENS * half)));
    tasks.for_each(|((y, x), (cos, sin))| part(y, x, cos, sin, half, width, sign));
    y
}

vectorised! {
    fn part(y: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], half: usize, width: usize, sign: f32) {
        let tokens = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for ((y, x), (cos, sin)) in tokens.zip(angles) {
            for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                let (y_first, y_second) = y.split_at_mut(half);
                let (x_first, x_second) = x.split_at(half);
                for i in 0..half {
                    let (c, s) = (cos[i], sin[i] * sign);
                    y_first[i] = x_first[i] * c - x_second[i] * s;
                    y_second[i] = x_second[i] * c + x_first[i] * s;
                }
            }
        }
    }
}
