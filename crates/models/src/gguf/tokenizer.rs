//! The metadata's tokenizer as `tokenizer.json` and `tokenizer_config.json`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use super::merges::merges;
use super::metadata::{Keys, Metadata, Value};
use super::pieces::SPACE;
use super::pre_tokenizer::{PreTokenizer, byte_level};

/// Tokens that end a turn or a text in the models that have them, beside the one that the metadata name: as llama.cpp
/// does it, since the metadata of many files name only one of two.
pub(super) const ENDS: [&str; 7] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"];

/// A tokenizer whose parts fit together.
#[derive(Debug)]
pub(super) struct Tokenizer<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
    model: Model<'a>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    /// Further tokens that the metadata name as ends of a turn.
    ends: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    context: Option<u64>,
    templates: Vec<(&'a str, &'a str)>,
}

#[derive(Debug)]
enum Model<'a> {
    /// Byte-level BPE.
    Bpe { merges: Vec<(&'a str, &'a str)>, cuts: PreTokenizer },
    /// SentencePiece's BPE with bytes for what the vocabulary lacks.
    SentencePiece { scores: Vec<f32>, space_prefix: bool },
}

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    pub(super) fn code(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

impl<'a> Tokenizer<'a> {
    /// Reads the metadata; `None` where there is no tokenizer in them. Or everything that is wrong.
    pub(super) fn read(metadata: &'a Metadata) -> Result<Option<Self>, Vec<String>> {
        let mut keys = Keys::new(metadata);
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let Some(model) = keys.text(&key("model")) else {
            return if keys.faults.is_empty() { Ok(None) } else { Err(keys.faults) };
        };
        if !matches!(model, "gpt2" | "llama") {
            return Err(vec![format!(
                "`tokenizer.ggml.model` is `{model}`, which is not supported: gpt2 (byte-level BPE) or llama \
                 (SentencePiece) is expected"
            )]);
        }
        keys.missing(&key("tokens"), "a list of texts");
        let tokens = keys.list(&key("tokens"), "a text", Value::as_str).unwrap_or_default();
        let count = tokens.len();
        refuse_doubles(&mut keys, &tokens);
        let kinds = match keys.list(&key("token_type"), "a type from 1 to 6", |value| Kind::from_code(value.as_i64()?))
        {
            Some(kinds) => {
                same_length(&mut keys, "token_type", kinds.len(), count);
                kinds
            }
            None => vec![Kind::Normal; count],
        };
        let model = if model == "gpt2" { bpe(&mut keys, &tokens) } else { sentence_piece(&mut keys, count) };
        let mut id = |name: &str| {
            let id = keys.number(&key(name))?;
            match u32::try_from(id).ok().filter(|id| (*id as usize) < count) {
                Some(id) => Some(id),
                None => {
                    keys.fault(format!("`{}` is {id}, and there are {count} tokens", key(name)));
                    None
                }
            }
        };
        let (bos, eos, pad, unk) =
            (id("bos_token_id"), id("eos_token_id"), id("padding_token_id"), id("unknown_token_id"));
        let ends = ["eot_token_id", "eom_token_id"].into_iter().filter_map(&mut id).collect();
        let usual_bos = match &model {
            Some(Model::Bpe { cuts, .. }) => cuts.add_bos,
            _ => true,
        };
        let add_bos = keys.flag(&key("add_bos_token")).unwrap_or(usual_bos);
        let add_eos = keys.flag(&key("add_eos_token")).unwrap_or(false);
        let templates = templates(&mut keys, metadata);
        let architecture = metadata.text("general.architecture").unwrap_or_default();
        let context = metadata.number(&format!("{architecture}.context_length"));
        match model {
            Some(model) if keys.faults.is_empty() && kinds.len() == count => {
                Ok(Some(Self { tokens, kinds, model, bos, eos, pad, unk, ends, add_bos, add_eos, context, templates }))
            }
            _ => Err(keys.faults),
        }
    }

    pub(super) fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    pub(super) fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// The tokens that end a generation, the one of the metadata first.
    pub(super) fn end_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.eos.iter().chain(&self.ends).copied().collect();
        let special = |id: &u32| self.kinds.get(*id as usize).is_some_and(|kind| *kind == Kind::Control);
        let named = |id: &u32| self.tokens.get(*id as usize).is_some_and(|token| ENDS.contains(token));
        ids.extend((0..self.tokens.len() as u32).filter(|id| special(id) && named(id)));
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        ids
    }

    /// `tokenizer.json`.
    pub(super) fn json(&self) -> Json {
        let (normalizer, pre_tokenizer, decoder, model) = match &self.model {
            Model::Bpe { merges, cuts } => {
                let merges: Vec<[&str; 2]> = merges.iter().map(|(left, right)| [*left, *right]).collect();
                let model = self.bpe_model(json!(merges), json!({"ignore_merges": cuts.ignore_merges}));
                (cuts.normalizer.clone(), cuts.pre_tokenizer.clone(), byte_level(true), model)
            }
            Model::SentencePiece { scores, space_prefix } => {
                let pieces: Vec<(&str, f32)> = self.tokens.iter().copied().zip(scores.iter().copied()).collect();
                let control = self.with_kinds(&[Kind::Control, Kind::Unknown]);
                let skipped: HashSet<&str> = control.map(|(_, token)| token).collect();
                let merges: Vec<[&str; 2]> = merges(&pieces, &skipped).into_iter().map(|(l, r)| [l, r]).collect();
                let unk = self.unk.map(|id| self.tokens[id as usize]);
                let settings = json!({"unk_token": unk, "fuse_unk": true, "byte_fallback": true});
                let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
                let mut normalizers = vec![replace];
                let mut decoders = vec![
                    json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if *space_prefix {
                    normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
                let decoder = json!({"type": "Sequence", "decoders": decoders});
                (normalizer, Json::Null, decoder, self.bpe_model(json!(merges), settings))
            }
        };
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": decoder,
            "model": model,
        })
    }

    /// `tokenizer_config.json`.
    pub(super) fn config(&self) -> Json {
        let mut config = Map::new();
        let mut put = |key: &str, value: Json| config.insert(key.to_owned(), value);
        // Takes tokenizer.json as it is, where the classes of single families would build parts of their own.
        put("tokenizer_class", "PreTrainedTokenizerFast".into());
        for (key, id) in
            [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad), ("unk_token", self.unk)]
        {
            if let Some(id) = id {
                put(key, self.tokens[id as usize].into());
            }
        }
        put("add_bos_token", self.add_bos.into());
        put("add_eos_token", self.add_eos.into());
        put("clean_up_tokenization_spaces", false.into());
        if let Some(context) = self.context {
            put("model_max_length", context.into());
        }
        match self.templates.as_slice() {
            [] => {}
            [("default", only)] => {
                put("chat_template", (*only).into());
            }
            several => {
                let list = several.iter().map(|(name, template)| json!({"name": name, "template": template}));
                put("chat_template", list.collect());
            }
        }
        Json::Object(config)
    }

    fn bpe_model(&self, merges: Json, settings: Json) -> Json {
        // Fillers for a vocabulary that is shorter than the embedding table are no tokens.
        let used = self.tokens.iter().enumerate().filter(|(id, _)| self.kinds[*id] != Kind::Unused);
        let vocab: Map<String, Json> = used.map(|(id, token)| ((*token).to_owned(), id.into())).collect();
        let mut model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        });
        if let (Some(model), Json::Object(settings)) = (model.as_object_mut(), settings) {
            model.extend(settings);
        }
        model
    }

    fn added_tokens(&self) -> Json {
        let added = self.with_kinds(&[Kind::Control, Kind::Unknown, Kind::UserDefined]);
        let entry = |(id, token): (usize, &str)| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": self.kinds[id] != Kind::UserDefined,
            })
        };
        added.filter(|(_, token)| !token.is_empty()).map(entry).collect()
    }

    /// What is put around a text.
    fn post_processor(&self) -> Json {
        let before = self.bos.filter(|_| self.add_bos);
        let after = self.eos.filter(|_| self.add_eos);
        let special =
            |id: u32, type_id: u32| json!({"SpecialToken": {"id": self.tokens[id as usize], "type_id": type_id}});
        let around = |type_id: u32, name: &str| -> Vec<Json> {
            let text = json!({"Sequence": {"id": name, "type_id": type_id}});
            let before = before.map(|id| special(id, type_id));
            before.into_iter().chain([text]).chain(after.map(|id| special(id, type_id))).collect()
        };
        let specials: Map<String, Json> = before
            .into_iter()
            .chain(after)
            .map(|id| {
                let token = self.tokens[id as usize];
                (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}))
            })
            .collect();
        let pair = [around(0, "A"), around(1, "B")].concat();
        let template = json!({
            "type": "TemplateProcessing",
            "single": around(0, "A"),
            "pair": pair,
            "special_tokens": specials,
        });
        if specials.is_empty() { Json::Null } else { template }
    }

    fn with_kinds(&self, kinds: &'static [Kind]) -> impl Iterator<Item = (usize, &'a str)> {
        let tokens = self.tokens.iter().copied().enumerate();
        tokens.filter(move |(id, _)| self.kinds.get(*id).is_some_and(|kind| kinds.contains(kind)))
    }
}

