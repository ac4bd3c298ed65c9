//! How far two models' logits are apart.

use std::path::Path;

use rankine_nn::parameter::Pass;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use crate::model::{Model, Tokens, to_host};
use crate::weights::{WeightsError, write_aside};

/// The difference between two models over some documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The largest difference of one logit.
    pub max_abs: f32,
    /// The largest logit of the reference, for scale.
    pub max_logit: f32,
    /// Positions whose likeliest token is the same, of all.
    pub same_argmax: usize,
    /// Positions compared.
    pub positions: usize,
    /// Kullback-Leibler divergence of the model's next token from the reference's, in nats: the mean of the positions.
    pub kl_mean: f64,
    /// The same where 99 of 100 positions have less.
    pub kl_p99: f64,
}

/// Compares the logits of `model` with those of `reference` on whole documents.
///
/// NaN or infinite logits give an infinite difference.
pub fn drift(reference: &Model, model: &Model, documents: &[Vec<u32>]) -> Drift {
    let mut compared = Comparison::none();
    for document in documents.iter().filter(|document| !document.is_empty()) {
        compared.add(&logits(reference, document), &logits(model, document), document.len());
    }
    compared.finish()
}

/// A model's logits on some documents, kept without the model.
#[derive(Debug, Clone)]
pub struct Logits {
    /// Each document with its logits, [t * v].
    documents: Vec<(Vec<u32>, Vec<f32>)>,
}

impl Logits {
    /// Values that are kept at most: 1 GB. Longer documents are cut.
    const VALUES: usize = 1 << 28;

    /// The logits of `model`.
    pub fn of(model: &Model, documents: &[Vec<u32>]) -> Self {
        let longest = (Self::VALUES / model.config.vocab_size / documents.len().max(1)).max(1);
        let documents = documents.iter().filter(|document| !document.is_empty()).map(|document| {
            let document: Vec<u32> = document.iter().copied().take(longest).collect();
            let values = logits(model, &document);
            (document, values)
        });
        Self { documents: documents.collect() }
    }

    /// How far `model` is from them.
    pub fn drift(&self, model: &Model) -> Drift {
        let mut compared = Comparison::none();
        for (document, expected) in &self.documents {
            compared.add(expected, &logits(model, document), document.len());
        }
        compared.finish()
    }
}

/// A difference that is being added up.
struct Comparison {
    drift: Drift,
    /// Of each position.
    kl: Vec<f64>,
}

impl Comparison {
    fn none() -> Self {
        let drift = Drift { max_abs: 0.0, max_logit: 0.0, same_argmax: 0, positions: 0, kl_mean: 0.0, kl_p99: 0.0 };
        Self { drift, kl: Vec::new() }
    }

    /// Adds a document of `tokens` tokens.
    fn add(&mut self, expected: &[f32], found: &[f32], tokens: usize) {
        let vocab = expected.len() / tokens;
        let drift = &mut self.drift;
        // Another vocabulary is no rounding.
        if found.len() != expected.len() {
            drift.max_abs = f32::INFINITY;
        }
        for (expected, found) in expected.chunks_exact(vocab).zip(found.chunks_exact(vocab)) {
            drift.positions += 1;
            drift.same_argmax += usize::from(argmax(expected) == argmax(found));
            self.kl.push(divergence(expected, found));
            for (expected, found) in expected.iter().zip(found) {
                let apart = (expected - found).abs();
                drift.max_abs = drift.max_abs.max(if apart.is_nan() { f32::INFINITY } else { apart });
                drift.max_logit = drift.max_logit.max(expected.abs());
            }
        }
    }

    fn finish(mut self) -> Drift {
        self.kl.sort_by(f64::total_cmp);
        let last = self.kl.len().saturating_sub(1);
        let p99 = self.kl.get((last as f64 * 0.99).round() as usize).copied().unwrap_or_default();
        let mean = self.kl.iter().sum::<f64>() / self.kl.len().max(1) as f64;
        Drift { kl_mean: mean, kl_p99: p99, ..self.drift }
    }
}

/// `sum p (log p - log q)` of the softmaxes of two rows of logits, in nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (expected_sum, found_sum) = (log_sum(expected), log_sum(found));
    let terms = expected.iter().zip(found).map(|(expected, found)| {
        let (log_p, log_q) = (f64::from(*expected) - expected_sum, f64::from(*found) - found_sum);
        log_p.exp() * (log_p - log_q)
    });
    // Rounding alone can make it less than nothing.
    terms.sum::<f64>().max(0.0)
}

/// The logits of every position of one document, [t * v].
pub fn logits(model: &Model, document: &[u32]) -> Vec<f32> {
    let position_ids: Vec<u32> = (0..document.len() as u32).collect();
    let segment_ids = vec![1; document.len()];
    let tokens = Tokens { rows: 1, input_ids: document, position_ids: &position_ids, segment_ids: &segment_ids };
    let mut pass = Pass::Infer;
    let hidden = model.hidden(&tokens, &mut pass);
    to_host(model.logits(hidden, &mut pass))
}

/// Writes the logits of each document, for another tool to compare: `N.input_ids` of t and `N.logits` of t x v for
/// document N, counted from 0.
///
/// # Errors
/// A file that cannot be written; nothing is left under its name then.
pub fn write_logits(model: &Model, documents: &[Vec<u32>], path: &Path) -> Result<(), WeightsError> {
    let mut buffers = Vec::with_capacity(2 * documents.len());
    for (index, document) in documents.iter().enumerate().filter(|(_, document)| !document.is_empty()) {
        let ids: Vec<u8> = document.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect();
        buffers.push((format!("{index}.input_ids"), Dtype::I64, vec![document.len()], ids));
        let values = logits(model, document);
        let shape = vec![document.len(), values.len() / document.len()];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        buffers.push((format!("{index}.logits"), Dtype::F32, shape, bytes));
    }
    let views = buffers.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name, view.unwrap_or_else(|_| unreachable!("as many bytes as the shape says")))
    });
    let file = safetensors::serialize(views, None).unwrap_or_else(|_| unreachable!("every view is whole"));
    write_aside(path, &file)
}

fn argmax(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, index| if logits[index] > logits[best] { index } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_two_distributions() {
        let (expected, found) = ([0.0_f32, 3.0_f32.ln()], [1.0_f32, 1.0]);
        // p = (1/4, 3/4), q = (1/2, 1/2).
        let kl = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
        assert!((divergence(&expected, &found) - kl).abs() < 1e-7);
        assert_eq!(divergence(&found, &found), 0.0);
        let mut compared = Comparison::none();
        compared.add(&[expected, found].concat(), &[found, found].concat(), 2);
        let drift = compared.finish();
        assert!((drift.kl_mean - kl / 2.0).abs() < 1e-7 && (drift.kl_p99 - kl).abs() < 1e-7, "{drift:?}");
        assert_eq!((drift.positions, drift.same_argmax), (2, 1));
    }
}
