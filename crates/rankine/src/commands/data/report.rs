//! Everything that is told of a recipe's data, before it has a form.

use std::path::Path;

use rankine_data::proof::{Fill, Proof, RecordView, SetStatistics, fill, view};
use rankine_data::{DataError, Example, IGNORED, Records, TokenizeReport};
use serde::Serialize;

use crate::commands::open::stop_tokens;
use crate::fault::{Failure, Fault, chain};
use crate::plan::{DatasetForecast, Plan, Prepared, Validation, data_failure};
use crate::terminal::numbers::{count, counted};

/// The report.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// The recipe.
    pub(super) name: &'a str,
    /// Every dataset with its records.
    pub(super) datasets: &'a [DatasetForecast],
    pub(super) max_seq_len: usize,
    pub(super) packing: bool,
    /// What tokenising found in the training data, held-out records included.
    pub(super) tokenized: &'a TokenizeReport,
    /// And in validation datasets of their own.
    pub(super) tokenized_validation: Option<&'a TokenizeReport>,
    pub(super) train: SetStatistics,
    pub(super) validation: Option<SetStatistics>,
    /// The rows of an epoch as the recipe asks for them, and with packing the other way.
    pub(super) fill: Fill,
    pub(super) fill_otherwise: Fill,
    /// Examples whose answers end in a token at which a generation would not stop.
    pub(super) unknown_stops: Option<UnknownStops>,
    #[serde(flatten)]
    pub(super) proof: &'a Proof,
    pub(super) records: Vec<Shown>,
    /// Whether records were asked for by number.
    #[serde(skip)]
    pub(super) by_number: bool,
}

/// Answers that the model learns to end, and a generation to run beyond.
#[derive(Debug, Serialize)]
pub(super) struct UnknownStops {
    pub(super) examples: usize,
    /// How the first of them ends.
    pub(super) ends_in: String,
    /// Where a generation stops.
    pub(super) stops_at: Vec<String>,
}

impl UnknownStops {
    fn of(plan: &Plan, prepared: &Prepared) -> Result<Option<Self>, DataError> {
        let tokenizer = &prepared.tokenizer;
        let stops = stop_tokens(&plan.model.folder, tokenizer);
        let last = |example: &Example| {
            let trained = example.labels.iter().zip(&example.input_ids).rev().filter(|(label, _)| **label != IGNORED);
            trained.map(|(_, id)| *id).find(|id| tokenizer.is_special(*id))
        };
        let mut ends = Vec::new();
        for example in prepared.loader.examples().iter() {
            ends.extend(last(&*example?).filter(|id| !stops.contains(id)));
        }
        let spelled = |id: &u32| tokenizer.decode(&[*id], false).unwrap_or_default();
        Ok(ends.first().map(|first| Self {
            examples: ends.len(),
            ends_in: spelled(first),
            stops_at: stops.iter().map(spelled).collect(),
        }))
    }
}

/// A record of the training data.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Its number over all datasets, from 1.
    pub(super) record: usize,
    #[serde(flatten)]
    pub(super) view: View,
}

/// Its tokens, or why it has none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum View {
    Tokens(RecordView),
    Refused { error: String },
}

impl<'a> Report<'a> {
    /// `numbers` are records to show, from 1; without any, `first` of them.
    pub(super) fn of(plan: &'a Plan, prepared: &'a Prepared, numbers: &[usize], first: usize) -> Result<Self, Failure> {
        let forecast = &prepared.forecast;
        let (loader, packing) = (&prepared.loader, plan.data.packing);
        let held_out = !prepared.validation.is_empty() || plan.data.validation != Validation::None;
        let total = records(forecast.datasets.iter());
        if let Some(number) = numbers.iter().find(|number| **number == 0 || **number > total) {
            let fault =
                Fault::new(format!("there is no record {number}: the training data has {}", counted(total, "record")));
            return Err(Failure::bad_input(fault.help(format!("give `--record` a number from 1 to {}", count(total)))));
        }
        let wanted = if numbers.is_empty() { (1..=first.min(total)).collect() } else { numbers.to_vec() };
        let shown = wanted.into_iter().map(|number| shown(plan, prepared, number)).collect::<Result<_, _>>()?;
        Ok(Self {
            name: &plan.name,
            datasets: &forecast.datasets,
            max_seq_len: plan.data.max_seq_len,
            packing,
            tokenized: &forecast.train,
            tokenized_validation: forecast.validation.as_ref(),
            train: SetStatistics::of(loader.examples()).map_err(data_failure)?,
            validation: held_out.then(|| SetStatistics::of(&prepared.validation)).transpose().map_err(data_failure)?,
            fill: fill(loader, packing),
            fill_otherwise: fill(loader, !packing),
            unknown_stops: UnknownStops::of(plan, prepared).map_err(data_failure)?,
            proof: &prepared.proof,
            records: shown,
            by_number: !numbers.is_empty(),
        })
    }

    /// One JSON object.
    pub(super) fn to_json(&self) -> Result<String, Failure> {
        let text = serde_json::to_string_pretty(self);
        let text =
            text.map_err(|error| Failure::Failed(Fault::new(format!("the report cannot be written: {error}"))))?;
        Ok(text + "\n")
    }

    /// Examples that were cut, of all that there are.
    pub(super) fn truncated(&self) -> usize {
        self.tokenized.truncated + self.tokenized_validation.map_or(0, |report| report.truncated)
    }
}

fn records<'a>(datasets: impl Iterator<Item = &'a DatasetForecast>) -> usize {
    datasets.filter(|dataset| !dataset.validation).map(|dataset| dataset.records).sum()
}

/// Reads its dataset once more up to the record: the tokens in the cache know nothing of words.
fn shown(plan: &Plan, prepared: &Prepared, number: usize) -> Result<Shown, Failure> {
    let mut place = number;
    for (config, forecast) in plan.data.datasets.iter().zip(&prepared.forecast.datasets) {
        if place > forecast.records {
            place -= forecast.records;
            continue;
        }
        let mut reader = Records::open(config, Path::new(".")).map_err(data_failure)?.read();
        reader.skip(place - 1).map_err(data_failure)?;
        let Some(Ok(record)) = reader.next_batch(1).map_err(data_failure)?.and_then(|mut batch| batch.pop()) else {
            break;
        };
        let view = view(&record, &prepared.tokenizer, &plan.tokenize_config());
        let view = view.map_or_else(|error| View::Refused { error: chain(&error) }, View::Tokens);
        return Ok(Shown { record: number, view });
    }
    Err(Failure::Failed(Fault::new(format!("record {number} is not there any more: the data changed meanwhile"))))
}
