//! `rankine plan`: what a recipe would run.

use serde_json::json;

use crate::Environment;
use crate::cli::PlanArgs;
use crate::fault::{Failure, Fault};
use crate::lock;
use crate::plan::Plan;
use crate::recipe;
use crate::repositories::Repositories;
use crate::terminal::numbers::counted;
use crate::terminal::{self, note, progress};

/// Prints the plan on stdout.
///
/// # Errors
/// Whatever keeps the recipe from running.
pub fn run(args: &PlanArgs, environment: &Environment) -> Result<(), Failure> {
    let file = recipe::read(&args.recipe.recipe, &args.recipe.sets)?;
    let repositories = lock::repositories(&file, args.recipe.locked, Repositories::new(environment, args.json)?)?;
    let plan = Plan::resolve(&file, &repositories)?;
    let prepared =
        progress::counting("tokenising", "records", args.json, |progress| plan.prepare(&environment.cache, progress))?;
    if args.recipe.locked {
        lock::check(&file, &plan, &prepared)?;
    }
    if args.json {
        let mut json = plan.to_json(&prepared.forecast);
        json["checks"] = json!(prepared.proof.findings);
        let text = serde_json::to_string_pretty(&json)
            .map_err(|error| Failure::Failed(Fault::new(format!("the plan cannot be written: {error}"))))?;
        return terminal::print(&(text + "\n"));
    }
    terminal::print(&plan.to_text(&prepared.forecast))?;
    let names: Vec<&str> = prepared.proof.stopping().map(|finding| finding.check.name()).collect();
    if !names.is_empty() {
        note(&format!(
            "{} of the data would stop the training: {}\nsee `rankine data {}`",
            counted(names.len(), "check"),
            names.join(", "),
            args.recipe.recipe.display()
        ));
    }
    Ok(())
}
