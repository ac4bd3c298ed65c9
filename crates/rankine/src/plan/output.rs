//! What is written, and where.

use std::path::{Path, PathBuf};

use rankine_export::{ExportConfig, Form, Onto};
use rankine_nn::lora::AdapterKind;
use rankine_train::checkpoint::Checkpoint;
use serde::Serialize;

use super::device::stored_dtype;
use super::{Decider, defaults};

/// What is written, and where.
#[derive(Debug, Serialize)]
pub struct OutputPlan {
    /// The run's folder.
    pub output_dir: PathBuf,
    /// Whether to go on from the newest whole checkpoint in it.
    pub resume: bool,
    /// What is made besides.
    pub export: Vec<ExportPlan>,
}

/// One thing that is made from the trained adapter.
#[derive(Debug, Serialize)]
pub struct ExportPlan {
    /// What, and how.
    #[serde(flatten)]
    pub config: ExportConfig,
    /// The folder to write.
    pub out: PathBuf,
}

/// Whether a run was begun in the folder. One that was killed before its first checkpoint has none.
pub(crate) fn holds_run(folder: &Path) -> bool {
    let begun = ["metrics.jsonl", "plan.json"].iter().any(|name| folder.join(name).is_file());
    begun || !Checkpoint::list(folder).is_empty()
}

pub(super) fn decide(decider: &mut Decider<'_>, model: Option<&Path>) -> Option<OutputPlan> {
    let recipe = decider.file.recipe.clone();
    let output_dir = match recipe.output_dir.as_deref() {
        Some("") => {
            decider.fault("output_dir", "`output_dir` is empty", "leave it out for `runs/` and the recipe's name");
            return None;
        }
        Some(folder) => PathBuf::from(folder),
        None => Path::new("runs").join(&decider.file.name),
    };
    if output_dir.exists() && !output_dir.is_dir() {
        decider.fault("output_dir", format!("`output_dir`: {} is a file", output_dir.display()), "give a folder");
    }
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if let Some(model) = model
        && same(&output_dir, model)
    {
        decider.fault("output_dir", "`output_dir` is the base model's own folder", "give another folder");
    }
    let resume = recipe.resume.unwrap_or(defaults::RESUME);
    if resume && !holds_run(&output_dir) {
        let what = format!("`resume`: there is no run in {} to go on with", output_dir.display());
        decider.fault("resume", what, "leave `resume` out to start, or give the `output_dir` of the run");
    }
    let adapter = recipe.adapter.unwrap_or_default();
    let written = ["adapter", "model", "checkpoints", ""].map(|name| output_dir.join(name));
    let mut export: Vec<ExportPlan> = Vec::new();
    for (index, asked) in recipe.export.unwrap_or_default().into_iter().enumerate() {
        let path = format!("export[{index}]");
        let config = ExportConfig {
            dtype: asked.dtype.and_then(stored_dtype).map(Into::into),
            quantize: asked.quantize,
            portable: asked.portable.unwrap_or_default(),
            weights: asked.weights.unwrap_or_default(),
            onto: asked.onto.unwrap_or_default(),
            handler: asked.handler.unwrap_or_default(),
            name: asked.name,
            ..ExportConfig::new(asked.target)
        };
        if adapter == AdapterKind::Full && config.form() != Form::Model {
            let what = format!("`{path}`: `adapter: full` has no adapter to export");
            decider.fault(&path, what, "leave it out: the trained model itself is written to `model` in `output_dir`");
            continue;
        }
        if config.onto == Onto::Quantised && recipe.quantize.is_none() {
            decider.without(&format!("{path}.onto"), "the base is not held in fewer bits");
        }
        for unused in config.unused() {
            decider.without(&format!("{path}.{}", unused.setting), unused.reason);
        }
        let out = asked.out.map_or_else(|| output_dir.join(asked.target.name()), PathBuf::from);
        if export.iter().any(|other| other.out == out) || written.contains(&out) {
            let what = format!("`{path}`: something else is written to {}", out.display());
            decider.fault(&path, what, "give another `out`");
        }
        if let Some(model) = model
            && same(&out, model)
        {
            decider.fault(&path, format!("`{path}.out` is the base model's own folder"), "give another folder");
        }
        export.push(ExportPlan { config, out });
    }
    Some(OutputPlan { output_dir, resume, export })
}
