//! A linear layer whose adapter is a field.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rankine_ops::{self as ops, FrozenProduct, LowRank, Projection, QuantWeight, SplitWeight, StreamedWeight, Weight};

use crate::embedding::Table;
use crate::lora::LoraInit;
use crate::parameter::{Parameter, ParameterMut, Parameters, Pass};

/// `y = x W^T + bias`, and whatever the adapter adds.
#[derive(Debug, Clone)]
pub struct Linear {
    /// [out, in], as checkpoints store it.
    pub weight: LinearWeight,
    /// `[out]`.
    pub bias: Option<Parameter<1>>,
    /// What is trained beside the weight.
    pub adapter: Option<Adapter>,
    /// How products with the frozen weight are computed on the CPU.
    pub product: FrozenProduct,
}

/// A linear layer's weight as it is held.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a handle; boxed, every use would allocate")]
pub enum LinearWeight {
    /// Every value, frozen or trained.
    Dense(Parameter<2>),
    /// Frozen in 4 or 8 bits; no dense copy is kept.
    Quantised(Arc<QuantWeight>),
    /// Frozen in its file; in memory while it is used.
    Streamed(Arc<StreamedWeight>),
    /// Frozen in more than one tensor, since its device holds none so large.
    Split(SplitWeight),
}

/// What is trained beside a frozen weight. A new method is a variant here.
#[derive(Debug, Clone)]
pub enum Adapter {
    /// A low-rank update.
    Lora(Box<Lora>),
    /// A low-rank update of the direction and a magnitude for each output.
    Dora(Box<Dora>),
}

/// `s (x A^T) B^T` ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)).
#[derive(Debug, Clone)]
pub struct Lora {
    /// `A` [r, in].
    pub lora_a: Parameter<2>,
    /// `B` [out, r].
    pub lora_b: Parameter<2>,
    /// `s`.
    pub scale: f64,
    /// Share of the adapter's inputs zeroed in training.
    pub dropout: f64,
}

/// `W' = m (W + s B A) / ||W + s B A||`, the norm over each row and constant in the backward pass
/// ([Liu et al. 2024](https://arxiv.org/abs/2402.09353), section 4.3; `peft/tuners/lora/dora.py`).
#[derive(Debug, Clone)]
pub struct Dora {
    /// The direction's update.
    pub lora: Lora,
    /// `m` `[out]`.
    pub magnitude: Parameter<1>,
}

impl Linear {
    /// A frozen layer without an adapter.
    pub fn frozen(weight: impl Into<LinearWeight>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight: weight.into(),
            bias: bias.map(Parameter::Frozen),
            adapter: None,
            product: FrozenProduct::default(),
        }
    }

    /// # Shapes
    /// `x` [n, in] in f32; returns [n, out] in f32.
    pub fn forward(&self, x: Tensor<2>, pass: &mut Pass) -> Tensor<2> {
        if let Some(projection) = self.projection(pass) {
            return ops::linears(x, None, &[projection], None);
        }
        // Computed as the frozen product of a projection is, whatever the adapter does around it.
        let base = self.plain_projection(pass);
        let y = match &self.adapter {
            None => product(x, &base),
            Some(Adapter::Lora(lora)) => lora.forward(x, &base, pass),
            Some(Adapter::Dora(dora)) => dora.forward(x, &base, pass),
        };
        match &self.bias {
            Some(bias) => y + bias.value(pass).cast(DType::F32).unsqueeze::<2>(),
            None => y,
        }
    }

    /// The layer as one operation takes it beside others that share its input; `None` where the adapter sees another
    /// input than the weight (dropout) or is more than a sum (DoRA).
    pub fn projection(&self, pass: &Pass) -> Option<Projection> {
        let update = match &self.adapter {
            None => None,
            Some(Adapter::Lora(lora)) if matches!(pass, Pass::Infer) || lora.dropout == 0.0 => {
                Some(LowRank { a: lora.lora_a.value(pass), b: lora.lora_b.value(pass), scale: lora.scale })
            }
            Some(_) => return None,
        };
        let bias = self.bias.as_ref().map(|bias| bias.value(pass));
        Some(Projection { bias, update, ..self.plain_projection(pass) })
    }

    /// The weight alone.
    fn plain_projection(&self, pass: &Pass) -> Projection {
        Projection { product: self.product.clone(), ..Projection::plain(self.weight.value(pass)) }
    }

    /// [out, in].
    pub fn dims(&self) -> [usize; 2] {
        match &self.weight {
            LinearWeight::Dense(Parameter::Frozen(weight) | Parameter::Trained(weight)) => weight.dims(),
            LinearWeight::Quantised(weight) => weight.dims(),
            LinearWeight::Streamed(weight) => weight.dims(),
            LinearWeight::Split(weight) => weight.dims(),
        }
    }
}

impl LinearWeight {
    /// As an operation takes it.
    pub fn value(&self, pass: &Pass) -> Weight {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.value(pass)),
            Self::Quantised(weight) => Weight::Quantised(weight.clone()),
            Self::Streamed(weight) => Weight::Streamed(weight.clone()),
            Self::Split(weight) => Weight::Split(weight.clone()),
        }
    }

    /// Every value outside the graph, on `device` where they have to be made.
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.plain(),
            Self::Quantised(weight) => Weight::Quantised(weight.clone()).dense(device),
            Self::Streamed(weight) => weight.dense(device),
            Self::Split(weight) => weight.dense(),
        }
    }
}

