//! What is trained on: files that are there, and how their records become tokens.

use std::path::{Path, PathBuf};

use rankine_data::proof::Check;
use rankine_data::{DatasetConfig, TrainOn, ValSize};
use rankine_models::config::DecoderConfig;
use serde::Serialize;

use super::{Decider, defaults};
use crate::repositories::may_be_dataset;

/// What is trained on. Paths are as they were found.
#[derive(Debug, Serialize)]
pub struct DataPlan {
    /// Trained on.
    pub datasets: Vec<DatasetConfig>,
    /// Held out.
    pub validation: Validation,
    /// Longest sequence.
    pub max_seq_len: usize,
    /// Several records to a sequence.
    pub packing: bool,
    /// Which tokens are trained on.
    pub train_on: TrainOn,
    /// A template's text, a file or `chatml`, instead of the model's own.
    pub chat_template: Option<String>,
    /// Checks of the data that may fail.
    pub waive: Vec<Check>,
    /// Share of the records that may lose a part of their answer.
    pub max_truncated_share: f64,
    /// A new order each epoch.
    pub shuffle: bool,
    /// Records in memory at a time, where the data is read while it is trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<usize>,
}

/// Where the held-out records come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Validation {
    /// There are none.
    None,
    /// A part of the training records.
    Part(ValSize),
    /// Records of their own.
    Datasets(Vec<DatasetConfig>),
}

/// Files and folders that are there.
pub(super) struct Sources {
    datasets: Vec<DatasetConfig>,
    val_datasets: Option<Vec<DatasetConfig>>,
    /// Whether everything was found.
    all: bool,
}

/// Looks every dataset up.
pub(super) fn find(decider: &mut Decider<'_>) -> Sources {
    let faults = decider.faults.len();
    let (datasets, val_datasets) = (decider.file.recipe.datasets.clone(), decider.file.recipe.val_datasets.clone());
    let datasets = find_all(decider, "datasets", datasets);
    let val_datasets = val_datasets.map(|datasets| find_all(decider, "val_datasets", datasets));
    Sources { datasets, val_datasets, all: decider.faults.len() == faults }
}

pub(super) fn decide(decider: &mut Decider<'_>, sources: Sources, model: Option<&DecoderConfig>) -> Option<DataPlan> {
    let faults = decider.faults.len();
    let recipe = decider.file.recipe.clone();
    if recipe.datasets.is_empty() {
        decider.fault("datasets", "`datasets` is empty", "name at least one: `datasets: [{path: train.jsonl}]`");
    }
    let validation = match (recipe.val_size, sources.val_datasets) {
        (Some(_), Some(datasets)) => {
            let what = "`val_size` and `val_datasets` both say what to validate on";
            decider.fault("val_size", what, "leave one of the two out");
            Validation::Datasets(datasets)
        }
        (None | Some(ValSize::Count(0)), None) => Validation::None,
        (Some(size), None) => Validation::Part(size),
        (None, Some(datasets)) if datasets.is_empty() => Validation::None,
        (None, Some(datasets)) => Validation::Datasets(datasets),
    };
    let limit = model.map(|model| model.max_position_embeddings);
    let max_seq_len = recipe.max_seq_len.unwrap_or_else(|| limit.unwrap_or(usize::MAX).min(defaults::MAX_SEQ_LEN));
    if let Some(limit) = limit.filter(|limit| max_seq_len > *limit) {
        let what = format!("`max_seq_len` is {max_seq_len}, and the model was made for {limit} tokens");
        decider.fault("max_seq_len", what, format!("give at most {limit}"));
    }
    let max_truncated_share = recipe.max_truncated_share.unwrap_or(defaults::MAX_TRUNCATED_SHARE);
    let stream = recipe.streaming.unwrap_or(defaults::STREAMING);
    if stream {
        check_stream(decider, &validation);
    } else if recipe.shuffle_buffer.is_some() {
        decider.fault(
            "shuffle_buffer",
            "`shuffle_buffer` belongs to `streaming`",
            "set `streaming: true`, or leave it out",
        );
    }
    let chat_template = recipe.chat_template.and_then(|template| chat_template(decider, template));
    (sources.all && decider.faults.len() == faults).then_some(DataPlan {
        datasets: sources.datasets,
        validation,
        max_seq_len,
        packing: recipe.packing.unwrap_or(defaults::PACKING),
        train_on: recipe.train_on.unwrap_or_default(),
        chat_template,
        waive: recipe.waive.unwrap_or_default(),
        max_truncated_share,
        shuffle: recipe.shuffle.unwrap_or(defaults::SHUFFLE),
        stream: stream.then(|| recipe.shuffle_buffer.unwrap_or(defaults::SHUFFLE_BUFFER)),
    })
}

