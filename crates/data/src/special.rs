//! The special tokens of a model folder, as its several files spell them.

use serde_json::{Map, Value};

use crate::model_files::TokenizerFiles;

/// Names of the special tokens, as chat templates and the tokenizer know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Fills a batch.
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
    /// Separates two texts.
    pub sep: Option<String>,
    /// Stands for the whole text.
    pub cls: Option<String>,
    /// Stands for what is to be guessed.
    pub mask: Option<String>,
    /// Further ones.
    pub additional: Vec<String>,
}

impl SpecialTokens {
    /// From `tokenizer_config.json` and, where that is silent, `special_tokens_map.json`.
    pub fn from_config(config: &Map<String, Value>, fallback: &Map<String, Value>) -> Self {
        let token =
            |name: &str| [config, fallback].iter().find_map(|file| file.get(name).and_then(spelled).map(str::to_owned));
        let additional = [config, fallback]
            .iter()
            .find_map(|file| file.get("additional_special_tokens").and_then(Value::as_array))
            .map(|list| list.iter().filter_map(spelled).map(str::to_owned).collect());
        Self {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            unk: token("unk_token"),
            sep: token("sep_token"),
            cls: token("cls_token"),
            mask: token("mask_token"),
            additional: additional.unwrap_or_default(),
        }
    }

    /// The variables that a template sees: transformers' `special_tokens_map`, in which what is not set is
    /// not there.
    pub(crate) fn named(&self) -> Vec<(&'static str, Value)> {
        let single = [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("unk_token", &self.unk),
            ("sep_token", &self.sep),
            ("pad_token", &self.pad),
            ("cls_token", &self.cls),
            ("mask_token", &self.mask),
        ];
        let mut named: Vec<(&'static str, Value)> =
            single.into_iter().filter_map(|(name, token)| Some((name, Value::from(token.as_deref()?)))).collect();
        if !self.additional.is_empty() {
            named.push(("additional_special_tokens", Value::from(self.additional.clone())));
        }
        named
    }
}

/// A token is a string or an object with its `content`.
fn spelled(token: &Value) -> Option<&str> {
    match token {
        Value::String(text) => Some(text),
        Value::Object(object) => object.get("content").and_then(Value::as_str),
        _ => None,
    }
}

/// The first end-of-text id of `generation_config.json` or `config.json`, for folders whose tokenizer does
/// not say.
pub(crate) fn eos_id_of_config(files: &TokenizerFiles) -> Option<u32> {
    ["generation_config.json", "config.json"].iter().find_map(|name| {
        let text = files.read(name).ok()??;
        let config: Map<String, Value> = serde_json::from_slice(&text).ok()?;
        let id = match config.get("eos_token_id")? {
            Value::Array(ids) => ids.first()?.as_u64(),
            id => id.as_u64(),
        };
        u32::try_from(id?).ok()
    })
}
