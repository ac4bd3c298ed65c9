//! What must be the same for a resumed run to be the same run.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rankine_data::{DataError, Loader};
use rankine_models::gguf;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use crate::plan::{Forecast, Plan};

/// Everything that decides the numbers of a run, each under its key in a recipe.
///
/// # Errors
/// Examples that cannot be read any more.
pub(super) fn identity(plan: &Plan, forecast: &Forecast, loader: &Loader) -> Result<Json, DataError> {
    let data = match loader.is_stream() {
        false => {
            let mut hash = Sha256::new();
            for example in loader.examples().iter() {
                let example = example?;
                hash.update((example.input_ids.len() as u64).to_le_bytes());
                example.input_ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                example.labels.iter().for_each(|label| hash.update(label.to_le_bytes()));
            }
            json!(short(hash))
        }
        // A stream is not read twice: its names, sizes and settings stand for it.
        true => {
            let files = forecast.datasets.iter().flat_map(|dataset| &dataset.files);
            let sizes: Vec<_> = files.map(|file| (file, fs::metadata(file).map_or(0, |about| about.len()))).collect();
            json!([sizes, plan.data.datasets, plan.data.stream])
        }
    };
    let (training, model) = (&plan.training, &plan.model);
    let mut identity = Map::new();
    let nested = [
        ("lora", json!(plan.adapter.lora)),
        ("optimizer", json!(training.optimizer)),
        ("schedule", json!(plan.schedule(forecast))),
    ];
    // Flat, so that what differs is named by its own key.
    for (section, value) in nested {
        if let Json::Object(fields) = value {
            identity.extend(fields.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
        }
    }
    let plain = [
        ("model", json!(format!("{} of {} parameters", model.model_type, model.parameters))),
        ("base weights", json!(weights_mark(&model.folder))),
        ("dtype", json!(model.dtype.name())),
        ("base_compute", json!(model.base_compute)),
        ("quantize", json!(model.quantize)),
        ("adapter", json!(plan.adapter.kind)),
        ("data", data),
        ("weights", json!(plan.data.datasets.iter().map(|dataset| dataset.weight).collect::<Vec<_>>())),
        ("max_seq_len", json!(plan.data.max_seq_len)),
        ("packing", json!(plan.data.packing)),
        ("shuffle", json!(plan.data.shuffle)),
        ("micro_batch_size", json!(forecast.fit.micro_batch_size)),
        ("gradient_accumulation_steps", json!(forecast.fit.gradient_accumulation_steps)),
        ("max_grad_norm", json!(training.max_grad_norm)),
        ("neftune_alpha", json!(training.neftune_alpha)),
        ("seed", json!(training.seed)),
    ];
    identity.extend(plain.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Ok(Json::Object(identity))
}

/// A mark of the base's weights that costs no pass over them: the size, the beginning and the end of each file.
fn weights_mark(folder: &Path) -> String {
    const PART: u64 = 1 << 20;
    let files = match gguf::find(folder) {
        Ok(Some(found)) => found.files,
        _ => {
            let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> =
                paths.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect();
            files.sort();
            files
        }
    };
    let mut hash = Sha256::new();
    for path in files {
        // A file that cannot be read here cannot be loaded either, and that is reported where it is.
        let Ok(mut file) = fs::File::open(&path) else { continue };
        let size = file.metadata().map_or(0, |about| about.len());
        hash.update(size.to_le_bytes());
        for start in [0, size.saturating_sub(PART)] {
            let mut part = Vec::new();
            let read = file.seek(SeekFrom::Start(start)).and_then(|_| (&mut file).take(PART).read_to_end(&mut part));
            if read.is_ok() {
                hash.update(&part);
            }
        }
    }
    short(hash)
}

/// The first 16 digits.
fn short(hash: Sha256) -> String {
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
