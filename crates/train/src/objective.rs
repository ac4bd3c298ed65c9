//! From a batch to a loss: (sum, tokens), never a mean.

use burn::tensor::{Int, Tensor, TensorData};
use rankine_data::Batch;
use rankine_models::model::{Model, Tokens};
use rankine_nn::parameter::{Noise, Pass};
use rankine_ops::{LossSum, cross_entropy, head_loss};

/// A batch as the model takes it.
pub fn tokens(batch: &Batch) -> Tokens<'_> {
    Tokens {
        rows: batch.rows,
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        segment_ids: &batch.segment_ids,
    }
}

/// The summed cross-entropy of the next trained token at each position. `neftune_alpha` adds embedding noise in
/// training ([Jain et al. 2023](https://arxiv.org/abs/2310.05914)).
pub fn supervised(model: &Model, batch: &Batch, pass: &mut Pass, neftune_alpha: Option<f64>) -> LossSum {
    let (positions, targets) = targets(batch);
    let noise = match (neftune_alpha, &mut *pass) {
        (Some(alpha), Pass::Train(noise)) => Some(neftune(model, batch, alpha, noise)),
        _ => None,
    };
    let hidden = model.hidden_with(&tokens(batch), pass, &mut |_, _| {}, noise);
    // Positions that predict nothing never reach the head.
    let index = Tensor::<1, Int>::from_data(TensorData::new(positions, [targets.len()]), model.device());
    let hidden = hidden.select(0, index);
    match model.frozen_head() {
        Some(weight) => head_loss(hidden, weight, &targets),
        None => cross_entropy(model.logits(hidden, pass), &targets),
    }
}

/// The positions that predict a trained token, and those tokens: position `i` predicts label `i + 1` of its row.
fn targets(batch: &Batch) -> (Vec<i64>, Vec<i64>) {
    let mut positions = Vec::new();
    let mut targets = Vec::new();
    for row in 0..batch.rows {
        let start = row * batch.length;
        for position in start..start + batch.length - 1 {
            let label = batch.labels[position + 1];
            if label >= 0 {
                positions.push(position as i64);
                targets.push(label);
            }
        }
    }
    (positions, targets)
}

/// `U(-1, 1) * alpha / sqrt(L d)`, where `L` is the row's length. [b * t, d].
fn neftune(model: &Model, batch: &Batch, alpha: f64, noise: &mut Noise) -> Tensor<2> {
    let width = model.config.hidden_size;
    let bound = alpha / ((batch.length * width) as f64).sqrt();
    let values = noise.uniform(batch.input_ids.len() * width, bound as f32);
    Tensor::from_data(TensorData::new(values, [batch.input_ids.len(), width]), model.device())
}
