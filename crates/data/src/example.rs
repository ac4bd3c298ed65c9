//! Records to token ids and labels.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Faults};
use crate::labels::{Made, make};
use crate::record::{Content, Dataset, Record, RecordSource};
use crate::tokenizer::TextTokenizer;

/// The label of a token that is not trained on.
pub const IGNORED: i64 = -100;

/// Which tokens of a record are trained on. Text records are trained on whole in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Every answer of the assistant, each with its stop token; of prompt and completion, the completion.
    #[default]
    Assistant,
    /// The same; the usual word where records are prompt and completion.
    Completion,
    /// Every token, prompts and system messages too.
    All,
    /// The last answer of the assistant only.
    Last,
}

/// A record as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub input_ids: Vec<u32>,
    /// For each token itself or [`IGNORED`]; not shifted, as in transformers. The first is always ignored:
    /// nothing predicts it.
    pub labels: Vec<i64>,
    /// Where one answer is trained, the place of its first token, for comparing a generated answer with it.
    pub completion_start: Option<usize>,
    /// The record it came from.
    pub source: RecordSource,
    /// Which of the datasets that was.
    pub dataset: u32,
}

impl Example {
    /// How many tokens are trained on.
    pub fn trained_tokens(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORED).count()
    }
}

/// How records become examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeConfig {
    /// Longer examples are cut off at the end.
    pub max_seq_len: usize,
    /// What is trained on.
    pub train_on: TrainOn,
}

/// What tokenising found, to be shown before training.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeReport {
    /// Records read.
    pub records: usize,
    /// Examples made of them.
    pub examples: usize,
    /// Tokens of the examples.
    pub tokens: usize,
    /// Tokens that are trained on.
    pub trained_tokens: usize,
    /// Examples that were longer than `max_seq_len` and lost their end.
    pub truncated: usize,
    /// Examples that were left out because no token of them is trained on.
    pub dropped: usize,
    /// Prompts whose last token would have merged with the answer's first. A completion is then encoded apart;
    /// in a conversation the shared token is not trained.
    pub boundary_merges: usize,
    /// Conversations that became several examples because the template rewrites earlier answers.
    pub split_records: usize,
    /// Trained answers that do not end in a special token, so that stopping is not learnt.
    pub without_stop: usize,
    /// Tokens of the longest example before it was cut.
    pub longest: usize,
}

/// Examples and how they came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// In the order of the records.
    pub examples: Vec<Example>,
    /// What was found on the way.
    pub report: TokenizeReport,
}

/// Tokenises all records on all cores. `progress` is told how many are done and how many there are, from any
/// thread and not always in order.
///
/// # Errors
/// Every conversation that the chat template refuses or that is not prefix-stable, by file and line; or nothing
/// left to train on.
pub fn tokenize(
    datasets: &[Dataset],
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Tokenized, DataError> {
    let records: Vec<(u32, &Record)> = (0u32..)
        .zip(datasets)
        .flat_map(|(dataset, read)| read.records.iter().map(move |record| (dataset, record)))
        .collect();
    // A missing template is one fault of the model folder, not one of each record.
    if records.iter().any(|(_, record)| matches!(record.content, Content::Chat { .. })) {
        tokenizer.template_for(false).or_else(|_| tokenizer.template_for(true))?;
    }
    let done = AtomicUsize::new(0);
    let total = records.len();
    let results: Vec<Result<Made, String>> = records
        .par_iter()
        .with_min_len(16)
        .map(|(dataset, record)| {
            let made = make(record, *dataset, tokenizer, config);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            made
        })
        .collect();

    let mut faults = Faults::default();
    let mut report = TokenizeReport { records: total, ..TokenizeReport::default() };
    let mut examples = Vec::with_capacity(total);
    for (result, (_, record)) in results.into_iter().zip(&records) {
        match result {
            Ok(made) => gather(made, config.max_seq_len, &mut examples, &mut report),
            Err(message) => faults.push(record.source.clone(), message),
        }
    }
    if !faults.is_empty() {
        return Err(DataError::Records(faults));
    }
    if examples.is_empty() {
        return Err(nothing_trained(&report, config));
    }
    Ok(Tokenized { examples, report })
}

fn gather(made: Made, max_seq_len: usize, examples: &mut Vec<Example>, report: &mut TokenizeReport) {
    report.boundary_merges += made.boundary_merges;
    report.split_records += usize::from(made.examples.len() > 1);
    report.without_stop += made.without_stop;
    for mut example in made.examples {
        report.longest = report.longest.max(example.input_ids.len());
        if example.input_ids.len() > max_seq_len {
            example.input_ids.truncate(max_seq_len);
            example.labels.truncate(max_seq_len);
            // A cut answer is still learnt from, but can no longer be compared with.
            example.completion_start = None;
            report.truncated += 1;
        }
        let trained = example.trained_tokens();
        if trained == 0 {
            report.dropped += 1;
            continue;
        }
        report.examples += 1;
        report.tokens += example.input_ids.len();
        report.trained_tokens += trained;
        examples.push(example);
    }
}

fn nothing_trained(report: &TokenizeReport, config: &TokenizeConfig) -> DataError {
    let help = if report.truncated > 0 {
        format!(
            "{} were cut at `max_seq_len: {}` before their first trained token (the longest has {}); raise it",
            report.truncated, config.max_seq_len, report.longest
        )
    } else {
        "no record has an answer of the assistant, or all have `weight: 0`; check the roles, or set `train_on: all`"
            .to_owned()
    };
    DataError::NothingTrained(format!("none of the {} records has a token to train on\n  help: {help}", report.records))
}
