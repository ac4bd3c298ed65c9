//! The small files of a model as transformers 4.51.3 spells them, which Bedrock reads with. It passes over the spellings
//! of transformers 5 without a word: a rotary base would be 10,000, and the model wrong.

use std::collections::BTreeSet;
use std::path::Path;

use rankine_models::companions::{CONFIG_FILE, Companions, GENERATION_FILE, TOKENIZER_FILES as FILES};
use rankine_models::config::DecoderConfig;
use rankine_models::weights::{StoredDtype, write_aside};
use serde_json::{Map, Value, json};

use crate::ExportInputs;
use crate::base::parse;
use crate::chat_template::chat_template;
use crate::error::ExportError;

/// The version.
pub(crate) const VERSION: &str = "4.51.3";
/// What `tokenizer_class` may be, with `Tokenizer` or `TokenizerFast` behind it.
pub(crate) const TOKENIZERS: [&str; 7] = ["T5", "Llama", "CodeLlama", "GPT2", "GPTNeoX", "PreTrained", "Qwen2"];
/// The one that takes `tokenizer.json` as it is.
const PLAIN_TOKENIZER: &str = "PreTrainedTokenizerFast";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// Those of `special_tokens_map.json` that are one token each.
const TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Writes `config.json`, `generation_config.json` and the tokenizer's files.
pub(crate) fn write(
    inputs: &ExportInputs<'_>,
    mut fields: Map<String, Value>,
    dtype: StoredDtype,
    folder: &Path,
) -> Result<(), ExportError> {
    respell_config(&mut fields, dtype);
    let file = folder.join(CONFIG_FILE);
    write_json(&file, &Value::Object(fields.clone()))?;
    refuse_another_model(inputs.base, &file)?;
    write_generation_config(inputs, &fields, folder)?;
    write_tokenizer(inputs, folder)
}

/// `config.json` in the older spelling.
pub(crate) fn respell_config(fields: &mut Map<String, Value>, dtype: StoredDtype) {
    if let Some(Value::Object(mut rope)) = fields.shift_remove("rope_parameters") {
        if let Some(theta) = rope.shift_remove("rope_theta") {
            fields.insert("rope_theta".to_owned(), theta);
        }
        let plain = rope.get("rope_type").is_none_or(|kind| kind == "default");
        fields.insert("rope_scaling".to_owned(), if plain { Value::Null } else { Value::Object(rope) });
    }
    fields.shift_remove("dtype");
    fields.insert("torch_dtype".to_owned(), dtype.torch_name().into());
    // Known to later versions only; what it says is in `sliding_window` and its neighbours, or it is refused below.
    fields.shift_remove("layer_types");
    if fields.get("architectures").is_none_or(Value::is_null)
        && let Some(class) = fields.get("model_type").and_then(Value::as_str).and_then(class_of)
    {
        fields.insert("architectures".to_owned(), json!([class]));
    }
    fields.insert("transformers_version".to_owned(), VERSION.into());
}

/// The class of a family, where `architectures` is left out.
fn class_of(model_type: &str) -> Option<&'static str> {
    match model_type {
        "llama" => Some("LlamaForCausalLM"),
        "mistral" => Some("MistralForCausalLM"),
        "mixtral" => Some("MixtralForCausalLM"),
        "qwen2" => Some("Qwen2ForCausalLM"),
        "qwen3" => Some("Qwen3ForCausalLM"),
        _ => None,
    }
}

/// Reads both configurations and compares what they mean, where this program knows the family.
fn refuse_another_model(base: &Path, written: &Path) -> Result<(), ExportError> {
    let (Ok(before), Ok(after)) = (DecoderConfig::from_folder(base), DecoderConfig::from_file(written)) else {
        return Ok(());
    };
    let reason = |what: &str| {
        let reason = format!("the base's {what} cannot be said in the spelling of transformers {VERSION}");
        Err(ExportError::Spelling { file: base.join(CONFIG_FILE), reason })
    };
    if before.rope != after.rope {
        return reason("rotary positions");
    }
    if before.sliding_window != after.sliding_window {
        return reason("attention windows (`layer_types`)");
    }
    let tokens =
        DecoderConfig { vocab_size: before.vocab_size, tie_word_embeddings: before.tie_word_embeddings, ..after };
    if before == tokens { Ok(()) } else { reason("shape") }
}

