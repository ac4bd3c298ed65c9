//! The head with its loss: a few rows of logits at a time, and nothing of [n, v] kept.

use rayon::prelude::*;

use super::math::{exp_and_sum, maximum, scale};
use super::matrix::{Into, Threads, View, product};

/// Rows of logits at once.
const ROWS: usize = 128;

/// The summed cross-entropy of `hidden` [n, d] under the head `weight` [v, d], and, where asked for, its gradient by
/// `hidden`: `softmax(h W^T) W - W[target]`. Sums run in row order, so that they do not depend on the threads.
pub(crate) fn head_loss_and_gradient(
    hidden: &[f32],
    weight: &[f32],
    targets: &[i64],
    width: usize,
    wants_gradient: bool,
) -> (f64, Option<Vec<f32>>) {
    let vocab = weight.len() / width;
    let mut gradient = wants_gradient.then(|| vec![0.0; hidden.len()]);
    let mut logits = vec![0.0; ROWS.min(targets.len()) * vocab];
    let mut sum = 0.0;
    for (chunk, targets) in targets.chunks(ROWS).enumerate() {
        let rows = targets.len();
        let start = chunk * ROWS * width;
        let logits = &mut logits[..rows * vocab];
        let logits_view = View::whole(rows, vocab);
        let hidden_view = View { offset: start, ..View::whole(rows, width) };
        let weight_view = View::whole(vocab, width);
        product(logits, logits_view, hidden, hidden_view, weight, weight_view.t(), 1.0, Into::Set, Threads::All);
        let losses: Vec<f32> = logits
            .par_chunks_exact_mut(vocab)
            .zip(targets)
            .map(|(logits, target)| {
                let top = maximum(logits);
                let picked = logits[*target as usize];
                let total = exp_and_sum(logits, 1.0, top);
                if wants_gradient {
                    scale(logits, 1.0 / total);
                    logits[*target as usize] -= 1.0;
                }
                total.ln() + top - picked
            })
            .collect();
        sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        if let Some(gradient) = &mut gradient {
            product(gradient, hidden_view, logits, logits_view, weight, weight_view, 1.0, Into::Set, Threads::All);
        }
    }
    (sum, gradient)
}
