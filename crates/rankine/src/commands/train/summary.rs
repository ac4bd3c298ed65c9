//! What a run says of itself before it begins and after it ended.

use std::path::Path;

use rankine_export::{CardFacts, DatasetFacts};
use rankine_nn::lora::AdapterKind;
use rankine_train::evaluate::Evaluation;
use rankine_train::run::Outcome;
use serde::Serialize;

use super::Sample;
use crate::commands::export::{Exported, divergence, held_facts};
use crate::lock::Provenance;
use crate::plan::{DatasetForecast, Forecast, Plan, Prepared};
use crate::terminal::note;
use crate::terminal::numbers::{count, counted, percent};
use crate::terminal::table::columns;
use crate::terminal::training::{comparison, shortened};

/// A few lines on stderr before the first step.
pub(super) fn introduce(plan: &Plan, prepared: &Prepared) {
    let forecast = &prepared.forecast;
    let trained = plan.adapter.trained_parameters;
    note(&format!(
        "{} on {}: {} trained parameters ({} of {})",
        plan.name,
        plan.model.name(),
        count(trained),
        percent(trained, plan.model.parameters),
        count(plan.model.parameters)
    ));
    note(&format!(
        "{}, {} trained tokens, {} to {}",
        counted(forecast.train_examples, "example"),
        count(forecast.train.trained_tokens),
        counted(forecast.total_steps, "step"),
        plan.output.output_dir.display()
    ));
    for (number, words) in [
        (forecast.train.truncated, "longer than max_seq_len and cut"),
        (forecast.train.dropped, "without a trained token and left out"),
        (forecast.train.without_stop, "without a stop token at the end: stopping is not learnt from them"),
    ] {
        if number > 0 {
            note(&format!("note: {} {words}", counted(number, "record")));
        }
    }
    for finding in prepared.proof.waived() {
        note(&format!("waived: {}: {}", finding.check, finding.summary));
    }
}

/// What came of it: before and after, a sample of each, and where things are.
pub(super) fn summary(plan: &Plan, outcome: &Outcome, samples: &[Sample], exported: &[Exported]) -> String {
    let mut text = String::new();
    if let Some(after) = &evaluation(outcome) {
        text.push_str(&columns(&comparison(outcome.baseline.as_ref(), after), &[], ""));
    }
    if let Some(Sample { prompt, .. }) = samples.first() {
        let of = |step: usize| {
            let found = samples.iter().find(|sample| sample.step == step && sample.prompt == *prompt);
            found.map(|sample| shortened(&sample.text, 300))
        };
        let best = outcome.best.filter(|_| plan.training.load_best);
        let kept = best.map_or(outcome.step, |best| best.step);
        text.push_str(&format!("\nprompt  {}\n", shortened(prompt, 300)));
        for (name, found) in [("before", of(0)), ("after", of(kept))] {
            match found.as_deref() {
                None => {}
                Some("") => text.push_str(&format!("{name:<6}  (nothing)\n")),
                Some(answer) => text.push_str(&format!("{name:<6}  {answer}\n")),
            }
        }
    }
    let adapter = outcome.path.display();
    text.push_str(&format!("\nwrote {adapter}\n"));
    for export in exported {
        let drift = export.report.drift.map_or(String::new(), |drift| {
            if export.quantized {
                return format!(", {}", divergence(&drift));
            }
            format!(", largest difference of a logit from base and adapter {:.1e}", drift.max_abs)
        });
        text.push_str(&format!("wrote {}{drift}\n", export.out.display()));
        if let Some(about) = &export.report.quantisation {
            text.push_str(&format!("  {}\n", about.words()));
        }
    }
    let run = match plan.adapter.kind {
        AdapterKind::Full => format!("rankine generate {adapter} --prompt \"...\""),
        _ => format!("rankine generate {} --adapter {adapter} --prompt \"...\"", plan.model.again()),
    };
    text.push_str(&format!("try it: {run}\n"));
    text
}

/// The last events of `--json`, a line each.
pub(super) fn export_events(exported: &[Exported]) -> String {
    #[derive(Serialize)]
    struct Event<'a> {
        event: &'static str,
        #[serde(flatten)]
        export: &'a Exported,
    }
    let line = |export| serde_json::to_string(&Event { event: "export", export });
    // Plain fields of numbers and texts: this cannot fail.
    exported.iter().filter_map(|export| line(export).ok()).map(|line| line + "\n").collect()
}

/// The evaluation of what was kept. A finished run that is resumed evaluates nothing, but knows its best.
fn evaluation(outcome: &Outcome) -> Option<Evaluation> {
    let best = outcome.best.filter(|best| best.step == outcome.step).map(|best| best.evaluation);
    outcome.evaluation.or(best)
}

/// What the cards say of the run.
pub(super) fn facts(plan: &Plan, forecast: &Forecast, outcome: &Outcome, provenance: &Provenance) -> CardFacts {
    let trained_on = forecast.datasets.iter().filter(|dataset| !dataset.validation);
    let is_repository = |name: &str| plan.repositories.iter().any(|used| used.repository.name == name);
    let dataset = |dataset: &DatasetForecast| DatasetFacts {
        name: match is_repository(&dataset.path) {
            true => dataset.path.clone(),
            false => Path::new(&dataset.path).file_name().unwrap_or_default().to_string_lossy().into_owned(),
        },
        records: dataset.records as u64,
    };
    CardFacts {
        title: Some(plan.name.clone()),
        base_model: Some(plan.model.name()),
        license: None,
        datasets: trained_on.map(dataset).collect(),
        validation_records: (forecast.validation_examples > 0).then_some(forecast.validation_examples as u64),
        steps: Some(outcome.step as u64),
        train_loss: outcome.last_loss,
        eval_loss_before: outcome.baseline.map(|evaluation| evaluation.loss),
        eval_loss: evaluation(outcome).map(|evaluation| evaluation.loss),
        figures: Vec::new(),
        provenance: [provenance.facts(), plan.model.held().map(held_facts).unwrap_or_default()].concat(),
    }
}
