//! From a batch to a loss: (sum, tokens), never a mean.

use burn::tensor::{Int, Tensor, TensorData};
use rankine_data::Batch;
use rankine_models::model::{Model, Tokens, to_host};
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

/// Tokens of which a row's length is a multiple, where rows are taken as they are.
const ROW: usize = 64;

/// A micro-batch as passes forward and backward. With `piece_tokens`, its documents side by side without padding, at
/// most so many tokens a pass; else one pass over its rows, filled up to few lengths, for a device that wants few shapes.
pub fn passes(batch: &Batch, piece_tokens: Option<usize>, pad_id: u32) -> Vec<Batch> {
    match piece_tokens {
        Some(tokens) => batch.pieces(tokens),
        None => vec![batch.filled_up(ROW, pad_id)],
    }
}

/// The sum of summed losses, in one read: a device is not waited for in between.
pub fn total(sums: Vec<Tensor<1>>) -> f64 {
    if sums.is_empty() {
        return 0.0;
    }
    to_host(Tensor::cat(sums, 0)).iter().map(|sum| f64::from(*sum)).sum()
}

/// The summed cross-entropy of the next trained token at each position. `neftune` bounds the embedding noise of
/// training: see [`neftune_bound`].
pub fn supervised(model: &Model, batch: &Batch, pass: &mut Pass, neftune: Option<f64>) -> LossSum {
    let Supervised { hidden, targets } = hidden(model, batch, pass, neftune);
    loss(model, hidden, &targets, pass)
}

/// What predicts a trained token, and that token.
#[derive(Debug)]
pub struct Supervised {
    /// [n, d].
    pub hidden: Tensor<2>,
    /// `[n]`.
    pub targets: Vec<i64>,
}

/// The first half of [`supervised`]: hidden states of the positions that predict a trained token.
pub fn hidden(model: &Model, batch: &Batch, pass: &mut Pass, neftune: Option<f64>) -> Supervised {
    let (positions, targets) = targets(batch);
    let noise = match (neftune, &mut *pass) {
        (Some(bound), Pass::Train(noise)) => Some(neftune_noise(model, batch, bound, noise)),
        _ => None,
    };
    let hidden = model.hidden_with(&tokens(batch), pass, &mut |_, _| {}, noise);
    // Positions that predict nothing never reach the head.
    let index = Tensor::<1, Int>::from_data(TensorData::new(positions, [targets.len()]), model.device());
    Supervised { hidden: hidden.select(0, index), targets }
}

/// The second half of [`supervised`].
pub fn loss(model: &Model, hidden: Tensor<2>, targets: &[i64], pass: &mut Pass) -> LossSum {
    match model.frozen_head() {
        Some(weight) => head_loss(hidden, &weight, targets, model.head_product()),
        None => cross_entropy(model.logits(hidden, pass), targets),
    }
}

/// `alpha / sqrt(L d)` for rows of `L` tokens ([Jain et al. 2023](https://arxiv.org/abs/2310.05914)).
pub fn neftune_bound(alpha: f64, row_length: usize, hidden_size: usize) -> f64 {
    alpha / ((row_length * hidden_size) as f64).sqrt()
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

/// `U(-bound, bound)` for every value of the embeddings, [b * t, d].
fn neftune_noise(model: &Model, batch: &Batch, bound: f64, noise: &mut Noise) -> Tensor<2> {
    let width = model.config.hidden_size;
    let values = noise.uniform(batch.input_ids.len() * width, bound as f32);
    Tensor::from_data(TensorData::new(values, [batch.input_ids.len(), width]), model.device())
}
