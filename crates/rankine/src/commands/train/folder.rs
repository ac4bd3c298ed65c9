//! The run's folder: what is in it already, and what is written before the first step.

use std::fs;
use std::path::Path;

use rankine_train::checkpoint::{self, Checkpoint};
use serde_json::json;

use crate::fault::{Failure, Fault};
use crate::lock::Provenance;
use crate::plan::{Forecast, Plan};
use crate::recipe::Recipe;

const METRICS: &str = "metrics.jsonl";

/// Refuses a folder that holds a run, unless that goes on or may be written over.
pub(super) fn refuse_occupied(plan: &Plan, overwrite: bool) -> Result<(), Failure> {
    let folder = &plan.output.output_dir;
    let holds_run = folder.join(METRICS).exists() || !Checkpoint::list(folder).is_empty();
    if plan.output.resume || overwrite || !holds_run {
        return Ok(());
    }
    let fault = Fault::new(format!("{} already holds a run", folder.display()));
    let help = "`--resume` goes on with it, `--overwrite` starts over, `--set output_dir=...` keeps both";
    Err(Failure::bad_input(fault.help(help)))
}

/// Removes what an earlier run wrote, and nothing else: the folder may hold other things, too.
pub(super) fn clear(plan: &Plan) -> Result<(), Failure> {
    let folder = &plan.output.output_dir;
    for path in [checkpoint::folder(folder), folder.join("adapter"), folder.join("model")] {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| failed_at(&path, &error))?;
        }
    }
    let metrics = folder.join(METRICS);
    if metrics.exists() {
        fs::remove_file(&metrics).map_err(|error| failed_at(&metrics, &error))?;
    }
    Ok(())
}

/// `recipe.json` (what was asked for, `--set` included) and `plan.json` (what was decided) in the run's folder.
pub(super) fn write_run_files(plan: &Plan, forecast: &Forecast, recipe: &Recipe) -> Result<(), Failure> {
    let folder = &plan.output.output_dir;
    fs::create_dir_all(folder).map_err(|error| failed_at(folder, &error))?;
    for (name, value) in [("recipe.json", json!(recipe)), ("plan.json", plan.to_json(forecast))] {
        let path = folder.join(name);
        fs::write(&path, format!("{value:#}\n")).map_err(|error| failed_at(&path, &error))?;
    }
    Ok(())
}

/// `provenance.json` in the run's folder: exactly what went in.
pub(super) fn write_provenance(plan: &Plan, provenance: &Provenance) -> Result<(), Failure> {
    let path = plan.output.output_dir.join("provenance.json");
    fs::write(&path, format!("{:#}\n", json!(provenance))).map_err(|error| failed_at(&path, &error))
}

/// A file of the run that cannot be written.
pub(super) fn failed_at(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(Fault::new(format!("{}: {error}", path.display())))
}
