//! The reference bodies: plain tensor operations, right on every backend and differentiated by the framework.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Tensor};

pub use crate::head_loss::composed_head_loss as head_loss;
use crate::layout::{Angles, Attended};
use crate::operations::{LowRank, Norm, Projection, is_cpu};
use crate::split;

/// See [`crate::rms_norm`].
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1);
    let scale = mean_square.add_scalar(eps).sqrt().recip();
    x * scale * weight.cast(DType::F32).unsqueeze::<2>()
}

/// See [`crate::swiglu`].
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    gate.clone() * sigmoid(gate) * up
}

/// `y = x W^T`, the product in the weight's dtype; in f32 on the CPU, as the kernels do it.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let dtype = if is_cpu(&x.device().inner()) { DType::F32 } else { weight.dtype() };
    if dtype == DType::F32 {
        return x.matmul(weight.cast(DType::F32).transpose());
    }
    x.cast(dtype).matmul(weight.transpose()).cast(DType::F32)
}

/// See [`crate::linears`].
pub fn linears(x: Tensor<2>, norm: Option<&Norm>, layers: &[Projection], residual: Option<Tensor<2>>) -> Tensor<2> {
    let h = match norm {
        Some(norm) => rms_norm(x, norm.weight.clone(), norm.eps),
        None => x,
    };
    let layer = |layer: &Projection| {
        let mut y = layer.frozen_product(h.clone());
        if let Some(LowRank { a, b, scale }) = &layer.update {
            y = y + crate::low_rank(h.clone(), a.clone(), b.clone(), *scale);
        }
        match &layer.bias {
            Some(bias) => y + bias.clone().cast(DType::F32).unsqueeze::<2>(),
            None => y,
        }
    };
    let y = split::joined(layers.iter().map(layer).collect(), 1);
    match residual {
        Some(residual) => residual + y,
        None => y,
    }
}

/// See [`crate::mlp`].
pub fn mlp(x: Tensor<2>, norm: &Norm, gate: &Projection, up: &Projection, down: &Projection) -> Tensor<2> {
    let h = rms_norm(x.clone(), norm.weight.clone(), norm.eps);
    let one = |layer: &Projection| linears(h.clone(), None, std::slice::from_ref(layer), None);
    let act = swiglu(one(gate), one(up));
    linears(act, None, std::slice::from_ref(down), Some(x))
}

/// See [`crate::attention_layer`].
pub fn attention_layer(
    x: Tensor<2>,
    norm: &Norm,
    layers: &[Projection; 4],
    angles: &Angles,
    attended: &Attended,
) -> Tensor<2> {
    let h = rms_norm(x.clone(), norm.weight.clone(), norm.eps);
    let one = |layer: &Projection| linears(h.clone(), None, std::slice::from_ref(layer), None);
    let [q, k, v, o] = layers;
    let y = attention(rotary(one(q), angles), rotary(one(k), angles), one(v), attended);
    linears(y, None, std::slice::from_ref(o), Some(x))
}

/// See [`crate::rotary`].
pub fn rotary(x: Tensor<2>, angles: &Angles) -> Tensor<2> {
    let [n, width] = x.dims();
    let half = angles.half();
    let heads = width / (2 * half);
    let (cos, sin) = angles.tables(&x.device().inner()); // [n, 1, e]
    let x = x.reshape([n, heads, 2 * half]);
    let first = x.clone().narrow(2, 0, half);
    let second = x.clone().narrow(2, half, half);
    let rotated = Tensor::cat(vec![second.neg(), first], 2);
    (x * cos + rotated * sin).reshape([n, width])
}

/// See [`crate::attention`].
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, attended: &Attended) -> Tensor<2> {
    let Attended { rows: b, queries: t, keys: s, heads: h, groups, .. } = *attended;
    let [_, width] = q.dims();
    let (e, shared) = (width / h, h / groups);
    let device = q.device().inner();
    let split = |x: Tensor<2>, tokens: usize, heads: usize| x.reshape([b, tokens, heads, e]).swap_dims(1, 2);
    let q = split(q, t, h).mul_scalar(attended.scale(e)).reshape([b, groups, shared * t, e]);
    let (k, v) = (split(k, s, groups), split(v, s, groups));
    let blocked = attended.mask(&device);
    let scores = q.matmul(k.transpose()).reshape([b, h, t, s]);
    // Finite, so that a gradient through a blocked score is 0 and never NaN.
    let scores = scores.mask_fill(blocked.expand([b, h, t, s]), -1e30);
    let weights = softmax(scores, 3).reshape([b, groups, shared * t, s]);
    weights.matmul(v).reshape([b, h, t, e]).swap_dims(1, 2).reshape([b * t, width])
}
