//! Rules of adapters in peft's format.

use std::path::Path;

use rankine_models::adapter_file::{AdapterFile, AdapterFileError, CONFIG_FILE, TENSORS_FILE};
use serde_json::{Map, Value};

use super::finding::Rule;
use super::folder::{Folder, Json};
use crate::vllm::{MAX_RANKS, max_rank};

/// Who loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// peft, which knows all that peft writes.
    Peft,
    /// vLLM: one rank, one scale, and nothing besides.
    Vllm,
}

/// Checks the adapter in the folder, or in `below` (with a slash at its end) in it.
pub(super) fn check(folder: &mut Folder, below: &str, reader: Reader) {
    let (config_name, tensors_name) = (format!("{below}{CONFIG_FILE}"), format!("{below}{TENSORS_FILE}"));
    let path = folder.path.join(below);
    for name in [&config_name, &tensors_name] {
        if !folder.path.join(name).is_file() {
            let fix = "give the folder of an adapter: `adapter` in a run's folder, or an export";
            folder.error(Rule::AdapterMissing, name, "it is missing", fix);
        }
    }
    let config = match folder.json(&config_name) {
        Json::Object(config) => config,
        Json::Missing => return,
        Json::Invalid(reason) => {
            let what = format!("not a JSON object: {reason}");
            return folder.error(Rule::AdapterUnreadable, &config_name, what, "copy or export the adapter anew");
        }
    };
    if config.get("base_model_name_or_path").is_none_or(|name| name.as_str().is_none_or(str::is_empty)) {
        let what = "`base_model_name_or_path` is not there: who loads the adapter must know its base";
        folder.warn(Rule::AdapterBase, &config_name, what, "write the base's name on the Hub into it");
    }
    let before = folder.findings.len();
    if reader == Reader::Vllm {
        check_vllm(folder, &config_name, &config);
    }
    // What the reader does not take was said in its own words.
    if folder.path.join(&tensors_name).is_file() && folder.findings.len() == before {
        check_tensors(folder, &path, &tensors_name);
    }
}

fn check_tensors(folder: &mut Folder, path: &Path, name: &str) {
    let fix = "copy or export the adapter anew";
    match AdapterFile::open(path) {
        Ok(_) => {}
        Err(AdapterFileError::Tensors { faults, .. }) => {
            const SHOWN: usize = 5;
            for fault in faults.iter().take(SHOWN) {
                folder.error(Rule::AdapterUnreadable, name, fault.to_string(), fix);
            }
        }
        Err(error) => folder.error(Rule::AdapterUnreadable, name, error.to_string(), fix),
    }
}

fn check_vllm(folder: &mut Folder, file: &str, config: &Map<String, Value>) {
    let set = |key: &str| {
        config.get(key).is_some_and(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        })
    };
    let portable = "export it with `--target vllm`, which folds the scales and pads the ranks";
    let merge = "merge it: `rankine export --target merged`";
    let absent: Vec<&str> = ["r", "lora_alpha", "target_modules"]
        .into_iter()
        .filter(|key| config.get(*key).is_none_or(Value::is_null))
        .collect();
    if !absent.is_empty() {
        let what = format!("{} is not there", absent.join(", "));
        folder.error(Rule::AdapterFields, file, what, "copy or export the adapter anew");
    }
    if set("modules_to_save") {
        folder.error(Rule::SavedModules, file, "`modules_to_save` is set, which vLLM refuses", merge);
    }
    if set("use_dora") {
        folder.error(Rule::Dora, file, "`use_dora` is set, which vLLM refuses", merge);
    }
    if config.get("bias").and_then(Value::as_str).is_some_and(|bias| bias != "none") {
        folder.error(Rule::Bias, file, "`bias` is not `none`, which vLLM refuses", merge);
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if set(key) {
            let what = format!("`{key}` is set, and vLLM scales every module alike without a word");
            folder.error(Rule::OneScale, file, what, portable);
        }
    }
    if let Some(rank) = config.get("r").and_then(Value::as_u64).and_then(|rank| usize::try_from(rank).ok())
        && max_rank(rank).is_none()
    {
        let what = format!("`r` is {rank}, and `--max-lora-rank` goes to {}", MAX_RANKS[MAX_RANKS.len() - 1]);
        folder.error(Rule::RankTooLarge, file, what, merge);
    }
}
