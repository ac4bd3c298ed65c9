//! How fast training steps are, and where their time goes.

use std::time::Instant;

use rankine_data::Batch;
use rankine_models::model::Model;
use rankine_nn::parameter::{Noise, Pass};
use serde::Serialize;

use crate::config::OptimizerConfig;
use crate::event::peak_memory_bytes;
use crate::gradients::GradientSum;
use crate::objective::{self, Supervised};
use crate::optimizer::Optimizer;

/// What is measured.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Sequences of one optimizer step.
    pub batch: usize,
    /// Tokens of each; all of them are trained on.
    pub seq: usize,
    /// Steps that are timed, after one that is not.
    pub steps: usize,
    /// Tokens of one forward and backward pass, as [`crate::run::RunConfig::piece_tokens`].
    pub piece_tokens: Option<usize>,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// Of the token ids.
    pub seed: u64,
}

/// Seconds of a step, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Parts {
    /// From token ids to the last hidden states.
    pub forward: f64,
    /// The head with its loss and the gradient of the hidden states.
    pub head: f64,
    /// From the hidden states' gradient to that of every trained tensor.
    pub backward: f64,
    /// Adding up gradients over micro-batches, and their norm.
    pub gradients: f64,
    /// The optimizer.
    pub optimizer: f64,
}

impl Parts {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.forward + self.head + self.backward + self.gradients + self.optimizer
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// Of the median step.
    pub tokens_per_second: f64,
    /// Of the fastest step.
    pub best_tokens_per_second: f64,
    /// Of the median step.
    pub step_seconds: f64,
    /// Of the median step.
    pub parts: Parts,
    /// Most memory that the process has held, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Loss per token of the last step.
    pub loss: f64,
}

/// Times optimizer steps over random full sequences; `observe` is shown each step's seconds by part.
pub fn bench(model: &mut Model, config: &BenchConfig, observe: &mut dyn FnMut(usize, &Parts)) -> BenchReport {
    let mut optimizer = Optimizer::new(config.optimizer.clone());
    let batch = random_batch(config, model.config.vocab_size);
    let pieces = objective::passes(&batch, config.piece_tokens, 0);
    let tokens = (config.batch * config.seq) as f64;
    let mut steps: Vec<Parts> = Vec::with_capacity(config.steps);
    let mut loss = 0.0;
    for index in 0..=config.steps {
        let parts;
        (parts, loss) = step(model, &mut optimizer, &pieces, config.seed, index);
        if index > 0 {
            observe(index, &parts);
            steps.push(parts);
        }
    }
    steps.sort_by(|a, b| a.total().total_cmp(&b.total()));
    let median = steps.get(steps.len() / 2).copied().unwrap_or_default();
    let best = steps.first().copied().unwrap_or_default();
    BenchReport {
        tokens_per_second: tokens / median.total(),
        best_tokens_per_second: tokens / best.total(),
        step_seconds: median.total(),
        parts: median,
        peak_memory_bytes: peak_memory_bytes(),
        loss,
    }
}

/// One optimizer step, in the order of the training loop.
pub(crate) fn step(
    model: &mut Model,
    optimizer: &mut Optimizer,
    pieces: &[Batch],
    seed: u64,
    index: usize,
) -> (Parts, f64) {
    let mut parts = Parts::default();
    let mut gradients = GradientSum::default();
    let (mut sum, mut trained) = (0.0, 0);
    for (piece_index, piece) in pieces.iter().enumerate() {
        let mut clock = Clock(Instant::now());
        let mut pass = Pass::Train(Noise::new(seed, index, piece_index));
        let Supervised { hidden, targets } = objective::hidden(model, piece, &mut pass, None);
        parts.forward += clock.lap();
        let loss = objective::loss(model, hidden, &targets, &mut pass);
        sum += f64::from(loss.sum.into_scalar::<f32>());
        trained += loss.tokens;
        parts.head += clock.lap();
        let mut found = loss.objective.backward();
        parts.backward += clock.lap();
        gradients.add(model, &mut found);
        parts.gradients += clock.lap();
    }
    let mut clock = Clock(Instant::now());
    gradients.scale(1.0 / trained.max(1) as f64);
    gradients.clip(Some(1.0));
    parts.gradients += clock.lap();
    optimizer.step(model, &gradients, 1e-4);
    parts.optimizer += clock.lap();
    (parts, sum / trained.max(1) as f64)
}

struct Clock(Instant);

impl Clock {
    /// Seconds since the last call.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}

/// Full rows of one document each, every token but the first trained on.
fn random_batch(config: &BenchConfig, vocab: usize) -> Batch {
    let size = config.batch * config.seq;
    let mut state = config.seed;
    let mut next = || {
        // SplitMix64: the ids need no more than to differ.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % vocab as u64
    };
    let input_ids: Vec<u32> = (0..size).map(|_| next() as u32).collect();
    let labels = input_ids
        .iter()
        .enumerate()
        .map(|(i, id)| if i % config.seq == 0 { rankine_data::IGNORED } else { i64::from(*id) });
    Batch {
        rows: config.batch,
        length: config.seq,
        labels: labels.collect(),
        position_ids: (0..size).map(|i| (i % config.seq) as u32).collect(),
        segment_ids: vec![1; size],
        sources: Vec::new(),
        input_ids,
    }
}
