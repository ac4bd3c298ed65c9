use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation::log_softmax};

use crate::cpu::{FrozenProduct, Head, Host};
use crate::kernel::InstructionSet;
use crate::operations::{Weight, kernels_read, on_cpu};
use crate::split;

/// A loss as the pair that adds up over micro-batches: its sum and the tokens that it is over.
///
/// It is divided once, at the optimizer step, by the tokens of the whole global batch.
#[derive(Debug, Clone)]
pub struct LossSum {
    /// The summed negative log-likelihood in nats, `[1]`, outside the graph.
    pub sum: Tensor<1>,
    /// What to run backward through, of one value: its gradient is the sum's. Its value may differ.
    pub objective: Tensor<1>,
    /// Tokens in the sum.
    pub tokens: usize,
}

/// Values of logits held at once, so that large vocabularies stay within what a device can bind (128 MiB at least).
const LOGITS: usize = 1 << 24;

/// Rows of logits are made so many at a time at most, and in multiples of [`ROW`], for a device that wants few shapes.
const CHUNK: usize = 256;
const ROW: usize = 64;

/// Summed cross-entropy of a frozen head, without ever holding all logits: for each chunk of rows the logits, the
/// loss and `dH = softmax(h W^T) W - W[target]` are computed together, and only `dH` is kept
/// (after [Cut Your Losses](https://arxiv.org/abs/2411.09009) and Liger's fused linear cross-entropy).
///
/// # Shapes
/// `hidden` [n, d] (rows whose label is ignored already dropped), `weight` [v, d] outside the graph, `targets` n.
/// `product` is how the CPU multiplies with the weight.
pub fn head_loss(hidden: Tensor<2>, weight: &Weight, targets: &[i64], product: &FrozenProduct) -> LossSum {
    let device = hidden.device().inner();
    let [n, width] = hidden.dims();
    if let Weight::Dense(weight) = weight
        && on_cpu([hidden.dtype()], &hidden)
        && kernels_read(weight)
    {
        let (h, w) = (Host::of(&hidden.clone().inner()), Host::of(weight));
        let head = Head { weight: w.held(), width, product, set: InstructionSet::current() };
        let (sum, gradient) = head.loss_and_gradient(h.values(), targets, hidden.is_tracked());
        let sum = Tensor::from_data(TensorData::new(vec![sum as f32], [1]), &device);
        let objective = match gradient {
            Some(gradient) => (hidden * Tensor::from_data(TensorData::new(gradient, [n, width]), &device)).sum(),
            None => sum.clone(),
        };
        return LossSum { sum, objective, tokens: n };
    }
    composed_head_loss(hidden, weight, targets)
}

/// The reference body of [`head_loss`].
pub fn composed_head_loss(hidden: Tensor<2>, weight: &Weight, targets: &[i64]) -> LossSum {
    let device = hidden.device().inner();
    let [n, width] = hidden.dims();
    let plain = hidden.clone().inner();
    let parts = weight.parts(&device);
    let mut sum: Option<Tensor<1>> = None;
    let mut gradients = Vec::with_capacity(n.div_ceil(CHUNK));
    let chunk = (LOGITS / weight.dims()[0].max(1) / ROW * ROW).clamp(ROW, CHUNK);
    for start in (0..n).step_by(chunk) {
        let rows = chunk.min(n - start);
        let mut h = plain.clone().narrow(0, start, rows);
        let mut target = targets[start..start + rows].to_vec();
        let filled = rows.next_multiple_of(ROW);
        if filled > rows {
            // Rows of zeros, which no sum and no gradient takes.
            h = Tensor::cat(vec![h, Tensor::zeros([filled - rows, width], (&device, DType::F32))], 0);
            target.resize(filled, 0);
        }
        let target = indices(&target, &device);
        let logits = split::linear(&h, &parts); // [filled, v]
        let log_probabilities = log_softmax(logits, 1); // [filled, v]
        let picked = log_probabilities.clone().gather(1, target.clone().unsqueeze_dim(1)); // [filled, 1]
        let loss = picked.narrow(0, 0, rows).sum().neg();
        sum = Some(sum.map_or(loss.clone(), |sum| sum + loss));
        if hidden.is_tracked() {
            let expected = split::transposed(&log_probabilities.exp(), &parts);
            let observed = split::select(&parts, &target).cast(DType::F32);
            gradients.push((expected - observed).narrow(0, 0, rows));
        }
    }
    let sum = sum.unwrap_or_else(|| Tensor::zeros([1], &device));
    let objective = if gradients.is_empty() { sum.clone() } else { (hidden * Tensor::cat(gradients, 0)).sum() };
    LossSum { sum, objective, tokens: n }
}

/// Summed cross-entropy of given logits, differentiated by the framework: for a head that is itself trained.
///
/// # Shapes
/// `logits` [n, v] in f32, `targets` n.
pub fn cross_entropy(logits: Tensor<2>, targets: &[i64]) -> LossSum {
    let device = logits.device().inner();
    let target = indices(targets, &device).unsqueeze_dim(1); // [n, 1]
    let target = if logits.is_autodiff() { target.autodiff() } else { target };
    let objective = log_softmax(logits, 1).gather(1, target).sum().neg();
    LossSum { sum: objective.clone().inner(), objective, tokens: targets.len() }
}

fn indices(targets: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), device)
}
