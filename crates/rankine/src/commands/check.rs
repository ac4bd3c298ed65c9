//! `rankine check`: a folder by a platform's rules, offline.

use rankine_export::check::{Finding, Level, check};
use rankine_export::{ExportError, Target};
use serde_json::json;

use crate::cli::CheckArgs;
use crate::fault::{BadInput, Failure, Fault, chain};
use crate::terminal;
use crate::terminal::numbers::counted;

/// Prints what the rules find.
///
/// # Errors
/// A folder that cannot be listed, or one that breaks a rule (exit code 2).
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let findings = check(&args.folder, args.target).map_err(|error: ExportError| {
        Failure::bad_input(Fault::new(chain(&error)).help("give a folder that was exported or downloaded"))
    })?;
    let errors: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Error).collect();
    if args.json {
        let told = findings.iter().map(|finding| {
            let mut told = json!(finding);
            // What the rule asks for, beside what was found.
            told["rule"] = finding.rule.sentence().into();
            told
        });
        let report = json!({
            "folder": args.folder,
            "target": args.target,
            "accepted": errors.is_empty(),
            "findings": told.collect::<Vec<_>>(),
        });
        terminal::print(&format!("{report:#}\n"))?;
    } else {
        for warning in findings.iter().filter(|finding| finding.level == Level::Warning) {
            terminal::note(&format!("warning: {warning}"));
        }
        if errors.is_empty() {
            terminal::print(&format!("{}: {}\n", args.folder.display(), verdict(args.target, findings.len())))?;
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let fault = |finding: &&Finding| {
        Fault::new(format!("{}: {}: {}", finding.rule, args.folder.join(&finding.file).display(), finding.what))
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
