//! What will run: every default decided once, every file found, before any weight is read.
//!
//! One file a topic; each takes what the recipe says of it, decides the rest, and notes every fault. A plan exists
//! only where there is none.

mod adapter;
mod data;
pub mod defaults;
mod device;
mod memory;
mod model;
mod output;
mod prepare;
mod print;
mod proof;
mod stream;
mod time;
mod training;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use adapter::AdapterPlan;
pub use data::{DataPlan, Validation};
pub(crate) use device::dtype_name;
pub use device::{Backend, CpuOnly, DevicePlan, stored_dtype};
pub use memory::Fit;
pub use model::{ModelPlan, usual_dtype};
pub(crate) use model::{agree, held_dtype, trained_model};
pub use output::{ExportPlan, OutputPlan};
pub use prepare::{DatasetForecast, Forecast, Prepared};
pub(crate) use prepare::{data_failure, is_chat};
pub(crate) use proof::refuse;
pub use training::{GradientCheckpointing, TrainingPlan, Warmup};

use crate::fault::{BadInput, Failure, Fault};
use crate::recipe::RecipeFile;
use crate::repositories::{FindError, Repositories, UsedRepository};

/// What will run.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The recipe's name.
    pub name: String,
    /// The base model.
    pub model: ModelPlan,
    /// What is trained.
    pub adapter: AdapterPlan,
    /// What it is trained on.
    pub data: DataPlan,
    /// How.
    pub training: TrainingPlan,
    /// What is written.
    pub output: OutputPlan,
    /// Repositories of the Hub that it uses, each at the commit that was found.
    pub repositories: Vec<UsedRepository>,
}

impl Plan {
    /// Decides everything that the recipe leaves open, and fetches what it names on the Hub.
    ///
    /// # Errors
    /// Everything that contradicts something else, every module that the model does not have and every file that is
    /// not there, all at once. Where only the connection or the disk is at fault, it is no bad input.
    pub(crate) fn resolve(file: &RecipeFile, repositories: &Repositories) -> Result<Self, Failure> {
        let mut decider = Decider { file, repositories, faults: Vec::new(), outside: 0 };
        let device = device::decide(&mut decider);
        let training = training::decide(&mut decider, device);
        let sources = data::find(&mut decider);
        let described = model::describe(&mut decider);
        let config = described.as_ref().and_then(|described| described.config.as_ref());
        let adapter = adapter::decide(&mut decider, config);
        let data = data::decide(&mut decider, sources, config);
        let output = output::decide(&mut decider, described.as_ref().map(|described| described.folder.as_path()));
        // The weights last: they are not fetched for a recipe that is wrong.
        let model = described.and_then(|described| model::decide(&mut decider, described, device));
        let Decider { mut faults, outside, .. } = decider;
        match (model, adapter, data, training, output) {
            (Some(model), Some(adapter), Some(data), Some(training), Some(output)) if faults.is_empty() => {
                let repositories = repositories.used();
                Ok(Self { name: file.name.clone(), model, adapter, data, training, output, repositories })
            }
            _ if outside == 1 && faults.len() == 1 => Err(Failure::Failed(faults.remove(0))),
            _ => Err(BadInput { sources: file.sources.clone(), faults }.into()),
        }
    }

    /// How a dataset's path or a model's folder is called: by its repository where it is one's.
    pub(crate) fn label(&self, path: &Path) -> Option<String> {
        let of = self.repositories.iter().find(|used| path.starts_with(&used.folder))?;
        Some(of.repository.name.clone())
    }
}

/// A recipe on its way to a plan.
struct Decider<'a> {
    file: &'a RecipeFile,
    repositories: &'a Repositories,
    faults: Vec<Fault>,
    /// How many of the faults are not in the recipe: no connection, no room.
    outside: usize,
}

impl Decider<'_> {
    /// Notes a fault at a key.
    fn fault(&mut self, path: &str, what: impl Into<String>, help: impl Into<String>) {
        let help = help.into();
        let fault = self.file.fault(path, what);
        self.faults.push(if help.is_empty() { fault } else { fault.help(help) });
    }

    /// Notes a fault where a number is out of its range.
    fn check(&mut self, holds: bool, path: &str, value: f64, expected: &str) {
        if !holds {
            let value = crate::terminal::numbers::float(value);
            self.fault(path, format!("`{path}` is {value}; expected {expected}"), "");
        }
    }

    /// Notes a fault where a key was written that means nothing beside another one.
    fn without(&mut self, path: &str, because: &str) {
        if self.file.has(path) {
            self.fault(path, format!("`{path}` means nothing here: {because}"), "leave one of the two out");
        }
    }

    /// Where relative paths start from.
    fn roots(&self) -> Vec<PathBuf> {
        let here = PathBuf::from(".");
        if self.file.folder == here { vec![here] } else { vec![self.file.folder.clone(), here] }
    }

    /// Notes why a reference at a key led to nothing.
    fn not_found(&mut self, key: &str, error: &FindError) {
        self.outside += usize::from(error.is_outside());
        self.fault(key, format!("`{key}`: {}", error.what()), error.help());
    }

    /// An existing path, looked up in the recipe's folder and then in the working directory; `exists` is asked.
    fn find(&self, path: &str, exists: impl Fn(&Path) -> bool) -> Result<PathBuf, Vec<PathBuf>> {
        let mut looked_at = Vec::new();
        for root in self.roots() {
            let candidate = tidy(&root.join(path));
            if exists(&candidate) {
                return Ok(candidate);
            }
            if !looked_at.contains(&candidate) {
                looked_at.push(candidate);
            }
        }
        Err(looked_at)
    }

    /// As [`Self::find`], with the fault noted where there is nothing.
    fn find_or_fault(&mut self, key: &str, path: &str, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        match self.find(path, exists) {
            Ok(found) => Some(found),
            Err(looked_at) => {
                let places: Vec<String> = looked_at.iter().map(|path| format!("`{}`", path.display())).collect();
                let help = "relative paths start from the recipe's folder, then from the working directory";
                self.fault(key, format!("`{key}`: there is no {}", places.join(" and no ")), help);
                None
            }
        }
    }
}

/// Without `.` and, where that is the same folder, without `..`: as a person would type it.
fn tidy(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut short = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(short.components().next_back(), Some(Component::Normal(_))) => {
                short.pop();
            }
            part => short.push(part),
        }
    }
    if short.as_os_str().is_empty() {
        short.push(".");
    }
    // `a/..` is not always `.`: `a` may be a link. A pattern has no canonical form, so its folder is asked.
    let folder = |path: &Path| path.parent().map(Path::canonicalize).and_then(Result::ok);
    let same = match (path.canonicalize(), short.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => folder(path) == folder(&short),
    };
    if same { short } else { path.to_owned() }
}
