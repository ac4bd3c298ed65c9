//! `rankine data`: what a recipe's data teaches, its checks, and datasets in other formats.

mod convert;
mod html;
mod report;
mod text;
mod tokens;

use std::io::IsTerminal;
use std::path::Path;

use rankine_data::write_over;

use crate::Environment;
use crate::cli::{DataArgs, DataCommand};
use crate::fault::{Failure, Fault};
use crate::plan::{Plan, data_failure};
use crate::recipe;
use crate::repositories::Repositories;
use crate::terminal::numbers::counted;
use crate::terminal::{self, note, progress};
use report::Report;

/// Prints the report on stdout, or converts a dataset.
///
/// # Errors
/// Whatever keeps the recipe from running, a check that fails among it.
pub fn run(args: &DataArgs, environment: &Environment) -> Result<(), Failure> {
    if let Some(DataCommand::Convert(args)) = &args.command {
        return convert::run(args);
    }
    let Some(path) = &args.recipe else {
        return Err(Failure::bad_input(Fault::new("no recipe is given").help("`rankine data RECIPE`")));
    };
    let file = recipe::read(path, &args.sets)?;
    let mut plan = Plan::resolve(&file, &Repositories::new(environment, args.json)?)?;
    // The report is of all the data, however it is going to be read.
    plan.data.stream = None;
    if let Some(html) = &args.html {
        refuse_other_file(html)?;
    }
    let prepared =
        progress::counting("tokenising", "records", args.json, |progress| plan.prepare(&environment.cache, progress))?;
    let report = Report::of(&plan, &prepared, &args.record, args.records)?;
    if let Some(html) = &args.html {
        write_over(html, &html::page(&report)).map_err(data_failure)?;
        note(&format!("wrote {}", html.display()));
    }
    if args.json {
        terminal::print(&report.to_json()?)?;
    } else {
        let colored = !environment.no_color && std::io::stdout().is_terminal();
        terminal::print(&text::text(&report, colored))?;
    }
    stop(&report, path)
}

/// A failed check is bad input. The report has told what was found, so that this is short.
fn stop(report: &Report<'_>, recipe: &Path) -> Result<(), Failure> {
    let names: Vec<&str> = report.proof.stopping().map(|finding| finding.check.name()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let fails = if names.len() == 1 { "fails" } else { "fail" };
    let what =
        format!("{}: {} of the data {fails}: {}", recipe.display(), counted(names.len(), "check"), names.join(", "));
    let help = format!(
        "`rankine train` stops here, too; what is meant to be so is waived with `waive: [{}]`",
        names.join(", ")
    );
    Err(Failure::bad_input(Fault::new(what).help(help)))
}

/// A report may take the place of an earlier one, and of nothing else.
fn refuse_other_file(path: &Path) -> Result<(), Failure> {
    let is_report = |text: &[u8]| text.starts_with(html::BEGINNING.as_bytes());
    match std::fs::read(path) {
        Ok(text) if !is_report(&text) => {
            let fault = Fault::new(format!("{} is there already and is no report of this program", path.display()));
            Err(Failure::bad_input(fault.help("give `--html` another name")))
        }
        _ => Ok(()),
    }
}
