//! `rankine check`: a folder by a platform's rules, offline; or the rules themselves.

use std::path::Path;

use rankine_export::check::{Finding, Level, Rule, check};
use rankine_export::{ExportError, Target};
use serde_json::json;

use crate::cli::CheckArgs;
use crate::fault::{BadInput, Failure, Fault, chain};
use crate::terminal;
use crate::terminal::numbers::counted;

/// Prints what the rules find, or what they are.
///
/// # Errors
/// A folder that cannot be listed, or one that breaks a rule (exit code 2).
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    match (&args.folder, args.target) {
        // Without a folder, clap has seen `--rules`.
        (Some(folder), Some(target)) => check_folder(folder, target, args.json),
        (_, target) => terminal::print(&rules(target, args.json)),
    }
}

/// The rules of a target, or of all: one a line, or as JSON.
fn rules(target: Option<Target>, as_json: bool) -> String {
    let listed = Rule::ALL.iter().filter(|rule| target.is_none_or(|target| rule.targets().contains(&target)));
    if as_json {
        let told = listed.map(|rule| json!({"code": rule, "targets": rule.targets(), "rule": rule.sentence()}));
        return format!("{:#}\n", json!(told.collect::<Vec<_>>()));
    }
    let width = Rule::ALL.iter().map(|rule| rule.code().len()).max().unwrap_or_default();
    let line = |rule: &Rule| {
        let targets: Vec<&str> = rule.targets().iter().map(|target| target.name()).collect();
        let of = if target.is_none() { format!(" ({})", targets.join(", ")) } else { String::new() };
        format!("{:width$}  {}{of}\n", rule.code(), rule.sentence())
    };
    listed.map(line).collect()
}

fn check_folder(folder: &Path, target: Target, as_json: bool) -> Result<(), Failure> {
    let findings = check(folder, target).map_err(|error: ExportError| {
        Failure::bad_input(Fault::new(chain(&error)).help("give a folder that was exported or downloaded"))
    })?;
    let errors: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Error).collect();
    if as_json {
        let told = findings.iter().map(|finding| {
            let mut told = json!(finding);
            // What the rule asks for, beside what was found.
            told["rule"] = finding.rule.sentence().into();
            told
        });
        let report = json!({
            "folder": folder,
            "target": target,
            "accepted": errors.is_empty(),
            "findings": told.collect::<Vec<_>>(),
        });
        terminal::print(&format!("{report:#}\n"))?;
    } else {
        for warning in findings.iter().filter(|finding| finding.level == Level::Warning) {
            terminal::note(&format!("warning: {warning}"));
        }
        if errors.is_empty() {
            terminal::print(&format!("{}: {}\n", folder.display(), verdict(target, findings.len())))?;
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let fault = |finding: &&Finding| {
        Fault::new(format!("{}: {}: {}", finding.rule, folder.join(&finding.file).display(), finding.what))
            .help(finding.fix.clone())
    };
    Err(BadInput { sources: Vec::new(), faults: errors.iter().map(fault).collect() }.into())
}

fn verdict(target: Target, warnings: usize) -> String {
    match warnings {
        0 => format!("nothing speaks against the target {target}"),
        warnings => format!("nothing but {} speaks against the target {target}", counted(warnings, "warning")),
    }
}