/// What cannot be known of data that was not read yet.
fn check_stream(decider: &mut Decider<'_>, validation: &Validation) {
    let recipe = &decider.file.recipe;
    let weighted = recipe.datasets.iter().position(|dataset| dataset.weight.is_some_and(|weight| weight != 1.0));
    if recipe.max_steps.is_none() {
        let what = "`streaming` needs `max_steps`: how long an epoch is comes out only at its end";
        decider.fault("streaming", what, "set `max_steps`");
    }
    if let Validation::Part(_) = validation {
        let what = "`val_size` holds out a part of all records, and a stream does not know them";
        let help = "name some: `val_datasets: [{path: .., split: \"train[:200]\"}]`, and train on \"train[200:]\"";
        decider.fault("val_size", what, help);
    }
    if let Some(index) = weighted {
        let what = "`weight` repeats or samples a whole dataset, and a stream does not know it";
        decider.fault(&format!("datasets[{index}].weight"), what, "leave it out, or leave `streaming` out");
    }
}

/// Each dataset with its path as it was found.
fn find_all(decider: &mut Decider<'_>, key: &str, mut datasets: Vec<DatasetConfig>) -> Vec<DatasetConfig> {
    for (index, dataset) in datasets.iter_mut().enumerate() {
        let path = format!("{key}[{index}]");
        if let Some(weight) = dataset.weight {
            decider.check(weight.is_finite() && weight > 0.0, &format!("{path}.weight"), weight, "a number above 0");
        }
        if dataset.max_records == Some(0) {
            decider.check(false, &format!("{path}.max_records"), 0.0, "at least 1");
        }
        if let Some(found) = find_one(decider, &format!("{path}.path"), dataset) {
            dataset.path = found.to_string_lossy().into_owned();
        }
    }
    datasets
}

/// A local path, or the folder of a dataset on the Hub.
fn find_one(decider: &mut Decider<'_>, key: &str, dataset: &DatasetConfig) -> Option<PathBuf> {
    let path = &dataset.path;
    if !may_be_dataset(path) || decider.find(path, exists).is_ok() {
        return decider.find_or_fault(key, path, exists);
    }
    // Nothing is fetched for a recipe that is wrong already.
    if !decider.faults.is_empty() {
        return None;
    }
    match decider.repositories.dataset(dataset, &decider.roots()) {
        Ok(found) => Some(found.folder),
        Err(error) => {
            decider.not_found(key, &error);
            None
        }
    }
}

/// A file or folder; of a pattern, the folder that it starts from.
fn exists(path: &Path) -> bool {
    let is_pattern = |part: &std::ffi::OsStr| part.to_string_lossy().contains(['*', '?', '[', '{']);
    if path.exists() {
        return true;
    }
    let fixed: Vec<_> = path.iter().take_while(|part| !is_pattern(part)).collect();
    let folder: std::path::PathBuf = fixed.iter().collect();
    fixed.len() < path.iter().count() && (folder.as_os_str().is_empty() || folder.is_dir())
}

/// The path of a template as it was found; a template itself and the name of a built-in one stay.
fn chat_template(decider: &mut Decider<'_>, template: String) -> Option<String> {
    if template == "chatml" || template.contains(['{', '\n']) {
        return Some(template);
    }
    let found = decider.find_or_fault("chat_template", &template, Path::is_file)?;
    Some(found.to_string_lossy().into_owned())
}
