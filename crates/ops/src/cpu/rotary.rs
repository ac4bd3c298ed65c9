//! Rotary positions: pairs `(x[i], x[i + e/2])` of each head turned by the token's angle.

use crate::kernel::math::vectorised;
use crate::kernel::{InstructionSet, Threads};
use crate::layout::Angles;

/// Which way. The backward pass is the rotation the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Forward,
    Back,
}

/// Tokens of one task.
const TOKENS: usize = 32;

/// Turns the first `columns` of each row of `x` [n, width], in place.
pub(super) fn rotate(set: InstructionSet, x: &mut [f32], width: usize, columns: usize, angles: &Angles, turn: Turn) {
    let half = angles.half();
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let (cos, sin, work) = (angles.cos(), angles.sin(), x.len());
    Threads::All.chunks(x, TOKENS * width, work, |task, x| {
        let first = task * TOKENS * half;
        part(set, x, &cos[first..], &sin[first..], half, width, columns, sign);
    });
}

vectorised! {
    fn part(x: &mut [f32], cos: &[f32], sin: &[f32], half: usize, width: usize, columns: usize, sign: f32) {
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (x, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
            for x in x[..columns].chunks_exact_mut(2 * half) {
                let (first, second) = x.split_at_mut(half);
                for i in 0..half {
                    let (c, s) = (cos[i], sin[i] * sign);
                    (first[i], second[i]) = (first[i] * c - second[i] * s, second[i] * c + first[i] * s);
                }
            }
        }
    }
}