impl From<Table> for LinearWeight {
    /// Frozen rows: a head of its own that starts from an embedding's.
    fn from(table: Table) -> Self {
        match table {
            Table::Whole(weight) => weight.plain().into(),
            Table::Split(weight) => Self::Split(weight),
        }
    }
}

impl From<Tensor<2>> for LinearWeight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Dense(Parameter::Frozen(weight))
    }
}

impl Lora {
    /// A new adapter of `layer` with `B = 0`; `a` holds the values of `A` [r, in].
    pub fn new(layer: &Linear, r: usize, scale: f64, dropout: f64, a: Vec<f32>, device: &Device) -> Self {
        let [out, input] = layer.dims();
        Self {
            lora_a: Parameter::trained(Tensor::from_data(TensorData::new(a, [r, input]), device)),
            lora_b: Parameter::trained(Tensor::zeros([out, r], device)),
            scale,
            dropout,
        }
    }

    /// Dropout, as in peft, is on the adapter's input alone. Without it the layer is a [`Projection`].
    fn forward(&self, x: Tensor<2>, base: &Projection, pass: &mut Pass) -> Tensor<2> {
        let (a, b) = (self.lora_a.value(pass), self.lora_b.value(pass));
        let dropped = match pass {
            Pass::Train(noise) => noise.dropout(x.clone(), self.dropout),
            Pass::Infer => x.clone(),
        };
        product(x, base) + ops::low_rank(dropped, a, b, self.scale)
    }
}

impl Dora {
    /// The magnitude starts as the row norm of the adapted weight, so that nothing changes at first.
    pub fn new(layer: &Linear, lora: Lora) -> Self {
        let (a, b) = (lora.lora_a.plain(), lora.lora_b.plain());
        let norm = ops::dora_row_norm(layer.weight.dense(&a.device()), a, b, lora.scale);
        Self { lora, magnitude: Parameter::trained(norm) }
    }

    /// With dropout the adapter's whole share, `(m / norm - 1) x W^T` included, sees the dropped-out input, as in peft.
    fn forward(&self, x: Tensor<2>, base: &Projection, pass: &mut Pass) -> Tensor<2> {
        let lora = &self.lora;
        let (a, b) = (lora.lora_a.value(pass), lora.lora_b.value(pass));
        // From plain tensors: the norm is a constant of the backward pass.
        let (plain_a, plain_b) = (a.clone().inner(), b.clone().inner());
        let weight = base.dense(&plain_a.device()).inner();
        let norm = ops::dora_row_norm(weight, plain_a, plain_b, lora.scale);
        let ratio = (self.magnitude.value(pass) / norm).unsqueeze::<2>(); // [1, out]
        match pass {
            Pass::Train(noise) if lora.dropout > 0.0 => {
                let dropped = noise.dropout(x.clone(), lora.dropout);
                let share = product(dropped.clone(), base);
                let update = ops::low_rank(dropped, a, b, lora.scale);
                product(x, base) + ratio.clone().sub_scalar(1.0) * share + ratio * update
            }
            _ => (product(x.clone(), base) + ops::low_rank(x, a, b, lora.scale)) * ratio,
        }
    }
}

/// `x W^T`.
fn product(x: Tensor<2>, base: &Projection) -> Tensor<2> {
    ops::linears(x, None, std::slice::from_ref(base), None)
}

/// The values of a new `A` [r, in]: `U(-1/sqrt(in), 1/sqrt(in))`, or `N(0, 1/r^2)`, as peft starts them.
pub fn initial_a(r: usize, input: usize, init: LoraInit, rng: &mut ChaCha8Rng) -> Vec<f32> {
    match init {
        LoraInit::Default => {
            let bound = 1.0 / (input as f32).sqrt();
            (0..r * input).map(|_| rng.random_range(-bound..bound)).collect()
        }
        LoraInit::Gaussian => {
            let deviation = 1.0 / r as f32;
            (0..r * input).map(|_| deviation * standard_normal(rng)).collect()
        }
    }
}

/// One draw of `N(0, 1)` (Box-Muller).
pub fn standard_normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}

impl Parameters for Linear {
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>)) {
        // What is packed, in a file or in parts is not one tensor, and nothing that is walked over could change it.
        if let LinearWeight::Dense(weight) = &mut self.weight {
            f(&format!("{prefix}.weight"), ParameterMut::Matrix(weight));
        }
        if let Some(bias) = &mut self.bias {
            f(&format!("{prefix}.bias"), ParameterMut::Vector(bias));
        }
        match &mut self.adapter {
            None => {}
            Some(Adapter::Lora(lora)) => lora.visit(prefix, f),
            Some(Adapter::Dora(dora)) => {
                dora.lora.visit(prefix, f);
                f(&format!("{prefix}.lora_magnitude_vector"), ParameterMut::Vector(&mut dora.magnitude));
            }
        }
    }
}

impl Parameters for Lora {
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>)) {
        f(&format!("{prefix}.lora_A.weight"), ParameterMut::Matrix(&mut self.lora_a));
        f(&format!("{prefix}.lora_B.weight"), ParameterMut::Matrix(&mut self.lora_b));
    }
}