/// The base's settings, or what `config.json` says of the tokens that begin and end a text.
fn write_generation_config(
    inputs: &ExportInputs<'_>,
    config: &Map<String, Value>,
    folder: &Path,
) -> Result<(), ExportError> {
    let file = folder.join(GENERATION_FILE);
    let mut settings = match Companions::of(inputs.base)?.read(GENERATION_FILE)? {
        Some(text) => parse(&text, inputs.base.join(GENERATION_FILE))?,
        None => Map::from_iter([("_from_model_config".to_owned(), Value::Bool(true))]),
    };
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            settings.entry(key).or_insert_with(|| id.clone());
        }
    }
    if config.get("model_type").is_some_and(|kind| kind == "gpt_oss") {
        // The ends of a turn; with fewer, an answer never stops.
        settings.insert("eos_token_id".to_owned(), json!([200_002, 199_999, 200_012]));
    }
    settings.insert("transformers_version".to_owned(), VERSION.into());
    write_json(&file, &Value::Object(settings))
}

fn write_tokenizer(inputs: &ExportInputs<'_>, folder: &Path) -> Result<(), ExportError> {
    let place = inputs.tokenizer.unwrap_or(inputs.base);
    let from = Companions::of(place)?;
    let read = |name: &str| read_fields(&from, place, name);
    for name in FILES.into_iter().filter(|name| ![TOKENIZER_CONFIG, SPECIAL_TOKENS].contains(name)) {
        if let Some(bytes) = from.read(name)? {
            write_aside(&folder.join(name), &bytes)?;
        }
    }
    let mut config = read(TOKENIZER_CONFIG)?.unwrap_or_default();
    let has_json = folder.join("tokenizer.json").is_file();
    respell_tokenizer(&mut config, has_json);
    match chat_template(inputs)? {
        Some(template) => config.insert("chat_template".to_owned(), template.into()),
        None => config.shift_remove("chat_template"),
    };
    write_json(&folder.join(SPECIAL_TOKENS), &special_tokens(read(SPECIAL_TOKENS)?, &config))?;
    write_json(&folder.join(TOKENIZER_CONFIG), &Value::Object(config))
}

/// `tokenizer_config.json` in the older spelling.
fn respell_tokenizer(config: &mut Map<String, Value>, has_json: bool) {
    if let Some(Value::Array(_)) = config.get("extra_special_tokens")
        && let Some(tokens) = config.shift_remove("extra_special_tokens")
    {
        config.entry("additional_special_tokens").or_insert(tokens);
    }
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let known = TOKENIZERS.iter().any(|name| class.strip_prefix(name).is_some_and(is_ending));
    // Without tokenizer.json the class must know how to read the vocabulary; the rules then say what is wrong with it.
    if !known && has_json {
        config.insert("tokenizer_class".to_owned(), PLAIN_TOKENIZER.into());
    }
}

fn is_ending(text: &str) -> bool {
    ["Tokenizer", "TokenizerFast"].contains(&text)
}

/// Whether Bedrock takes the class.
pub(crate) fn is_allowed_tokenizer(class: &str) -> bool {
    TOKENIZERS.iter().any(|name| class.strip_prefix(name).is_some_and(is_ending))
}

/// The fields of a JSON file; `None` where there is none.
fn read_fields(from: &Companions, place: &Path, name: &str) -> Result<Option<Map<String, Value>>, ExportError> {
    from.read(name)?.map(|text| parse(&text, place.join(name))).transpose()
}

