//! Records to token ids and labels.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Fault, Faults};
use crate::labels::{Made, MadeExample, make};
use crate::part::{Part, PartCounts};
use crate::record::{Content, Dataset, Record, RecordSource};
use crate::remark::{Remark, RemarkKind};
use crate::spans::Refused;
use crate::tokenizer::TextTokenizer;

/// Of so many records at the start of a dataset the template is asked whether it shows every message.
const THOROUGH: usize = 8;

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
    /// Whose words the tokens of the examples are.
    pub parts: PartCounts,
}

/// Examples and how they came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokenized {
    /// In the order of the records.
    pub examples: Vec<Example>,
    /// What was found on the way.
    pub report: TokenizeReport,
    /// What was noticed of single records, in their order.
    pub remarks: Vec<Remark>,
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
    let records: Vec<(u32, usize, &Record)> = (0u32..)
        .zip(datasets)
        .flat_map(|(dataset, read)| {
            read.records.iter().enumerate().map(move |(index, record)| (dataset, index, record))
        })
        .collect();
    if records.iter().any(|(_, _, record)| matches!(record.content, Content::Chat { .. })) {
        check_template(tokenizer)?;
    }
    let done = AtomicUsize::new(0);
    let total = records.len();
    let made = records.par_iter().with_min_len(16).map(|(dataset, index, record)| {
        let made = make(record, *dataset, tokenizer, config, *index < THOROUGH);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        (made, record.source.clone(), *dataset)
    });
    let mut gathering = Gathering::new(*config);
    let mut tokenized = gathering.add(made.collect());
    tokenized.report = gathering.finish()?;
    let mut faults = Faults::default();
    for remark in &tokenized.remarks {
        if let RemarkKind::NotPrefixStable(message) = &remark.kind {
            faults.push(remark.source.clone(), message.clone());
        }
    }
    faults.into_result()?;
    match tokenized.examples.is_empty() {
        true => Err(nothing_trained(&tokenized.report, config)),
        false => Ok(tokenized),
    }
}

/// A missing template is one fault of the model folder, not one of each record.
pub(crate) fn check_template(tokenizer: &TextTokenizer) -> Result<(), DataError> {
    tokenizer.template_for(false).or_else(|_| tokenizer.template_for(true))?;
    Ok(())
}

/// Puts what was made of records together, in their order and batch by batch: cuts, counts and collects faults. A
/// record whose answers cannot be told from its prompts is left out with a remark, and nothing left to train on is
/// no error: [`proof`](crate::proof) says so with everything else that is wrong.
pub(crate) struct Gathering {
    config: TokenizeConfig,
    report: TokenizeReport,
    faults: Faults,
}

type MadeOf = (Result<Made, Refused>, RecordSource, u32);

impl Gathering {
    pub(crate) fn new(config: TokenizeConfig) -> Self {
        Self { config, report: TokenizeReport::default(), faults: Faults::default() }
    }

    /// The examples of a batch, made on all cores, in the order of the records, and what was remarked; the report
    /// comes at the [end](Self::finish). The batch is of `dataset`, and its first record is the one with the number
    /// `first` of it.
    pub(crate) fn add_batch(
        &mut self,
        batch: Vec<Result<Record, Fault>>,
        (dataset, first): (u32, usize),
        tokenizer: &TextTokenizer,
    ) -> Tokenized {
        let made = batch.into_par_iter().enumerate().with_min_len(16).map(|(index, record)| match record {
            Ok(record) => {
                let made = make(&record, dataset, tokenizer, &self.config, first + index < THOROUGH);
                (made, record.source, dataset)
            }
            Err(fault) => (Err(Refused::Unusable(fault.message)), fault.source, dataset),
        });
        let made = made.collect();
        self.add(made)
    }

    fn add(&mut self, made: Vec<MadeOf>) -> Tokenized {
        let mut tokenized = Tokenized { report: std::mem::take(&mut self.report), ..Tokenized::default() };
        tokenized.examples.reserve(made.len());
        for (made, source, dataset) in made {
            tokenized.report.records += 1;
            let mut remark = |kind| Remark { source: source.clone(), dataset, kind };
            match made {
                Ok(made) => gather(made, self.config.max_seq_len, &mut remark, &mut tokenized),
                Err(Refused::NotPrefixStable(message)) => {
                    tokenized.remarks.push(remark(RemarkKind::NotPrefixStable(message)));
                }
                Err(Refused::Unusable(message)) => self.faults.push(source, message),
            }
        }
        self.report = std::mem::take(&mut tokenized.report);
        tokenized
    }

    /// What was found, or every fault.
    pub(crate) fn finish(self) -> Result<TokenizeReport, DataError> {
        self.faults.into_result()?;
        Ok(self.report)
    }
}

fn gather(made: Made, max_seq_len: usize, remark: &mut impl FnMut(RemarkKind) -> Remark, tokenized: &mut Tokenized) {
    let report = &mut tokenized.report;
    report.boundary_merges += made.boundary_merges;
    report.split_records += usize::from(made.examples.len() > 1);
    report.without_stop += made.without_stop;
    tokenized.remarks.extend(made.remarks.into_iter().map(&mut *remark));
    for MadeExample { mut example, parts } in made.examples {
        let tokens = example.input_ids.len();
        let wanted = example.trained_tokens();
        report.longest = report.longest.max(tokens);
        if tokens > max_seq_len {
            example.input_ids.truncate(max_seq_len);
            example.labels.truncate(max_seq_len);
            // A cut answer is still learnt from, but can no longer be compared with.
            example.completion_start = None;
            report.truncated += 1;
        }
        let trained = example.trained_tokens();
        let noticed = match (trained, wanted - trained) {
            (0, 0) => Some(RemarkKind::NothingTrained),
            (0, _) => Some(RemarkKind::CutAway { tokens }),
            (_, 0) => None,
            (_, lost) => Some(RemarkKind::AnswerCut { tokens, lost }),
        };
        tokenized.remarks.extend(noticed.map(&mut *remark));
        if trained == 0 {
            report.dropped += 1;
            continue;
        }
        report.examples += 1;
        report.tokens += example.input_ids.len();
        report.trained_tokens += trained;
        count_parts(&example, &parts, &mut report.parts);
        tokenized.examples.push(example);
    }
}

fn count_parts(example: &Example, parts: &[Part], counts: &mut PartCounts) {
    for (label, part) in example.labels.iter().zip(parts) {
        let count = counts.entry(*part).or_default();
        count.tokens += 1;
        count.trained += usize::from(*label != IGNORED);
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
