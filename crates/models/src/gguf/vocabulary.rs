//! A tokenizer's files as metadata: what `convert_hf_to_gguf.py` of llama.cpp writes for it. `tokenizer.rs` reads it back.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json};

use super::pieces;
use super::pre_tokenizer::PreTokenizer;
use super::spaces::SpacePrefix;
use super::tokenizer::{ENDS, Kind};
use super::write::{GgufMetadata, GgufValue};

/// What a model folder says of its tokenizer.
#[derive(Debug, Clone, Default)]
pub struct VocabularyFiles {
    /// `tokenizer.json`.
    pub tokenizer: Json,
    /// `tokenizer_config.json`; null where there is none.
    pub tokenizer_config: Json,
    /// `config.json`, for the ids of special tokens that the others do not name.
    pub config: Json,
    /// `generation_config.json`; null where there is none.
    pub generation_config: Json,
    /// The chat template that is to be used instead of the one in `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// Chats as that template renders them, for what llama.cpp has only one rule for.
    pub chats: Vec<String>,
}

/// A token of the file.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// The keys that begin with `tokenizer.`; or everything that GGUF cannot say. `rows` are those of the embedding table.
pub fn vocabulary(files: &VocabularyFiles, rows: usize) -> Result<GgufMetadata, Vec<String>> {
    let mut faults = Vec::new();
    let model = &files.tokenizer["model"];
    let tokens = tokens(files, rows, &mut faults);
    let mut metadata = Vec::new();
    let mut put = |key: &str, value: GgufValue| metadata.push((format!("tokenizer.{key}"), value));
    let text = |text: &str| GgufValue::Text(text.to_owned());
    let kind = model["type"].as_str().unwrap_or("missing");
    let byte_fallback = model["byte_fallback"] == true;
    let mut scores = None;
    let mut spaces = None;
    if kind != "BPE" {
        faults.push(format!("`model.type` is {kind}, which cannot be said in GGUF here: BPE is expected"));
    } else if byte_fallback {
        match SpacePrefix::of(&files.tokenizer, &files.chats) {
            Ok(found) => spaces = Some(found),
            Err(fault) => faults.push(fault),
        }
        match pieces::scores(files, &tokens) {
            Ok(found) => scores = Some(found),
            Err(fault) => faults.push(fault),
        }
        put("ggml.model", text("llama"));
        put("ggml.pre", text("default"));
    } else {
        let ignore_merges = model["ignore_merges"] == true;
        match PreTokenizer::name_of(&files.tokenizer["normalizer"], &files.tokenizer["pre_tokenizer"], ignore_merges) {
            Ok(name) => {
                put("ggml.model", text("gpt2"));
                put("ggml.pre", text(name));
            }
            Err(fault) => faults.push(fault),
        }
    }
    put("ggml.tokens", GgufValue::Texts(tokens.iter().map(|token| token.text.clone()).collect()));
    if let Some(scores) = scores {
        put("ggml.scores", GgufValue::F32s(scores));
    }
    put("ggml.token_type", GgufValue::I32s(tokens.iter().map(|token| token.kind.code()).collect()));
    if !byte_fallback {
        put("ggml.merges", GgufValue::Texts(merges(model, &mut faults)));
    }
    let ids = special_ids(files, &tokens);
    for (name, id) in &ids {
        let name = if *name == "pad" {
            "padding"
        } else if *name == "unk" {
            "unknown"
        } else {
            name
        };
        let name = if name == "sep" { "seperator" } else { name };
        put(&format!("ggml.{name}_token_id"), GgufValue::U32(*id));
    }
    for (name, id) in ["eot", "eom"].into_iter().zip(further_ends(files, &ids, &tokens)) {
        put(&format!("ggml.{name}_token_id"), GgufValue::U32(id));
    }
    let (bos, eos) = around(files, &ids, &mut faults);
    put("ggml.add_bos_token", GgufValue::Bool(bos));
    put("ggml.add_eos_token", GgufValue::Bool(eos));
    if let Some(SpacePrefix { added, .. }) = spaces {
        put("ggml.add_space_prefix", GgufValue::Bool(added));
    }
    let templates = templates(files);
    let named: Vec<&String> = templates.keys().filter(|name| *name != "default").collect();
    if !named.is_empty() {
        put("chat_templates", GgufValue::Texts(named.into_iter().cloned().collect()));
    }
    for (name, template) in &templates {
        let key = if name == "default" { "chat_template".to_owned() } else { format!("chat_template.{name}") };
        put(&key, text(template));
    }
    if faults.is_empty() { Ok(metadata) } else { Err(faults) }
}