/// `special_tokens_map.json` from what there was and what `tokenizer_config.json` says, the latter first.
fn special_tokens(stored: Option<Map<String, Value>>, config: &Map<String, Value>) -> Value {
    let mut map = Map::new();
    let stored = stored.unwrap_or_default();
    for name in TOKEN_NAMES.into_iter().chain(["additional_special_tokens"]) {
        let token = config.get(name).filter(|token| !token.is_null()).or_else(|| stored.get(name));
        if let Some(token) = token.filter(|token| !token.is_null()) {
            map.insert(name.to_owned(), token.clone());
        }
    }
    // A list goes by its older name here, too.
    if let Some(tokens @ Value::Array(_)) = stored.get("extra_special_tokens") {
        map.entry("additional_special_tokens").or_insert_with(|| tokens.clone());
    }
    Value::Object(map)
}

fn write_json(file: &Path, value: &Value) -> Result<(), ExportError> {
    Ok(write_aside(file, format!("{value:#}\n").as_bytes())?)
}

/// Keys of `config.json` that only later versions know, though they change what is computed.
pub(crate) fn later_spellings(fields: &Map<String, Value>) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    if fields.get("rope_parameters").is_some_and(|value| !value.is_null()) {
        found.insert("rope_parameters");
    }
    if fields.contains_key("dtype") && !fields.contains_key("torch_dtype") {
        found.insert("dtype");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("an object") };
        map
    }

    #[test]
    fn rotary_positions_and_types_are_respelled() {
        let mut fields = object(json!({
            "model_type": "llama", "dtype": "float32", "layer_types": ["full_attention"],
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0},
        }));
        respell_config(&mut fields, StoredDtype::BF16);
        assert_eq!(
            Value::Object(fields),
            json!({
                "model_type": "llama", "rope_theta": 500000.0,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
                "torch_dtype": "bfloat16", "architectures": ["LlamaForCausalLM"], "transformers_version": "4.51.3",
            })
        );
        let mut fields =
            object(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "architectures": ["X"]}));
        respell_config(&mut fields, StoredDtype::F32);
        assert_eq!((&fields["rope_theta"], &fields["rope_scaling"]), (&json!(1e6), &Value::Null));
        assert_eq!(fields["architectures"], json!(["X"]));
        assert!(later_spellings(&fields).is_empty());
    }

    #[test]
    fn tokenizers_keep_their_class_where_bedrock_has_it() {
        let class = |name: &str, has_json| {
            let mut config = object(json!({"tokenizer_class": name, "extra_special_tokens": ["<a>"]}));
            respell_tokenizer(&mut config, has_json);
            assert_eq!(config["additional_special_tokens"], json!(["<a>"]));
            assert!(!config.contains_key("extra_special_tokens"));
            config["tokenizer_class"].as_str().unwrap().to_owned()
        };
        assert_eq!(class("GPT2Tokenizer", true), "GPT2Tokenizer");
        assert_eq!(class("Qwen2TokenizerFast", true), "Qwen2TokenizerFast");
        assert_eq!(class("TokenizersBackend", true), PLAIN_TOKENIZER);
        assert_eq!(class("GemmaTokenizer", true), PLAIN_TOKENIZER);
        assert_eq!(class("GemmaTokenizer", false), "GemmaTokenizer");
        assert!(
            !is_allowed_tokenizer("Llama4Tokenizer")
                && !is_allowed_tokenizer("")
                && is_allowed_tokenizer(PLAIN_TOKENIZER)
        );
    }

    #[test]
    fn special_tokens_are_gathered() {
        let config = object(json!({"eos_token": "</s>", "pad_token": null}));
        let stored =
            object(json!({"eos_token": "old", "pad_token": {"content": "<p>"}, "extra_special_tokens": ["<x>"]}));
        assert_eq!(
            special_tokens(Some(stored), &config),
            json!({"eos_token": "</s>", "pad_token": {"content": "<p>"}, "additional_special_tokens": ["<x>"]})
        );
    }
}
