use std::sync::Arc;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::composed;
use crate::cpu::{
    AttentionSpec, FrozenLayer, FrozenNorm, FrozenProduct, FusedOps, HeldWeight, Host, Keep, LinearsSpec, MlpSpec,
};
use crate::kernel::{InstructionSet, QuantWeight};
use crate::layout::{Angles, Attended};
use crate::split::{self, SplitWeight};
use crate::streamed::StreamedWeight;

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

/// `y = x W^T`, of one layer: see [`linears`].
///
/// # Shapes
/// `x` [n, in] in f32, `weight` [out, in]; returns [n, out] in f32.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    linears(x, None, &[Projection::plain(weight)], None)
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

/// Linear layers that share an input, their outputs side by side, each with its low-rank update:
/// `y_i = [residual +] h W_i^T + bias_i + s_i (h A_i^T) B_i^T` with `h = norm(x)`, or `h = x` without a norm.
///
/// With [`composed::linear`] the one place where a checkpoint's `[out, in]` meets the product's `[in, out]`: the
/// transpose is a view. What goes in and comes out is f32; on the CPU the products are, too, whatever the weight is
/// held in.
///
/// # Shapes
/// `x` [n, in], `residual` [n, sum of out]; returns [n, sum of out].
pub fn linears(x: Tensor<2>, norm: Option<&Norm>, layers: &[Projection], residual: Option<Tensor<2>>) -> Tensor<2> {
    if !on_cpu([x.dtype()], &x) || !layers.iter().all(Projection::is_frozen) || layers.len() > 3 {
        return composed::linears(x, norm, layers, residual);
    }
    if let Some(norm) = norm.filter(|norm| !norm.is_frozen()) {
        return linears(rms_norm(x, norm.weight.clone(), norm.eps), None, layers, residual);
    }
    let spec = LinearsSpec {
        norm: norm.map(Norm::on_host),
        layers: layers.iter().map(Projection::on_host).collect(),
        residual: residual.is_some(),
        set: InstructionSet::current(),
    };
    let absent = Tensor::zeros([0, 0], &x.device().inner());
    let [a_1, b_1, a_2, b_2, a_3, b_3] = updates(layers, &absent);
    let residual = residual.unwrap_or(absent).into_dispatch();
    Tensor::from_dispatch(Dispatch::linears(x.into_dispatch(), residual, a_1, b_1, a_2, b_2, a_3, b_3, spec))
}

/// `y = x + o(attention(q, k, v))` with `q` and `k` [`rotary`]-turned projections and `v` a projection of
/// `h = norm(x)`, each layer with its low-rank update.
///
/// # Shapes
/// `x` [b * t, d]; `layers` q [h * e, d], k and v [k * e, d], o [d, h * e]; returns [b * t, d].
pub fn attention_layer(
    x: Tensor<2>,
    norm: &Norm,
    layers: &[Projection; 4],
    angles: &Angles,
    attended: &Attended,
    keep: Keep,
) -> Tensor<2> {
    if !on_cpu([x.dtype()], &x) {
        return composed::attention_layer(x, norm, layers, angles, attended);
    }
    if !norm.is_frozen() || !layers.iter().all(Projection::is_frozen) {
        let h = rms_norm(x.clone(), norm.weight.clone(), norm.eps);
        let one = |layer: &Projection| linears(h.clone(), None, std::slice::from_ref(layer), None);
        let [q, k, v, o] = layers;
        let (q, k) = (rotary(one(q), angles), rotary(one(k), angles));
        return linears(attention(q, k, one(v), attended), None, std::slice::from_ref(o), Some(x));
    }
    let spec = AttentionSpec {
        norm: norm.on_host(),
        layers: layers.each_ref().map(Projection::on_host),
        angles: angles.clone(),
        attended: attended.clone(),
        keep,
        set: InstructionSet::current(),
    };
    let absent = Tensor::zeros([0, 0], &x.device().inner());
    let [a_q, b_q, a_k, b_k, a_v, b_v, a_o, b_o] = updates(layers, &absent);
    let x = x.into_dispatch();
    Tensor::from_dispatch(Dispatch::attention_layer(x, a_q, b_q, a_k, b_k, a_v, b_v, a_o, b_o, spec))
}

/// `y = x + down(silu(gate(h)) * up(h))` with `h = norm(x)`, each layer with its low-rank update.
///
/// # Shapes
/// `x` [n, d]; `layers` gate and up [f, d], down [d, f]; returns [n, d].
pub fn mlp(x: Tensor<2>, norm: &Norm, layers: [&Projection; 3], keep: Keep) -> Tensor<2> {
    let [gate, up, down] = layers;
    if !on_cpu([x.dtype()], &x) {
        return composed::mlp(x, norm, gate, up, down);
    }
    if !norm.is_frozen() || !layers.iter().all(|layer| layer.is_frozen()) {
        let h = rms_norm(x.clone(), norm.weight.clone(), norm.eps);
        let one = |layer: &Projection| linears(h.clone(), None, std::slice::from_ref(layer), None);
        return linears(swiglu(one(gate), one(up)), None, std::slice::from_ref(down), Some(x));
    }
    let spec =
        MlpSpec { norm: norm.on_host(), layers: layers.map(Projection::on_host), keep, set: InstructionSet::current() };
    let absent = Tensor::zeros([0, 0], &x.device().inner());
    let [a_1, b_1, a_2, b_2, a_3, b_3] = updates(&layers.map(Projection::clone), &absent);
    Tensor::from_dispatch(Dispatch::mlp(x.into_dispatch(), a_1, b_1, a_2, b_2, a_3, b_3, spec))
}

