use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor};

use crate::composed;
use crate::cpu::FusedOps;
use crate::layout::{Angles, Attended};

/// `y = w * x / sqrt(mean(x^2) + eps)` over the last dimension
/// ([Zhang & Sennrich 2019](https://arxiv.org/abs/1910.07467); `LlamaRMSNorm` in transformers).
///
/// # Shapes
/// `x` [n, d] in f32, `weight` `[d]`; returns [n, d] in f32.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    if !on_cpu([x.dtype(), weight.dtype()], &x) {
        return composed::rms_norm(x, weight, eps);
    }
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// `y = silu(gate) * up` ([Shazeer 2020](https://arxiv.org/abs/2002.05202)).
///
/// # Shapes
/// `gate` and `up` [n, f]; returns [n, f].
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !on_cpu([gate.dtype(), up.dtype()], &gate) {
        return composed::swiglu(gate, up);
    }
    Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Rotates each head by its token's angles, in the rotate-half layout of Hugging Face checkpoints
/// (`apply_rotary_pos_emb` in transformers).
///
/// # Shapes
/// `x` [n, heads * e]; returns the same.
pub fn rotary(x: Tensor<2>, angles: &Angles) -> Tensor<2> {
    if !on_cpu([x.dtype()], &x) {
        return composed::rotary(x, angles);
    }
    Tensor::from_dispatch(Dispatch::rotary(x.into_dispatch(), angles.clone()))
}

/// `softmax(q k^T / sqrt(e)) v` over the keys that each query sees, with grouped heads: `h / k` query heads share a
/// key/value head ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)). Keys and values are not repeated.
///
/// # Shapes
/// `q` [b * t, h * e], `k` and `v` [b * s, k * e]; returns [b * t, h * e].
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, attended: &Attended) -> Tensor<2> {
    if !on_cpu([q.dtype(), k.dtype(), v.dtype()], &q) {
        return composed::attention(q, k, v, attended);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention(q, k, v, attended.clone()))
}

/// `y = x W^T`.
///
/// With [`low_rank_linear`] the one place where a checkpoint's `[out, in]` meets the product's `[in, out]`: the
/// transpose is a view. The product runs in the weight's dtype; what goes in and comes out is f32.
///
/// # Shapes
/// `x` [n, in] in f32, `weight` [out, in]; returns [n, out] in f32.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let dtype = weight.dtype();
    if dtype == DType::F32 {
        x.matmul(weight.transpose())
    } else {
        x.cast(dtype).matmul(weight.transpose()).cast(DType::F32)
    }
}

/// `y = s (x A^T) B^T` ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)).
///
/// Contracted to rank r first, forward and backward: neither `B A` nor its gradient is ever formed.
///
/// # Shapes
/// `x` [n, in], `a` [r, in], `b` [out, r]; returns [n, out].
pub fn low_rank(x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    x.matmul(a.transpose()).mul_scalar(scale).matmul(b.transpose())
}

/// `y = x W^T + s (x A^T) B^T` with a frozen `W`: [`linear`] and [`low_rank`] in one.
///
/// # Shapes
/// `x` [n, in], `weight` [out, in] outside the graph, `a` [r, in], `b` [out, r]; returns [n, out].
pub fn low_rank_linear(x: Tensor<2>, weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    if !on_cpu([x.dtype(), weight.dtype(), a.dtype(), b.dtype()], &x) || weight.is_tracked() {
        return composed::low_rank_linear(x, weight, a, b, scale);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::low_rank_linear(x, weight, a.into_dispatch(), b.into_dispatch(), scale))
}

/// `||W + s B A||` of each row, without forming the sum: the row's squared norm is
/// `|w|^2 + 2 s (A w) . b + s^2 b^T (A A^T) b`.
///
/// # Shapes
/// `weight` [out, in], `a` [r, in], `b` [out, r]; returns `[out]` in f32.
pub fn dora_row_norm(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<1> {
    let weight = weight.cast(DType::F32);
    let square = weight.clone().square().sum_dim(1); // [out, 1]
    let cross = (weight.matmul(a.clone().transpose()) * b.clone()).sum_dim(1); // [out, 1]
    let gram = a.clone().matmul(a.transpose()); // [r, r]
    let update = (b.clone().matmul(gram) * b).sum_dim(1); // [out, 1]
    (square + cross.mul_scalar(2.0 * scale) + update.mul_scalar(scale * scale)).clamp_min(0.0).sqrt().squeeze_dim(1)
}

/// Whether the CPU kernels take these tensors.
pub(crate) fn on_cpu<const N: usize>(dtypes: [DType; N], x: &Tensor<2>) -> bool {
    let flex = matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_));
    flex && dtypes.iter().all(|dtype| *dtype == DType::F32)
}
