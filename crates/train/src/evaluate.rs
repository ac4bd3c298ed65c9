//! Loss, perplexity and exact match on held-out records.

use std::ops::ControlFlow;

use rankine_data::{Batch, Example, TextTokenizer};
use rankine_models::generate::{GenerateConfig, GenerateError, generate};
use rankine_models::model::Model;
use rankine_models::sampling::Sampling;
use rankine_nn::parameter::Pass;
use serde::{Deserialize, Serialize};

use crate::objective::{self, passes, supervised};

/// What a model makes of held-out records.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Loss per trained token, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Tokens that the loss is over.
    pub tokens: usize,
    /// Records.
    pub records: usize,
    /// Greedy completions that equal the record's, for records with one.
    pub exact_match: Option<ExactMatch>,
}

/// Completions that came out exactly as the record's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExactMatch {
    /// Equal ones, spaces around aside.
    pub matched: usize,
    /// Of this many.
    pub records: usize,
}

/// What an evaluation needs beside the model and the records.
#[derive(Debug, Clone, Copy)]
pub struct EvaluateConfig<'a> {
    /// To compare completions as text.
    pub tokenizer: &'a TextTokenizer,
    /// Tokens that end a completion.
    pub eos_token_ids: &'a [u32],
    /// Rows at once.
    pub batch_size: usize,
    /// Tokens of one pass where padding is dropped: see [`crate::run::RunConfig::piece_tokens`].
    pub piece_tokens: Option<usize>,
    /// Fills rows up.
    pub pad_id: u32,
    /// Whether completions are generated and compared.
    pub exact_match: bool,
}

/// Evaluates every record as it is: nothing is shuffled, packed or cut. `progress` is given (done, total) records.
///
/// # Errors
/// A generation that cannot be done.
pub fn evaluate(
    model: &Model,
    examples: &[Example],
    config: &EvaluateConfig<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, GenerateError> {
    let mut sums = Vec::new();
    let mut tokens = 0;
    let with_completion = if config.exact_match { completions(examples) } else { 0 };
    let total = examples.len() + with_completion;
    let mut done = 0;
    for rows in examples.chunks(config.batch_size.max(1)) {
        let rows: Vec<Vec<&Example>> = rows.iter().map(|example| vec![example]).collect();
        let batch = Batch::from_examples(&rows, config.pad_id);
        let pieces = passes(&batch, config.piece_tokens, config.pad_id);
        for piece in pieces.iter().filter(|piece| piece.trained_tokens() > 0) {
            let loss = supervised(model, piece, &mut Pass::Infer, None);
            sums.push(loss.sum);
            tokens += loss.tokens;
        }
        done += rows.len();
        progress(done, total);
    }
    let mut matched = 0;
    if with_completion > 0 {
        for example in examples {
            let Some(start) = example.completion_start else { continue };
            matched += usize::from(completes(model, example, start, config)?);
            done += 1;
            progress(done, total);
        }
    }
    let loss = objective::total(sums) / tokens.max(1) as f64;
    let exact_match = (with_completion > 0).then_some(ExactMatch { matched, records: with_completion });
    Ok(Evaluation { loss, perplexity: loss.exp(), tokens, records: examples.len(), exact_match })
}

fn completions(examples: &[Example]) -> usize {
    examples.iter().filter(|example| example.completion_start.is_some()).count()
}

/// Whether the greedy completion of the record's prompt is the record's.
fn completes(
    model: &Model,
    example: &Example,
    start: usize,
    config: &EvaluateConfig<'_>,
) -> Result<bool, GenerateError> {
    let text =
        |ids: &[u32]| config.tokenizer.decode(ids, true).map_err(|error| GenerateError::Decode(error.to_string()));
    let expected = text(&example.input_ids[start..])?;
    let settings = GenerateConfig {
        // One more than the record's own: a completion that goes on is not the record's.
        max_new_tokens: example.input_ids.len() - start + 1,
        sampling: Sampling::default(),
        stop: Vec::new(),
        eos_token_ids: config.eos_token_ids.to_vec(),
    };
    let prompt = &example.input_ids[..start];
    let tokenizer = config.tokenizer.inner();
    let found = generate(model, tokenizer, prompt, &settings, &mut |_| ControlFlow::Continue(()))?;
    Ok(found.text.trim() == expected.trim())
}
