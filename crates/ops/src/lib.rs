//! The differentiable operations that a decoder is made of.
//!
//! Each operation has one composed body of plain tensor operations: right on every backend, differentiated by
//! the framework, and the reference that any faster kernel is held against.
//!
//! Letters in shapes, here and in the crates above: `b` batch rows, `t` tokens of a row, `s` tokens attended to,
//! `n` tokens flattened, `d` hidden size, `h` attention heads, `k` key/value heads, `e` head size,
//! `f` feed-forward size, `v` vocabulary, `r` rank.

mod attention;
mod head_loss;
mod linear;
mod norm;
mod rotary;
mod swiglu;

pub use attention::{AttentionMask, attention};
pub use head_loss::{LossSum, cross_entropy, head_loss};
pub use linear::{dora_row_norm, linear, low_rank};
pub use norm::rms_norm;
pub use rotary::{apply_rotary, rotary_angles};
pub use swiglu::swiglu;
