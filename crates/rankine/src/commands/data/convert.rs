//! `rankine data convert`: a dataset in the fine-tuning format of another platform.

use std::path::Path;

use rankine_data::platform::{Conversion, LimitFault, Platform, convert};
use rankine_data::{DatasetConfig, Faults, RecordType, read_dataset, write_new};
use serde::Serialize;

use crate::cli::ConvertArgs;
use crate::commands::open::parse_word;
use crate::fault::{BadInput, Failure, Fault};
use crate::plan::data_failure;
use crate::terminal::numbers::counted;
use crate::terminal::{self, note};

/// Writes the file and says what became of the records.
///
/// # Errors
/// A dataset that cannot be read, a file that is there already, or one that no model of the platform would take.
pub(super) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let platform: Platform = parse_word("--to", &args.to)?;
    let mut config = DatasetConfig::new(&args.input);
    config.split = args.split.clone();
    config.record_type = args.record_type.as_deref().map(|word| parse_word("--type", word)).transpose()?;
    if args.out.exists() {
        let fault = Fault::new(format!("{} is there already, and is not written over", args.out.display()));
        return Err(Failure::bad_input(fault.help("give `--out` another name, or remove the file")));
    }
    let dataset = read_dataset(&config, Path::new(".")).map_err(data_failure)?;
    let conversion = convert(&dataset.records, platform);
    if !args.json {
        tell(&conversion);
    }
    if conversion.written == 0 {
        let fault = Fault::new(format!("none of the records of {} can be written as {}", args.input, platform.name()));
        return Err(Failure::bad_input(fault.help("nothing was written; choose a format that has a place for them")));
    }
    if conversion.refused && !args.ignore_limits {
        let fault = |limit: &LimitFault| Fault::new(format!("{} {}", limit.model, limit.message));
        let mut faults: Vec<Fault> = conversion.limits.iter().map(fault).collect();
        if let Some(last) = faults.last_mut() {
            last.help = Some("nothing was written; `--ignore-limits` writes it all the same".to_owned());
        }
        return Err(BadInput { sources: Vec::new(), faults }.into());
    }
    write_new(&args.out, &conversion.text).map_err(data_failure)?;
    if args.json {
        return print_json(args, platform, dataset.record_type, &conversion);
    }
    terminal::print(&format!(
        "wrote {}: {} as {}\n",
        args.out.display(),
        counted(conversion.written, "record"),
        platform.name()
    ))
}

fn tell(conversion: &Conversion) {
    for (change, faults) in &conversion.changes {
        note(&format!("changed in {}: {change} ({})", counted(faults.len(), "record"), places(faults)));
    }
    if !conversion.left_out.is_empty() {
        note(&format!("left out: {}", counted(conversion.left_out.len(), "record")));
        for fault in conversion.left_out.shown() {
            note(&format!("  {fault}"));
        }
        let more = conversion.left_out.len() - conversion.left_out.shown().len();
        if more > 0 {
            note(&format!("  and {more} more"));
        }
    }
    if !conversion.refused {
        for LimitFault { model, message } in &conversion.limits {
            note(&format!("note: {model} {message}"));
        }
    }
}

/// The first few records of a fault.
fn places(faults: &Faults) -> String {
    let first: Vec<String> = faults.shown().iter().take(3).map(|fault| fault.source.to_string()).collect();
    let more = if faults.len() > first.len() { ", ..." } else { "" };
    first.join(", ") + more
}

fn print_json(
    args: &ConvertArgs,
    platform: Platform,
    read: RecordType,
    conversion: &Conversion,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Told<'a> {
        out: &'a Path,
        from: RecordType,
        to: Platform,
        written: usize,
        changed: Vec<Change<'a>>,
        left_out: usize,
        left_out_first: Vec<String>,
        limits: &'a [LimitFault],
    }
    #[derive(Serialize)]
    struct Change<'a> {
        change: &'a str,
        records: usize,
        first: Vec<String>,
    }
    let first =
        |faults: &Faults| -> Vec<String> { faults.shown().iter().map(|fault| fault.source.to_string()).collect() };
    let changed = conversion.changes.iter().map(|(change, faults)| Change {
        change,
        records: faults.len(),
        first: first(faults),
    });
    let told = Told {
        out: &args.out,
        from: read,
        to: platform,
        written: conversion.written,
        changed: changed.collect(),
        left_out: conversion.left_out.len(),
        left_out_first: conversion.left_out.shown().iter().map(ToString::to_string).collect(),
        limits: &conversion.limits,
    };
    let text = serde_json::to_string_pretty(&told)
        .map_err(|error| Failure::Failed(Fault::new(format!("the summary cannot be written: {error}"))))?;
    terminal::print(&(text + "\n"))
}
