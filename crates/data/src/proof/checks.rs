//! What each check looks at, and what all of them found.

use std::collections::HashSet;

use serde::{Serialize, Serializer};

use super::Check;
use super::held_out::{HeldOut, Leaks};
use crate::error::{DataError, Fault, Faults};
use crate::example::{Example, IGNORED, TrainOn};
use crate::examples::Examples;
use crate::record::RecordSource;
use crate::remark::{Remark, RemarkKind};
use crate::tokenizer::TextTokenizer;

/// What the checks look at.
#[derive(Debug, Clone, Copy)]
pub struct ProofInput<'a> {
    /// Trained on.
    pub train: &'a Examples,
    /// Held out.
    pub validation: &'a Examples,
    /// The same once more, or what was held out elsewhere, by its tokens.
    pub held_out: &'a HeldOut,
    /// Of both.
    pub remarks: &'a [Remark],
    /// Records that were read, for both.
    pub records: usize,
    /// What made the tokens.
    pub tokenizer: &'a TextTokenizer,
}

/// What the checks ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct ProofConfig {
    /// Longest sequence.
    pub max_seq_len: usize,
    /// Which tokens are trained on.
    pub train_on: TrainOn,
    /// Share of the records whose answer may be cut.
    pub max_truncated_share: f64,
    /// Checks that may fail.
    pub waive: Vec<Check>,
}

/// What all checks found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// One for each check, in the order of [`Check::ALL`].
    pub findings: Vec<Finding>,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// Whether it fails.
    pub failed: bool,
    /// Whether the recipe waives it.
    pub waived: bool,
    /// Records that it is about, whether or not it fails.
    pub records: usize,
    /// What was found, in one sentence.
    pub summary: String,
    /// The first of the records, each with what is wrong.
    #[serde(serialize_with = "as_list")]
    pub first: Vec<Fault>,
    /// What to do, where it fails.
    pub help: Option<String>,
}

impl Finding {
    /// Whether it stops a run.
    pub fn stops(&self) -> bool {
        self.failed && !self.waived
    }

    /// The sentence and the first records, a line each.
    pub fn details(&self) -> String {
        let mut text = self.summary.clone();
        for fault in &self.first {
            text.push_str(&format!("\n  {fault}"));
        }
        if self.records > self.first.len() && !self.first.is_empty() {
            text.push_str(&format!("\n  and {} more", self.records - self.first.len()));
        }
        text
    }
}

impl Proof {
    /// The checks that stop a run.
    pub fn stopping(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.stops())
    }

    /// The checks that fail and are waived.
    pub fn waived(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.failed && finding.waived)
    }

    /// Whether nothing stops a run.
    pub fn holds(&self) -> bool {
        self.stopping().next().is_none()
    }
}

/// Runs every check, whatever the others find.
///
/// # Errors
/// A file of examples that cannot be read.
pub fn prove(input: &ProofInput<'_>, config: &ProofConfig) -> Result<Proof, DataError> {
    let seen = Seen::of(input)?;
    let findings = Check::ALL.into_iter().map(|check| {
        let faults = look(check, &seen, input, config);
        let share = faults.len() as f64 / input.records.max(1) as f64;
        let failed = match check {
            Check::AnswersTruncated => share > config.max_truncated_share,
            _ => !faults.is_empty(),
        };
        let summary = match (faults.len(), check) {
            (0, Check::AnswersTruncated) => format!("answers fit into max_seq_len {}", config.max_seq_len),
            (0, _) => check.claim().to_owned(),
            (count, _) => summary(check, count, input, config),
        };
        let help = failed.then(|| format!("{}; or `waive: [{check}]`", help(check, input.tokenizer)));
        Finding {
            check,
            failed,
            waived: config.waive.contains(&check),
            records: faults.len(),
            summary,
            first: faults.shown().to_vec(),
            help,
        }
    });
    Ok(Proof { findings: findings.collect() })
}

