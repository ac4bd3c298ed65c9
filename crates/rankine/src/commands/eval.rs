//! `rankine eval`: what a model makes of records that it was not trained on.

use std::path::Path;

use rankine_data::{DatasetConfig, TokenizeConfig, TokenizeReport, read_dataset, tokenize};
use rankine_models::drift::write_logits;
use rankine_train::evaluate::{EvaluateConfig, Evaluation, evaluate};
use serde_json::json;

use super::open;
use crate::Environment;
use crate::cli::EvalArgs;
use crate::fault::{Failure, Fault, chain};
use crate::plan::data_failure;
use crate::terminal::numbers::{count, float, percent};
use crate::terminal::table::columns;
use crate::terminal::{self, progress};

/// Prints loss, perplexity and exact match on stdout.
///
/// # Errors
/// A model or records that cannot be used; a record longer than the model's context.
pub fn run(args: &EvalArgs, environment: &Environment) -> Result<(), Failure> {
    let mut config = DatasetConfig::new(&args.data);
    config.record_type = args.record_type.as_deref().map(|word| open::parse_word("--type", word)).transpose()?;
    let train_on =
        args.train_on.as_deref().map(|word| open::parse_word("--train-on", word)).transpose()?.unwrap_or_default();
    // Only a folder has splits, and `train` is not what is evaluated on.
    if Path::new(&args.data).is_dir() {
        config.split = Some("validation".to_owned());
    }
    let dataset = read_dataset(&config, Path::new(".")).map_err(data_failure)?;
    let opened = open::open(&args.model, environment)?;
    let context = opened.model.config.max_position_embeddings;
    let max_seq_len = args.max_seq_len.unwrap_or(context).min(context);
    let tokenized = progress::counting("tokenising", "records", args.json, |progress| {
        tokenize(&[dataset], &opened.tokenizer, &TokenizeConfig { max_seq_len, train_on }, progress)
    });
    let tokenized = tokenized.map_err(data_failure)?;
    refuse_cuts(&tokenized.report, max_seq_len)?;
    let config = EvaluateConfig {
        tokenizer: &opened.tokenizer,
        eos_token_ids: &opened.eos_token_ids,
        batch_size: args.batch_size,
        piece_tokens: opened.device.piece_tokens(),
        pad_id: opened.tokenizer.pad_id().or(opened.tokenizer.eos_id()).unwrap_or(0),
        exact_match: true,
    };
    let evaluation = progress::counting("evaluating", "records", args.json, |progress| {
        evaluate(&opened.model, &tokenized.examples, &config, &mut |done, total| progress(done, total))
    });
    let evaluation = evaluation.map_err(|error| open::input(&error))?;
    if let Some(file) = &args.logits {
        let documents: Vec<Vec<u32>> = tokenized.examples.iter().map(|example| example.input_ids.clone()).collect();
        let written = write_logits(&opened.model, &documents, file);
        written.map_err(|error| Failure::Failed(Fault::new(chain(&error))))?;
    }
    if args.json {
        let mut object = json!(evaluation);
        object["dropped"] = json!(tokenized.report.dropped);
        return terminal::print(&format!("{object}\n"));
    }
    terminal::print(&table(&evaluation, &tokenized.report))
}

/// A measured record is a whole record.
fn refuse_cuts(report: &TokenizeReport, max_seq_len: usize) -> Result<(), Failure> {
    if report.truncated == 0 {
        return Ok(());
    }
    let fault = Fault::new(format!(
        "{} of {} records are longer than {max_seq_len} tokens (the longest has {}), and an evaluation cuts nothing",
        report.truncated, report.records, report.longest
    ));
    Err(Failure::bad_input(
        fault.help("shorten or remove them, or raise --max-seq-len if the model's context allows it"),
    ))
}

fn table(evaluation: &Evaluation, report: &TokenizeReport) -> String {
    let mut rows = vec![
        vec!["loss".to_owned(), format!("{:.4}", evaluation.loss)],
        vec!["perplexity".to_owned(), format!("{:.3}", evaluation.perplexity)],
        vec!["tokens".to_owned(), count(evaluation.tokens)],
        vec!["records".to_owned(), count(evaluation.records)],
    ];
    if report.dropped > 0 {
        rows.push(vec!["without a trained token".to_owned(), count(report.dropped)]);
    }
    if let Some(exact) = evaluation.exact_match {
        let share = percent(exact.matched, exact.records);
        rows.push(vec![
            "exact match".to_owned(),
            format!("{share} ({} of {})", count(exact.matched), count(exact.records)),
        ]);
    }
    if !evaluation.loss.is_finite() {
        rows.push(vec!["note".to_owned(), format!("the loss is {}", float(evaluation.loss))]);
    }
    columns(&rows, &[], "")
}