/// A linear layer as an operation takes it.
#[derive(Debug, Clone)]
pub struct Projection {
    /// `W` [out, in].
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
    /// What is added to the frozen product.
    pub update: Option<LowRank>,
    /// How the product with a frozen `W` is computed on the CPU.
    pub product: FrozenProduct,
}

/// A weight [out, in] as it is held.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a handle; boxed, every use would allocate")]
pub enum Weight {
    /// Every value.
    Dense(Tensor<2>),
    /// Packed, frozen; widened a block at a time.
    Quantised(Arc<QuantWeight>),
    /// Frozen, in its file.
    Streamed(Arc<StreamedWeight>),
    /// Frozen, in more than one tensor; the composed bodies take it.
    Split(SplitWeight),
}

impl Weight {
    /// [out, in].
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Quantised(weight) => weight.dims(),
            Self::Streamed(weight) => weight.dims(),
            Self::Split(weight) => weight.dims(),
        }
    }

    /// Every value, on `device` where they have to be made.
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone(),
            Self::Quantised(weight) => {
                Tensor::from_data(TensorData::new(weight.dequantise(), weight.dims()), (device, DType::F32))
            }
            Self::Streamed(weight) => weight.dense(device),
            Self::Split(weight) => weight.dense(),
        }
    }

    /// The tensors that it is in, from the top, on `device` where they have to be made.
    pub(crate) fn parts(&self, device: &Device) -> Vec<Tensor<2>> {
        match self {
            Self::Split(weight) => weight.parts().to_vec(),
            weight => vec![weight.dense(device)],
        }
    }
}

impl From<Tensor<2>> for Weight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Dense(weight)
    }
}

/// `s (x A^T) B^T` ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)), contracted to rank r first both ways.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// [r, in].
    pub a: Tensor<2>,
    /// [out, r].
    pub b: Tensor<2>,
    /// `s`.
    pub scale: f64,
}

/// An RMSNorm as an operation takes it: see [`rms_norm`].
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[d]`.
    pub weight: Tensor<1>,
    /// Added to the mean square.
    pub eps: f64,
}

impl Projection {
    /// A weight alone.
    pub fn plain(weight: impl Into<Weight>) -> Self {
        Self { weight: weight.into(), bias: None, update: None, product: FrozenProduct::default() }
    }

    /// Every value of the weight outside the graph, on `device` where they have to be made.
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        match &self.weight {
            Weight::Quantised(weight) if !is_cpu(device) => self.product.packed(weight, device).dense(),
            weight => weight.dense(device),
        }
    }

    /// `x W^T` alone.
    pub(crate) fn frozen_product(&self, x: Tensor<2>) -> Tensor<2> {
        let device = x.device().inner();
        match &self.weight {
            Weight::Quantised(weight) if !is_cpu(&device) => self.product.packed(weight, &device).linear(&x),
            weight => split::linear(&x, &weight.parts(&device)),
        }
    }

    /// Whether only the update can be in the graph, and the weight is where a kernel reads it.
    fn is_frozen(&self) -> bool {
        let frozen = match &self.weight {
            Weight::Dense(weight) => kernels_read(weight),
            Weight::Quantised(_) | Weight::Streamed(_) => true,
            Weight::Split(_) => false,
        };
        frozen
            && self.bias.as_ref().is_none_or(kernels_read)
            && self.update.as_ref().is_none_or(|update| [&update.a, &update.b].iter().all(|x| x.dtype() == DType::F32))
    }

    fn on_host(&self) -> FrozenLayer {
        FrozenLayer {
            weight: match &self.weight {
                Weight::Dense(weight) => HeldWeight::Dense(Host::of(weight)),
                Weight::Quantised(weight) => HeldWeight::Quantised(weight.clone()),
                Weight::Streamed(weight) => HeldWeight::Streamed(weight.clone()),
                Weight::Split(_) => unreachable!("`is_frozen` was asked before"),
            },
            bias: self.bias.as_ref().map(Host::of),
            scale: self.update.as_ref().map(|update| update.scale as f32),
            product: self.product.clone(),
        }
    }
}

impl Norm {
    fn is_frozen(&self) -> bool {
        !self.weight.is_autodiff() && self.weight.dtype() == DType::F32
    }

    fn on_host(&self) -> FrozenNorm {
        FrozenNorm { weight: Host::of(&self.weight), eps: self.eps as f32 }
    }
}

/// The two factors of each update; `absent` where there is none.
fn updates<const N: usize>(layers: &[Projection], absent: &Tensor<2>) -> [burn::backend::DispatchTensor; N] {
    let factor = |index: usize| {
        let update = layers.get(index / 2).and_then(|layer| layer.update.as_ref());
        let factor = update.map_or(absent, |update| if index.is_multiple_of(2) { &update.a } else { &update.b });
        factor.clone().into_dispatch()
    };
    std::array::from_fn(factor)
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

/// Whether it is frozen, in a type that the CPU's kernels widen.
pub(crate) fn kernels_read<const D: usize>(frozen: &Tensor<D>) -> bool {
    !frozen.is_autodiff() && matches!(frozen.dtype(), DType::F32 | DType::BF16 | DType::F16)
}

/// Whether it is the CPU, outside the graph.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether the CPU kernels take these tensors.
pub(crate) fn on_cpu<const N: usize>(dtypes: [DType; N], x: &Tensor<2>) -> bool {
    is_cpu(&x.device().inner()) && dtypes.iter().all(|dtype| *dtype == DType::F32)
}
