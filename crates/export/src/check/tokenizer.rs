//! Rules of the tokenizer and the chat template.

use rankine_models::companions::{CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILES};
use serde_json::Value;

use super::finding::Rule;
use super::folder::{Folder, Json};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

pub(super) fn check(folder: &mut Folder) {
    if !folder.has(TOKENIZER) && !folder.has("tokenizer.model") {
        let what = "there is no tokenizer";
        let fix = "copy the base's tokenizer.json and tokenizer_config.json";
        folder.note(Rule::TokenizerMissing, folder.served_level(), TOKENIZER, what, fix);
    }
    for name in [TOKENIZER, TOKENIZER_CONFIG, GENERATION_FILE, "special_tokens_map.json"] {
        if let Json::Invalid(reason) = folder.json(name) {
            let what = format!("not a JSON object: {reason}");
            folder.error(Rule::TokenizerInvalid, name, what, "copy the base's file");
        }
    }
    let rows = folder.json(CONFIG_FILE).object().and_then(|config| config.get("vocab_size")?.as_u64());
    if let Some(rows) = rows {
        check_vocabulary(folder, rows);
        check_stop_tokens(folder, rows);
    }
    check_template(folder);
}

fn check_vocabulary(folder: &mut Folder, rows: u64) {
    let Json::Object(tokenizer) = folder.json(TOKENIZER) else { return };
    let vocabulary = match tokenizer.get("model").map(|model| &model["vocab"]) {
        Some(Value::Object(tokens)) => tokens.values().filter_map(Value::as_u64).max(),
        Some(Value::Array(tokens)) => (tokens.len() as u64).checked_sub(1),
        _ => None,
    };
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let highest = added.filter_map(|token| token["id"].as_u64()).chain(vocabulary).max();
    if let Some(highest) = highest.filter(|highest| *highest >= rows) {
        let what = format!("it makes tokens up to {highest}, and the model has {rows} (`vocab_size` of config.json)");
        folder.error(Rule::TokenizerTooLarge, TOKENIZER, what, "take the tokenizer that the model was trained with");
    }
}

fn check_stop_tokens(folder: &mut Folder, rows: u64) {
    for name in [GENERATION_FILE, CONFIG_FILE] {
        let Json::Object(fields) = folder.json(name) else { continue };
        let ids: Vec<u64> = match fields.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect(),
            None => Vec::new(),
        };
        if let Some(id) = ids.into_iter().find(|id| *id >= rows) {
            let what = format!("`eos_token_id` {id} is no token of the model, which has {rows}");
            folder.error(Rule::StopToken, name, what, "take the id of the tokenizer's end-of-text token");
        }
    }
}

fn check_template(folder: &mut Folder) {
    let config = folder.json(TOKENIZER_CONFIG).object();
    let embedded = config.is_some_and(|config| config.get("chat_template").is_some_and(|value| !value.is_null()));
    let beside: Vec<&str> = TEMPLATE_FILES.into_iter().filter(|name| folder.has(name)).collect();
    match (embedded, beside.as_slice()) {
        (false, []) => {
            let what = "there is no chat template: the model takes plain text only";
            let fix = "nothing, if that is meant; else put `chat_template` into tokenizer_config.json";
            folder.warn(Rule::TemplateMissing, TOKENIZER_CONFIG, what, fix);
        }
        (true, [file, ..]) => {
            let file = (*file).to_owned();
            let what = "it overrides the template in tokenizer_config.json";
            folder.note(Rule::TemplateTwice, folder.served_level(), &file, what, "keep one of the two");
        }
        (false, [file, _, ..]) => {
            let file = (*file).to_owned();
            let what = format!("there is also {}", beside[1]);
            folder.note(Rule::TemplateTwice, folder.served_level(), &file, what, "keep one of the two");
        }
        _ => {}
    }
}
