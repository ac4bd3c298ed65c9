//! Rules of repositories for Inference Endpoints, and of SageMaker's folders of adapters.

use std::collections::BTreeMap;
use std::fs;

use rankine_models::adapter_file::CONFIG_FILE;

use super::adapter::{self, Reader};
use super::finding::Rule;
use super::folder::Folder;
use crate::card::FILE as CARD;
use crate::hf_endpoint::{HANDLER, REQUIREMENTS};
use crate::sagemaker::{ADAPTERS, PROPERTIES};

pub(super) fn check(folder: &mut Folder) {
    check_card(folder);
    if !folder.has(HANDLER) {
        return;
    }
    let text = fs::read_to_string(folder.path.join(HANDLER)).unwrap_or_default();
    let has = |what: &str| text.lines().any(|line| line.trim_start().starts_with(what));
    if !has("class EndpointHandler") || !has("def __init__(self, path") || !has("def __call__(self, data") {
        let what = "the endpoint looks for the class `EndpointHandler` and calls it";
        let fix = "write `class EndpointHandler` with `__init__(self, path=\"\")` and `__call__(self, data)`";
        folder.error(Rule::HandlerClass, HANDLER, what, fix);
    }
    if !folder.has(REQUIREMENTS) {
        let what = "it is missing: what handler.py imports must be installed";
        folder.error(Rule::HandlerRequirements, REQUIREMENTS, what, "write the packages' names, one a line");
    }
}

fn check_card(folder: &mut Folder) {
    let text = fs::read_to_string(folder.path.join(CARD)).unwrap_or_default();
    let matter = text.strip_prefix("---\n").and_then(|rest| rest.split("\n---").next());
    let Some(matter) = matter else {
        let what = "there is no card with front matter: the Hub then knows neither library nor task";
        let fix = "begin README.md with `---`, the fields and `---`";
        return folder.error(Rule::CardMissing, CARD, what, fix);
    };
    let fields: BTreeMap<&str, &str> =
        matter.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim())).collect();
    for key in ["library_name", "pipeline_tag"] {
        if fields.get(key).is_none_or(|value| value.is_empty()) {
            let fix = "write `library_name: transformers` (or peft) and `pipeline_tag: text-generation`";
            folder.error(Rule::CardTask, CARD, format!("`{key}` is not there"), fix);
        }
    }
    if !fields.contains_key("base_model") {
        let what = "`base_model` is not there: the Hub does not show what it was made of";
        folder.warn(Rule::CardBase, CARD, what, "write `base_model: org/name`");
    }
}

/// The folder of a container that serves a base with adapters.
pub(super) fn check_adapters(folder: &mut Folder) {
    let entries = fs::read_dir(folder.path.join(ADAPTERS)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        let what = "there is no adapter in it";
        folder.error(Rule::AdapterMissing, ADAPTERS, what, "put each adapter into a folder of its name");
    }
    let mut largest = 0;
    for name in names {
        let below = format!("{ADAPTERS}/{name}/");
        adapter::check(folder, &below, Reader::Vllm);
        let config = folder.json(&format!("{below}{CONFIG_FILE}")).object();
        largest = largest.max(config.and_then(|config| config.get("r")?.as_u64()).unwrap_or_default());
    }
    let Ok(text) = fs::read_to_string(folder.path.join(PROPERTIES)) else {
        let what = "it is missing: the container does not know the base";
        let fix = "write `option.model_id`, `option.enable_lora=true` and `option.max_lora_rank`";
        return folder.error(Rule::PropertiesMissing, PROPERTIES, what, fix);
    };
    let options: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value.trim())).collect();
    if options.get("option.model_id").is_none_or(|base| base.is_empty()) {
        let what = "`option.model_id` is not there: the container does not know the base";
        folder.error(Rule::PropertiesMissing, PROPERTIES, what, "write the base's name on the Hub");
    }
    let rank = options.get("option.max_lora_rank").and_then(|rank| rank.parse::<u64>().ok());
    if options.get("option.enable_lora") != Some(&"true") || rank.is_none_or(|rank| rank < largest) {
        let what = format!("`option.enable_lora=true` and an `option.max_lora_rank` of {largest} or more are needed");
        folder.error(Rule::LoraOff, PROPERTIES, what, "write both; without them the base answers alone");
    }
}