/// Every row's token: fillers where there is none.
fn tokens(files: &VocabularyFiles, rows: usize, faults: &mut Vec<String>) -> Vec<Token> {
    let mut tokens: Vec<Token> = (0..rows).map(|id| Token { text: format!("[PAD{id}]"), kind: Kind::Unused }).collect();
    let model = &files.tokenizer["model"];
    let empty = Map::new();
    let vocab = model["vocab"].as_object().unwrap_or(&empty);
    if vocab.is_empty() {
        faults.push("tokenizer.json has no vocabulary: `model.vocab` is expected".to_owned());
    }
    let byte_fallback = model["byte_fallback"] == true;
    let unknown = model["unk_token"].as_str();
    let mut beyond = Vec::new();
    let mut place = |id: Option<u64>, token: Token| {
        let id = id.and_then(|id| usize::try_from(id).ok());
        match id.and_then(|id| tokens.get_mut(id)) {
            Some(place) => *place = token,
            None => beyond.push(token.text),
        }
    };
    for (text, id) in vocab {
        let kind = match text.as_str() {
            text if unknown == Some(text) && byte_fallback => Kind::Unknown,
            text if byte_fallback && is_byte(text) => Kind::Byte,
            _ => Kind::Normal,
        };
        place(id.as_u64(), Token { text: text.clone(), kind });
    }
    for added in files.tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str().unwrap_or_default();
        let set: Vec<&str> = ["single_word", "lstrip", "rstrip"].into_iter().filter(|key| added[key] == true).collect();
        if !set.is_empty() {
            faults.push(format!("the added token {text:?} has {}, which GGUF cannot say", set.join(" and ")));
        }
        let kind = match (unknown == Some(text) && byte_fallback, added["special"] == true || looks_special(text)) {
            (true, _) => Kind::Unknown,
            (false, true) => Kind::Control,
            (false, false) => Kind::UserDefined,
        };
        // What the text is cut at, with the spaces that text has.
        let text = if kind == Kind::UserDefined { text.replace(pieces::SPACE, " ") } else { text.to_owned() };
        place(added["id"].as_u64(), Token { text, kind });
    }
    if let Some(first) = beyond.first() {
        faults.push(format!(
            "{} tokens have no row in the embedding table, which has {rows}: {first:?} is the first",
            beyond.len()
        ));
    }
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert(&token.text, id) {
            faults.push(format!("the tokens {first} and {id} are both {:?}", token.text));
        }
    }
    tokens
}

/// `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// `does_token_look_special` of llama.cpp's converter: tokens that some models forgot to mark.
fn looks_special(text: &str) -> bool {
    let within = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

fn merges(model: &Json, faults: &mut Vec<String>) -> Vec<String> {
    let list = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut merges = Vec::with_capacity(list.len());
    for (place, merge) in list.iter().enumerate() {
        let spaced = |part: &str| part.replace(' ', "\u{120}");
        match (merge.as_str(), merge[0].as_str(), merge[1].as_str()) {
            (Some(line), _, _) => merges.push(line.to_owned()),
            (None, Some(left), Some(right)) => merges.push(format!("{} {}", spaced(left), spaced(right))),
            _ => {
                faults.push(format!("`model.merges` has {merge} at place {place}: two tokens are expected"));
                return merges;
            }
        }
    }
    merges
}

/// The special tokens' ids: as `tokenizer_config.json` names them, else as `config.json` does.
fn special_ids(files: &VocabularyFiles, tokens: &[Token]) -> BTreeMap<&'static str, u32> {
    let added = files.tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let vocab = &files.tokenizer["model"]["vocab"];
    let mut ids = BTreeMap::new();
    for name in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"] {
        let named = &files.tokenizer_config[format!("{name}_token")];
        let text = named.as_str().or_else(|| named["content"].as_str());
        let of_text = text.and_then(|text| {
            let added = added.iter().find(|token| token["content"] == text).and_then(|token| token["id"].as_u64());
            added.or_else(|| vocab[text].as_u64())
        });
        let id = of_text.or_else(|| files.config[format!("{name}_token_id")].as_u64());
        if let Some(id) = id.filter(|id| *id < tokens.len() as u64) {
            ids.insert(name, id as u32);
        }
    }
    ids
}