fn bpe<'a>(keys: &mut Keys<'a>, tokens: &[&str]) -> Option<Model<'a>> {
    let cuts = PreTokenizer::of(keys.text("tokenizer.ggml.pre"));
    let key = "tokenizer.ggml.merges";
    keys.missing(key, "a list of texts");
    let lines = keys.list(key, "a text", Value::as_str)?;
    let known: HashSet<&str> = tokens.iter().copied().collect();
    let mut merges = Vec::with_capacity(lines.len());
    for (index, line) in lines.into_iter().enumerate() {
        // The first space divides; a byte-level token has none of its own.
        let pair = line.split_once(' ').filter(|(left, right)| {
            !left.is_empty()
                && known.contains(left)
                && known.contains(right)
                && known.contains([*left, *right].concat().as_str())
        });
        match pair {
            Some(pair) => merges.push(pair),
            None => {
                keys.fault(format!("`{key}` has {line:?} at place {index}: two tokens that make a third are expected"));
                return None;
            }
        }
    }
    match cuts {
        Ok(cuts) => Some(Model::Bpe { merges, cuts }),
        Err(fault) => {
            keys.fault(fault);
            None
        }
    }
}

fn sentence_piece<'a>(keys: &mut Keys<'a>, count: usize) -> Option<Model<'a>> {
    let key = "tokenizer.ggml.scores";
    keys.missing(key, "a list of numbers");
    let scores = keys.list(key, "a number", |value| value.as_f64().map(|score| score as f32))?;
    same_length(keys, "scores", scores.len(), count);
    let space_prefix = keys.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    Some(Model::SentencePiece { scores, space_prefix })
}

fn same_length(keys: &mut Keys<'_>, name: &str, found: usize, expected: usize) {
    if found != expected {
        keys.fault(format!("`tokenizer.ggml.{name}` has {found} values for {expected} tokens"));
    }
}

/// Two tokens of one spelling would lose one of their ids.
fn refuse_doubles(keys: &mut Keys<'_>, tokens: &[&str]) {
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert(token, id) {
            keys.fault(format!("`tokenizer.ggml.tokens` has {token:?} twice, at places {first} and {id}"));
            return;
        }
    }
}

/// The chat templates by name: `default` first.
fn templates<'a>(keys: &mut Keys<'a>, metadata: &'a Metadata) -> Vec<(&'a str, &'a str)> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates: Vec<(&str, &str)> = keys.text(KEY).map(|text| ("default", text)).into_iter().collect();
    let named: Vec<&str> = metadata.keys().filter(|key| key.starts_with("tokenizer.chat_template.")).collect();
    for key in named {
        let name = &key[KEY.len() + 1..];
        templates.extend(keys.text(key).map(|text| (name, text)));
    }
    templates
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
