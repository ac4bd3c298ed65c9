//! `rankine plan`: what a recipe would run.

use std::time::Duration;

use rankine_train::pace::Pace;
use serde_json::json;

use crate::Environment;
use crate::cli::PlanArgs;
use crate::fault::{Failure, Fault};
use crate::lock;
use crate::plan::Plan;
use crate::recipe;
use crate::repositories::Repositories;
use crate::terminal::numbers::{counted, duration};
use crate::terminal::{self, note, progress};

/// Prints the plan on stdout.
///
/// # Errors
/// Whatever keeps the recipe from running.
pub fn run(args: &PlanArgs, environment: &Environment) -> Result<(), Failure> {
    let file = recipe::read(&args.recipe.recipe, &args.recipe.sets)?;
    let repositories = lock::repositories(&file, args.recipe.locked, Repositories::new(environment, args.json)?)?;
    let plan = Plan::resolve(&file, &repositories)?;
    let mut prepared =
        progress::counting("tokenising", "records", args.json, |progress| plan.prepare(&environment.cache, progress))?;
    if args.recipe.locked {
        lock::check(&file, &plan, &prepared)?;
    }
    let forecast = &prepared.forecast;
    let pace = if args.time { plan.pace(&mut prepared.loader, &forecast.fit)? } else { None };
    let seconds = |pace: &Pace| pace.step_seconds * forecast.total_steps as f64;
    if args.json {
        let mut json = plan.to_json(forecast);
        if let Some(pace) = &pace {
            json["time"] = json!(pace);
            json["time"]["seconds"] = json!(seconds(pace));
        }
        json["checks"] = json!(prepared.proof.findings);
        let text = serde_json::to_string_pretty(&json)
            .map_err(|error| Failure::Failed(Fault::new(format!("the plan cannot be written: {error}"))))?;
        return terminal::print(&(text + "\n"));
    }
    terminal::print(&plan.to_text(forecast))?;
    if let Some(pace) = &pace {
        terminal::print(&format!(
            "\ntime: about {} a step, {:.0} tokens/s; {} for {}, without evaluations and exports\n",
            step_time(pace.step_seconds),
            pace.tokens_per_second,
            duration(Duration::from_secs_f64(seconds(pace))),
            counted(forecast.total_steps, "step")
        ))?;
    } else if args.time {
        note("how long it will take is forecast for the CPU alone");
    }
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

/// A step's seconds with two digits that count.
fn step_time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 1.0 => format!("{seconds:.2} s"),
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}
