//! Rules of adapters for mlx-lm.

use std::collections::BTreeSet;

use rankine_models::adapter_file::{AdapterKey, CONFIG_FILE};
use rankine_models::weights::TensorFile;
use serde_json::{Map, Value};

use super::finding::Rule;
use super::folder::{Folder, Json};
use crate::mlx::{TENSORS_FILE, key};

const ANEW: &str = "export it anew with `--target mlx`";

pub(super) fn check(folder: &mut Folder) {
    let config = match folder.json(CONFIG_FILE) {
        Json::Object(config) => Some(config),
        Json::Missing => {
            folder.error(Rule::MlxConfig, CONFIG_FILE, "it is missing", ANEW);
            None
        }
        Json::Invalid(reason) => {
            folder.error(Rule::MlxConfig, CONFIG_FILE, format!("not a JSON object: {reason}"), ANEW);
            None
        }
    };
    if let Some(config) = &config {
        check_config(folder, config);
    }
    match TensorFile::open(&folder.path.join(TENSORS_FILE)) {
        Ok(tensors) => check_tensors(folder, config.as_ref(), &tensors),
        Err(error) => folder.error(Rule::MlxTensors, TENSORS_FILE, error.to_string(), ANEW),
    }
}

fn check_config(folder: &mut Folder, config: &Map<String, Value>) {
    let kind = config.get("fine_tune_type").and_then(Value::as_str);
    if !matches!(kind, Some("lora" | "dora")) {
        let what = "`fine_tune_type` is neither `lora` nor `dora`";
        folder.error(Rule::MlxConfig, CONFIG_FILE, what, ANEW);
    }
    if config.get("num_layers").and_then(Value::as_i64).is_none() {
        folder.error(Rule::MlxConfig, CONFIG_FILE, "`num_layers` is not there", ANEW);
    }
    let parameters = config.get("lora_parameters").unwrap_or(&Value::Null);
    for name in ["rank", "scale", "dropout"] {
        if !parameters[name].is_number() {
            let what = match parameters["alpha"].is_number() && name == "scale" {
                true => "`lora_parameters` has `alpha`, and mlx-lm reads `scale`".to_owned(),
                false => format!("`lora_parameters.{name}` is not there"),
            };
            folder.error(Rule::MlxConfig, CONFIG_FILE, what, ANEW);
        }
    }
}

fn check_tensors(folder: &mut Folder, config: Option<&Map<String, Value>>, tensors: &TensorFile) {
    let parameters = config.and_then(|config| config.get("lora_parameters")).unwrap_or(&Value::Null);
    let rank = parameters["rank"].as_u64();
    let keys: Option<BTreeSet<&str>> =
        parameters["keys"].as_array().map(|keys| keys.iter().filter_map(Value::as_str).collect());
    let mut layers: BTreeSet<usize> = BTreeSet::new();
    for name in tensors.names() {
        let Some(found) = key(name) else {
            let what = format!("`{name}` is none of `lora_a`, `lora_b` and `m`: mlx-lm refuses the file");
            folder.error(Rule::MlxKeys, TENSORS_FILE, what, ANEW);
            continue;
        };
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        let below = match module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, below)) => {
                layers.extend(layer.parse::<usize>());
                below
            }
            None => module,
        };
        if keys.as_ref().is_some_and(|keys| !keys.contains(below) && !keys.contains(module)) {
            let what = format!("`{name}` is of `{below}`, which `keys` does not name: mlx-lm refuses the file");
            folder.error(Rule::MlxKeys, TENSORS_FILE, what, ANEW);
        }
        let (part, other) = match found {
            AdapterKey::LoraA { .. } | AdapterKey::EmbeddingA { .. } => (1, "lora_b"),
            AdapterKey::LoraB { .. } | AdapterKey::EmbeddingB { .. } => (0, "lora_a"),
            _ => continue,
        };
        if tensors.get(&format!("{module}.{other}")).is_none() {
            let what = format!("`{name}` is there without `{other}`");
            folder.error(Rule::MlxKeys, TENSORS_FILE, what, ANEW);
        }
        let shape = tensors.get(name).map(|tensor| tensor.shape).unwrap_or_default();
        if shape.len() != 2 || rank.is_some_and(|rank| shape.get(part).map(|n| *n as u64) != Some(rank)) {
            let what = format!("`{name}` has shape {shape:?}, and the rank is {}", parameters["rank"]);
            folder.error(Rule::MlxShapes, TENSORS_FILE, what, ANEW);
        }
    }
    // Counted from the last layer, and zero means all of them: `layers[-0:]`.
    let covered = config.and_then(|config| config.get("num_layers")?.as_u64());
    if let (Some(covered), Some(first), Some(last)) = (covered.filter(|n| *n > 0), layers.first(), layers.last())
        && (last - first + 1) as u64 > covered
    {
        let what = format!("`num_layers` is {covered}, and layers {first} to {last} are adapted");
        folder.error(Rule::MlxLayers, CONFIG_FILE, what, ANEW);
    }
}