fn look(check: Check, seen: &Seen, input: &ProofInput<'_>, config: &ProofConfig) -> Faults {
    match check {
        Check::NothingTrained => remarked(input, |kind| {
            matches!(kind, RemarkKind::NothingTrained).then(|| match config.train_on {
                TrainOn::All => "one token, and nothing predicts the first".to_owned(),
                _ => "no answer to train on".to_owned(),
            })
        }),
        Check::EverythingTrained => remarked(input, |kind| {
            matches!(kind, RemarkKind::EverythingTrained)
                .then(|| "nothing before the first trained token: the prompt is empty or trained on".to_owned())
        }),
        Check::StopNotTrained => seen.without_stop.clone(),
        Check::BosDoubled => seen.doubled.clone(),
        Check::TemplateNotPrefixStable => remarked(input, |kind| match kind {
            RemarkKind::NotPrefixStable(message) => Some(message.clone()),
            _ => None,
        }),
        Check::AnswersTruncated => remarked(input, |kind| match kind {
            RemarkKind::CutAway { tokens } => Some(format!("{tokens} tokens: nothing to train on is left")),
            RemarkKind::AnswerCut { tokens, lost } => Some(format!("{tokens} tokens: {lost} to train on are cut off")),
            _ => None,
        }),
        Check::ValidationInTraining => seen.leaks.clone(),
        Check::TemplateDrops => remarked(input, |kind| match kind {
            RemarkKind::TemplateDrops(what) => Some(format!("the template leaves out {what}")),
            _ => None,
        }),
        Check::SpecialTokensInContent => remarked(input, |kind| match kind {
            RemarkKind::SpecialToken { message, role, token } => {
                Some(format!("message {message} ({role}) spells `{token}`"))
            }
            _ => None,
        }),
    }
}

fn summary(check: Check, count: usize, input: &ProofInput<'_>, config: &ProofConfig) -> String {
    let (have, are, whole) = match count {
        1 => ("has", "is", format!("1 of {} records", input.records)),
        _ => ("have", "are", format!("{count} of {} records", input.records)),
    };
    match check {
        Check::NothingTrained => format!("{whole} {have} no token to train on"),
        Check::EverythingTrained => format!("{whole} {are} trained on from the first token to the last"),
        Check::StopNotTrained => format!("{whole} never {} the token that ends an answer", train(count)),
        Check::BosDoubled => format!("{whole} {have} the beginning-of-text token twice in a row"),
        Check::TemplateNotPrefixStable => {
            format!("the chat template is not prefix-stable: in {whole} answers cannot be told from prompts")
        }
        Check::AnswersTruncated => format!(
            "{whole} ({:.1}%) lose a part of what is trained at max_seq_len {}; at most {:.1}% may",
            100.0 * count as f64 / input.records.max(1) as f64,
            config.max_seq_len,
            100.0 * config.max_truncated_share
        ),
        Check::ValidationInTraining => match count {
            1 => "1 validation record is in the training data, too".to_owned(),
            _ => format!("{count} validation records are in the training data, too"),
        },
        Check::TemplateDrops => format!("the chat template leaves out what {whole} {have}"),
        Check::SpecialTokensInContent => format!("{whole} {have} a special token spelled out in a message"),
    }
}

fn help(check: Check, tokenizer: &TextTokenizer) -> &'static str {
    match check {
        Check::StopNotTrained if tokenizer.eos_id().is_none() => {
            "the tokenizer names no end-of-text token: name one as `eos_token` in its tokenizer_config.json; without \
             it the model never learns to stop"
        }
        _ => check.help(),
    }
}

fn train(count: usize) -> &'static str {
    if count == 1 { "trains" } else { "train" }
}

/// One fault for each record with such a remark.
fn remarked(input: &ProofInput<'_>, message: impl Fn(&RemarkKind) -> Option<String>) -> Faults {
    let mut faults = Faults::default();
    let mut last = None;
    for remark in input.remarks {
        // Several examples of one record follow one another.
        let place = (remark.dataset, &remark.source);
        if last == Some(place) {
            continue;
        }
        if let Some(message) = message(&remark.kind) {
            faults.push(remark.source.clone(), message);
            last = Some(place);
        }
    }
    faults
}

