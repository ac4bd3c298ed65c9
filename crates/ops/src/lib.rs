//! The differentiable operations that a decoder is made of.
//!
//! Each operation has one composed body of plain tensor operations ([`composed`]): right on every backend,
//! differentiated by the framework, and the reference that a kernel is held against. On the CPU, f32 tensors take
//! kernels with a hand-written backward; everything else takes the composed body.
//!
//! Letters in shapes, here and in the crates above: `b` batch rows, `t` tokens of a row, `s` tokens attended to,
//! `n` tokens flattened (`b * t`), `d` hidden size, `h` attention heads, `k` key/value heads, `e` head size,
//! `f` feed-forward size, `v` vocabulary, `r` rank.

pub mod composed;
mod cpu;
mod file_map;
mod head_loss;
mod kernel;
mod layout;
mod on_device;
mod operations;
mod packed;
mod split;
mod streamed;

pub use cpu::{FrozenProduct, HEAD_LOGITS, Keep};
pub use file_map::FileMap;
pub use head_loss::{LossSum, cross_entropy, head_loss};
pub use kernel::{Compute, InstructionSet, QuantFormat, QuantWeight};
pub use layout::{Angles, Attended};
pub use operations::{
    LowRank, Norm, Projection, Weight, attention, attention_layer, dora_row_norm, linear, linears, low_rank, mlp,
    rms_norm, rotary, swiglu,
};
pub use split::{SplitWeight, max_tensor_bytes, rows_within};
pub use streamed::StreamedWeight;
