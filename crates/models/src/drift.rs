//! How far two models' logits are apart.

use std::path::Path;

use rankine_nn::parameter::Pass;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::model::{Model, Tokens, to_host};
use crate::weights::{WeightsError, write_aside};

/// The difference between two models over some documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Drift {
    /// The largest difference of one logit.
    pub max_abs: f32,
    /// The largest logit of the reference, for scale.
    pub max_logit: f32,
    /// Positions whose likeliest token is the same, of all.
    pub same_argmax: usize,
    /// Positions compared.
    pub positions: usize,
}

/// Compares the logits of `model` with those of `reference` on whole documents.
///
/// NaN or infinite logits give an infinite difference.
pub fn drift(reference: &Model, model: &Model, documents: &[Vec<u32>]) -> Drift {
    let mut drift = Drift::none();
    for document in documents.iter().filter(|document| !document.is_empty()) {
        drift.add(&logits(reference, document), &logits(model, document), document.len());
    }
    drift
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
        let mut drift = Drift::none();
        for (document, expected) in &self.documents {
            drift.add(expected, &logits(model, document), document.len());
        }
        drift
    }
}

impl Drift {
    fn none() -> Self {
        Self { max_abs: 0.0, max_logit: 0.0, same_argmax: 0, positions: 0 }
    }

    /// Adds a document of `tokens` tokens.
    fn add(&mut self, expected: &[f32], found: &[f32], tokens: usize) {
        let vocab = expected.len() / tokens;
        // Another vocabulary is no rounding.
        if found.len() != expected.len() {
            self.max_abs = f32::INFINITY;
        }
        for (expected, found) in expected.chunks_exact(vocab).zip(found.chunks_exact(vocab)) {
            self.positions += 1;
            self.same_argmax += usize::from(argmax(expected) == argmax(found));
            for (expected, found) in expected.iter().zip(found) {
                let apart = (expected - found).abs();
                self.max_abs = self.max_abs.max(if apart.is_nan() { f32::INFINITY } else { apart });
                self.max_logit = self.max_logit.max(expected.abs());
            }
        }
    }
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