/// One fault for each record with such an example; several examples of one follow one another.
#[derive(Default)]
struct Found {
    faults: Faults,
    last: Option<(u32, RecordSource)>,
}

impl Found {
    fn look(&mut self, example: &Example, message: impl FnOnce() -> Option<String>) {
        let is_last =
            |(dataset, source): &(u32, RecordSource)| *dataset == example.dataset && *source == example.source;
        if self.last.as_ref().is_some_and(is_last) {
            return;
        }
        if let Some(message) = message() {
            self.faults.push(example.source.clone(), message);
            self.last = Some((example.dataset, example.source.clone()));
        }
    }
}

/// What the tokens themselves show, of one pass over them.
struct Seen {
    without_stop: Faults,
    doubled: Faults,
    leaks: Faults,
}

impl Seen {
    fn of(input: &ProofInput<'_>) -> Result<Self, DataError> {
        let tokenizer = input.tokenizer;
        let cut: HashSet<&RecordSource> =
            input.remarks.iter().filter(|remark| is_cut(&remark.kind)).map(|remark| &remark.source).collect();
        let (mut without_stop, mut doubled, mut leaks) = (Found::default(), Found::default(), Leaks::default());
        let mut look = |example: &Example| {
            if !cut.contains(&example.source) {
                without_stop.look(example, || no_end(example, tokenizer));
            }
            doubled.look(example, || two_beginnings(example, tokenizer));
        };
        for example in input.train.iter() {
            let example = example?;
            look(&example);
            leaks.look(input.held_out, &example);
        }
        for example in input.validation.iter() {
            look(&*example?);
        }
        let leaks = leaks.faults(input.held_out);
        Ok(Self { without_stop: without_stop.faults, doubled: doubled.faults, leaks })
    }
}

fn no_end(example: &Example, tokenizer: &TextTokenizer) -> Option<String> {
    let last = example.labels.iter().rposition(|label| *label != IGNORED)?;
    (!ends_an_answer(example, tokenizer)).then(|| {
        let from = last.saturating_sub(4);
        let tail = tokenizer.decode(&example.input_ids[from..=last], false).unwrap_or_default();
        format!("what is trained ends in {tail:?}, which is no special token")
    })
}

fn two_beginnings(example: &Example, tokenizer: &TextTokenizer) -> Option<String> {
    let bos = tokenizer.bos_id()?;
    let at = example.input_ids.windows(2).position(|pair| pair == [bos, bos])?;
    let token = tokenizer.special_tokens().bos.as_deref().unwrap_or_default();
    Some(format!("`{token}` stands twice in a row, at tokens {at} and {}", at + 1))
}

fn is_cut(kind: &RemarkKind) -> bool {
    matches!(kind, RemarkKind::CutAway { .. } | RemarkKind::AnswerCut { .. })
}

/// Whether some run of trained tokens ends in a special token; white space behind it belongs to the next turn.
fn ends_an_answer(example: &Example, tokenizer: &TextTokenizer) -> bool {
    let is_blank = |id: u32| tokenizer.decode(&[id], false).is_ok_and(|text| text.trim().is_empty());
    let mut end = example.labels.len();
    while let Some(last) = example.labels[..end].iter().rposition(|label| *label != IGNORED) {
        let start = example.labels[..last].iter().rposition(|label| *label == IGNORED).map_or(0, |before| before + 1);
        let run = &example.input_ids[start..=last];
        let closing = run.iter().rev().find(|id| tokenizer.is_special(**id) || !is_blank(**id));
        if closing.is_some_and(|id| tokenizer.is_special(*id)) {
            return true;
        }
        end = start;
    }
    false
}

fn as_list<S: Serializer>(faults: &[Fault], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Listed<'a> {
        source: &'a RecordSource,
        message: &'a str,
    }
    serializer.collect_seq(faults.iter().map(|fault| Listed { source: &fault.source, message: &fault.message }))
}
