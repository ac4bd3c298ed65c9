//! How long a step will take, before the run: a model of one and of two layers is timed, and the rest is counted.

use rankine_data::{Batch, GlobalBatch};
use rankine_models::model::Model;
use serde::Serialize;

use crate::bench::{Parts, step};
use crate::config::OptimizerConfig;
use crate::optimizer::Optimizer;

/// What is known of the whole model and its run.
#[derive(Debug, Clone)]
pub struct PaceInputs<'a> {
    /// Steps of the run, whose size and documents the others' are like.
    pub batches: &'a [GlobalBatch],
    /// As [`crate::run::RunConfig::piece_tokens`].
    pub piece_tokens: Option<usize>,
    /// The update rule.
    pub optimizer: &'a OptimizerConfig,
    /// Layers of the whole model.
    pub layers: usize,
    /// Layers below the lowest that is trained, which have no backward pass.
    pub below: usize,
    /// Layers that compute their activations again.
    pub again: usize,
}

/// How fast a run will be. Evaluations, checkpoints and exports come on top.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pace {
    /// Of an optimizer step.
    pub step_seconds: f64,
    /// Tokens of the batches, padding left out.
    pub tokens_per_second: f64,
}

/// Times that are taken of each depth, after one that is not; the median counts.
const TIMES: usize = 3;

impl Pace {
    /// Times one forward and backward pass of typical size through `model`, of at most two layers, and through its
    /// first layer alone; the model is used up by it. `None` where the batches hold nothing to train on.
    pub fn forecast(model: &mut Model, inputs: &PaceInputs<'_>) -> Option<Self> {
        let pieces = |batch: &GlobalBatch| -> Vec<Batch> {
            let micro = batch.micro_batches.iter();
            match inputs.piece_tokens {
                Some(tokens) => micro.flat_map(|micro| micro.pieces(tokens)).collect(),
                None => micro.filter(|micro| micro.trained_tokens() > 0).cloned().collect(),
            }
        };
        let mut pieces: Vec<Batch> = inputs.batches.iter().flat_map(pieces).collect();
        let tokens: usize = pieces.iter().map(Batch::tokens).sum();
        let steps = inputs.batches.iter().filter(|batch| batch.trained_tokens > 0).count();
        pieces.sort_by_key(Batch::tokens);
        let typical = pieces.swap_remove((!pieces.is_empty()).then_some(pieces.len() / 2)?);
        let mut optimizer = Optimizer::new(inputs.optimizer.clone());
        let deep = time(model, &mut optimizer, &typical);
        let shallow = if inputs.layers > 1 {
            model.model.layers.truncate(1);
            time(model, &mut Optimizer::new(inputs.optimizer.clone()), &typical)
        } else {
            deep
        };
        let passes = tokens as f64 / steps as f64 / typical.tokens() as f64;
        let step_seconds = inputs.step_seconds(&shallow, &deep, passes);
        Some(Self { step_seconds, tokens_per_second: tokens as f64 / steps as f64 / step_seconds.max(1e-9) })
    }
}

impl PaceInputs<'_> {
    /// Of a step of so many passes: what one layer takes is the difference of two and one.
    fn step_seconds(&self, shallow: &Parts, deep: &Parts, passes: f64) -> f64 {
        let further = self.layers.saturating_sub(1) as f64;
        let trained = self.layers.saturating_sub(1 + self.below) as f64;
        let layer = |part: fn(&Parts) -> f64| (part(deep) - part(shallow)).max(0.0);
        let forward = shallow.forward + (further + self.again as f64) * layer(|parts| parts.forward);
        let backward = shallow.backward + trained * layer(|parts| parts.backward);
        let gradients = shallow.gradients + trained * layer(|parts| parts.gradients);
        let optimizer = shallow.optimizer + trained * layer(|parts| parts.optimizer);
        let head = (shallow.head + deep.head) / 2.0;
        passes * (forward + head + backward + gradients) + optimizer
    }
}

/// Each part's median.
fn time(model: &mut Model, optimizer: &mut Optimizer, piece: &Batch) -> Parts {
    let mut found = Vec::with_capacity(TIMES);
    for index in 0..=TIMES {
        let (parts, _) = step(model, optimizer, std::slice::from_ref(piece), 1, index);
        if index > 0 {
            found.push(parts);
        }
    }
    let median = |part: fn(&Parts) -> f64| {
        let mut seconds: Vec<f64> = found.iter().map(part).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    Parts {
        forward: median(|parts| parts.forward),
        head: median(|parts| parts.head),
        backward: median(|parts| parts.backward),
        gradients: median(|parts| parts.gradients),
        optimizer: median(|parts| parts.optimizer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerKind;

    #[test]
    fn layers_are_counted_by_what_they_do() {
        let optimizer = OptimizerConfig {
            kind: OptimizerKind::Adamw,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            loraplus_lr_ratio: None,
        };
        let shallow = Parts { forward: 2.0, head: 5.0, backward: 3.0, gradients: 0.25, optimizer: 0.5 };
        let deep = Parts { forward: 3.0, head: 5.0, backward: 5.0, gradients: 0.5, optimizer: 0.75 };
        let inputs =
            PaceInputs { batches: &[], piece_tokens: None, optimizer: &optimizer, layers: 10, below: 4, again: 2 };
        // Ten layers go forward and two of them once more; six have a backward pass.
        let pass = (2.0 + (9.0 + 2.0)) + 5.0 + (3.0 + 5.0 * 2.0) + (0.25 + 5.0 * 0.25);
        assert_eq!(inputs.step_seconds(&shallow, &deep, 3.0), 3.0 * pass + 0.5 + 5.0 * 0.25);
    }
}
