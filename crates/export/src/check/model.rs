//! Rules of every model: `config.json` and the weights.

use rankine_models::adapter_file::CONFIG_FILE as ADAPTER_CONFIG;
use rankine_models::companions::{CONFIG_FILE, GENERATION_FILE};
use rankine_models::config::DecoderConfig;
use rankine_models::weights::{INDEX_FILE, SINGLE_FILE, WeightFiles, WeightsError};
use serde_json::Value;

use super::finding::{Level, Rule};
use super::folder::{Folder, Json};

const HEAD: &str = "lm_head.weight";

pub(super) fn check(folder: &mut Folder) {
    check_config(folder);
    if folder.has(ADAPTER_CONFIG) {
        folder.error(
            Rule::NotMerged,
            ADAPTER_CONFIG,
            "an adapter lies here, which would be applied once more, or not at all",
            "merge it: `rankine export --target merged`",
        );
    }
    check_pickles(folder);
    let path = folder.path.clone();
    match WeightFiles::open(&path) {
        Ok(weights) => check_weights(folder, &weights),
        Err(WeightsError::NoWeights { hint, .. }) => {
            folder.error(
                Rule::WeightsMissing,
                SINGLE_FILE,
                format!("there are no weights; {hint}"),
                "export the model anew",
            );
        }
        Err(WeightsError::PickleOnly { files, .. }) => {
            let what = format!("the weights are pickles only ({})", files.join(", "));
            folder.error(Rule::WeightsMissing, SINGLE_FILE, what, "convert them to safetensors");
        }
        Err(WeightsError::Unreadable { faults }) => {
            for fault in faults {
                let file = fault.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let fix = "copy or export the file anew: it is not what was written";
                folder.error(Rule::WeightsUnreadable, &file, fault.problem.to_string(), fix);
            }
        }
        Err(error) => {
            folder.error(Rule::WeightsUnreadable, SINGLE_FILE, error.to_string(), "export the model anew");
        }
    }
    if !folder.has(GENERATION_FILE) {
        let level = if folder.target == crate::Target::Bedrock { Level::Error } else { Level::Warning };
        let what = "it is missing: which tokens end an answer is then a guess";
        let fix = "write `{\"eos_token_id\": ID}`, with the ids from config.json and the tokenizer";
        folder.note(Rule::GenerationConfigMissing, level, GENERATION_FILE, what, fix);
    }
}

fn check_config(folder: &mut Folder) {
    match folder.json(CONFIG_FILE) {
        Json::Object(_) => {}
        Json::Missing => {
            let what = "it is missing: the folder is no model";
            folder.error(Rule::ConfigMissing, CONFIG_FILE, what, "give the folder with config.json, not one above it");
        }
        Json::Invalid(reason) => {
            folder.error(
                Rule::ConfigInvalid,
                CONFIG_FILE,
                format!("not a JSON object: {reason}"),
                "export the model anew",
            );
        }
    }
}

fn check_pickles(folder: &mut Folder) {
    let pickles: Vec<String> = folder
        .files
        .keys()
        .filter(|name| [".bin", ".pt", ".pth", ".pkl", ".ckpt"].iter().any(|ending| name.ends_with(ending)))
        .cloned()
        .collect();
    for name in pickles {
        folder.note(
            Rule::WeightsPickled,
            folder.served_level(),
            &name,
            "a pickle: loading it runs the code inside it",
            "remove it; the weights are in the safetensors files",
        );
    }
}

fn check_weights(folder: &mut Folder, weights: &WeightFiles) {
    for shard in weights.shards() {
        if shard.metadata().get("format").map(String::as_str) != Some("pt") {
            let file = shard.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let found = shard.metadata().get("format").map_or("nothing".to_owned(), |found| format!("`{found}`"));
            let what = format!("its metadata say {found} as `format`");
            folder.error(Rule::WeightsFormat, &file, what, "write it with the metadata `{\"format\": \"pt\"}`");
        }
    }
    if let Json::Object(index) = folder.json(INDEX_FILE)
        && let Some(said) = index.get("metadata").and_then(|metadata| metadata["total_size"].as_u64())
        && said != weights.total_bytes()
    {
        let what = format!("`total_size` is {said}, and the tensors have {} bytes", weights.total_bytes());
        folder.error(Rule::IndexSize, INDEX_FILE, what, "export the model anew: files of two exports may lie here");
    }
    let config = folder.json(CONFIG_FILE).object();
    let tied = config.as_ref().and_then(|config| config.get("tie_word_embeddings")).and_then(Value::as_bool);
    if tied == Some(true) && weights.get(HEAD).is_some() {
        let what = format!("`{HEAD}` is stored, and `tie_word_embeddings` says that it is the embedding");
        let fix = "leave the tensor out, or set `tie_word_embeddings` to false";
        let level = if folder.target == crate::Target::Bedrock { Level::Error } else { Level::Warning };
        folder.note(Rule::TiedHead, level, CONFIG_FILE, what, fix);
    }
    // Where this program knows the architecture, it knows every tensor.
    if let Ok(config) = DecoderConfig::from_file(&folder.path.join(CONFIG_FILE)) {
        let mut faults = Vec::new();
        for spec in config.tensors() {
            match weights.get(&spec.name) {
                None => faults.push(format!("`{}` is missing", spec.name)),
                Some(tensor) if tensor.shape != spec.shape => {
                    faults.push(format!("`{}` is {:?} and not {:?}", spec.name, tensor.shape, spec.shape));
                }
                Some(_) => {}
            }
        }
        const SHOWN: usize = 5;
        let more = faults.len().saturating_sub(SHOWN);
        for fault in faults.into_iter().take(SHOWN) {
            let what = if more > 0 { format!("{fault} (and {more} more)") } else { fault };
            let fix = "take config.json and weights of one export";
            folder.error(Rule::WeightsIncomplete, CONFIG_FILE, what, fix);
        }
    }
}