/// Tokens that end a generation, beside those that llama.cpp knows by their text.
fn further_ends(files: &VocabularyFiles, ids: &BTreeMap<&str, u32>, tokens: &[Token]) -> Vec<u32> {
    let listed = |json: &Json| -> Vec<u64> {
        let one = json["eos_token_id"].as_u64();
        let several = json["eos_token_id"].as_array().into_iter().flatten().filter_map(Json::as_u64);
        one.into_iter().chain(several).collect()
    };
    let mut seen = HashSet::new();
    let all = listed(&files.generation_config).into_iter().chain(listed(&files.config));
    all.filter(|id| seen.insert(*id))
        .filter_map(|id| u32::try_from(id).ok())
        .filter(|id| ids.get("eos") != Some(id))
        .filter(|id| tokens.get(*id as usize).is_some_and(|token| !ENDS.contains(&token.text.as_str())))
        .collect()
}

/// Whether a text is put between BOS and EOS.
fn around(files: &VocabularyFiles, ids: &BTreeMap<&str, u32>, faults: &mut Vec<String>) -> (bool, bool) {
    let post = &files.tokenizer["post_processor"];
    let parts = post["processors"].as_array().cloned().unwrap_or_else(|| vec![post.clone()]);
    let template = parts.iter().find(|part| part["type"] == "TemplateProcessing");
    let Some(single) = template.and_then(|template| template["single"].as_array()) else {
        // `tokenizer_config.json` counts where tokenizer.json does not say.
        let by_level = parts.iter().any(|part| part["type"] == "ByteLevel");
        let says = |key: &str| !by_level && files.tokenizer_config[key] == true;
        return (says("add_bos_token"), says("add_eos_token"));
    };
    let at = single.iter().position(|part| part.get("Sequence").is_some()).unwrap_or(0);
    let named = |part: &Json| part["SpecialToken"]["id"].as_str().unwrap_or_default().to_owned();
    let (before, after) = (&single[..at], single.get(at + 1..).unwrap_or_default());
    let id_of = |text: &str| {
        let special = &template.map_or(&Json::Null, |template| &template["special_tokens"])[text]["ids"];
        special[0].as_u64().filter(|_| special.as_array().is_some_and(|ids| ids.len() == 1))
    };
    let mut only = |parts: &[Json], name: &str, place: &str| match parts {
        [] => false,
        [one] if id_of(&named(one)) == ids.get(name).map(|id| u64::from(*id)) && ids.contains_key(name) => true,
        others => {
            let texts: Vec<String> = others.iter().map(named).collect();
            faults.push(format!(
                "a text has {} {place} it, and llama.cpp puts only the {name} token there",
                texts.join(" and ")
            ));
            false
        }
    };
    (only(before, "bos", "before"), only(after, "eos", "after"))
}

/// The chat templates by name.
fn templates(files: &VocabularyFiles) -> BTreeMap<String, String> {
    let mut templates = BTreeMap::new();
    match &files.tokenizer_config["chat_template"] {
        Json::String(template) => {
            templates.insert("default".to_owned(), template.clone());
        }
        Json::Array(several) => {
            for entry in several {
                if let (Some(name), Some(template)) = (entry["name"].as_str(), entry["template"].as_str()) {
                    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
                    templates.insert(name.chars().map(plain).collect(), template.to_owned());
                }
            }
        }
        _ => {}
    }
    if let Some(template) = &files.chat_template {
        templates.insert("default".to_owned(), template.clone());
    }
    templates
}

#[cfg(test)]
#[path = "vocabulary_tests.rs"]
mod tests;
