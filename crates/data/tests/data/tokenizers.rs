//! Model folders: which files are read, in which order, and what is said when they are missing.

use rankine_data::{TextTokenizer, TrainOn};
use serde_json::{Value, json};

use crate::fixtures::{CHATML, golden, model_folder, tokenized, tokenizer_with_bos, write};

fn open(folder: &tempfile::TempDir) -> TextTokenizer {
    TextTokenizer::from_folder(folder.path(), None).unwrap()
}

fn source(tokenizer: &TextTokenizer) -> Option<&str> {
    tokenizer.chat_template().map(rankine_data::ChatTemplate::source)
}

#[test]
fn special_tokens_are_read_as_strings_and_as_objects() {
    let folder = model_folder(&json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": null}));
    write(folder.path(), "special_tokens_map.json", "{\"pad_token\": \"<|endoftext|>\", \"eos_token\": \"</s>\"}");
    let tokenizer = open(&folder);
    assert_eq!(tokenizer.special_tokens().bos.as_deref(), Some("<s>"));
    assert_eq!(tokenizer.bos_id(), tokenizer.inner().token_to_id("<s>"));
    assert_eq!(tokenizer.eos_id(), tokenizer.inner().token_to_id("</s>"));
    assert_eq!(tokenizer.pad_id(), tokenizer.inner().token_to_id("<|endoftext|>"));
    assert_eq!(tokenizer.vocab_size(), 500);
}

#[test]
fn the_end_of_text_may_be_known_to_the_model_only() {
    let folder = model_folder(&json!({}));
    assert_eq!(open(&folder).eos_id(), None);
    let id = open(&folder).inner().token_to_id("<|im_end|>").unwrap();
    write(folder.path(), "config.json", "{\"eos_token_id\": 0}");
    write(folder.path(), "generation_config.json", &json!({"eos_token_id": [id, 0]}).to_string());
    let tokenizer = open(&folder);
    assert_eq!(tokenizer.eos_id(), Some(id));
    assert_eq!(tokenizer.special_tokens().eos.as_deref(), Some("<|im_end|>"));
}

#[test]
fn templates_are_found_in_the_order_of_transformers() {
    let folder = model_folder(&json!({}));
    assert_eq!(source(&open(&folder)), None);
    let folder = model_folder(&json!({"chat_template": [
        {"name": "default", "template": "{{ 'd' }}"}, {"name": "tool_use", "template": "{{ 't' }}"}]}));
    let tokenizer = open(&folder);
    assert_eq!(source(&tokenizer), Some("{{ 'd' }}"));
    assert_eq!(tokenizer.tool_template().unwrap().source(), "{{ 't' }}");
    write(folder.path(), "chat_template.jinja", "{{ 'file' }}");
    assert_eq!(source(&open(&folder)), Some("{{ 'file' }}"));

    let chosen = |chosen: &str| TextTokenizer::from_folder(folder.path(), Some(chosen));
    assert_eq!(source(&chosen("{{ 'text' }}").unwrap()), Some("{{ 'text' }}"));
    write(folder.path(), "other.jinja", "{{ 'other' }}");
    let path = folder.path().join("other.jinja");
    assert_eq!(source(&chosen(path.to_str().unwrap()).unwrap()), Some("{{ 'other' }}"));
    let rendered = chosen("chatml").unwrap();
    let rendered = rendered.chat_template().unwrap();
    let text = rendered.render(&[json!({"role": "user", "content": "Hi"})], None, true, &serde_json::Map::new());
    assert_eq!(text.unwrap().text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    let error = chosen("missing.jinja").unwrap_err().to_string();
    assert!(error.contains("missing.jinja: `chat_template` is neither a template nor a file"), "{error}");
    let error = chosen("{% if %}").unwrap_err().to_string();
    assert!(error.contains("the chat template cannot be read at its line 1: syntax error"), "{error}");
}

#[test]
fn limits_in_the_file_do_not_cut_or_fill_texts() {
    let folder = model_folder(&json!({}));
    let path = folder.path().join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = open(&folder);
    let text = "The quick brown fox jumps over the lazy dog";
    let encoded = tokenizer.encode(text, false).unwrap();
    assert!(encoded.ids.len() > 3 && encoded.ids.len() < 50);
    assert_eq!(encoded.ids.len(), encoded.offsets.len());
    assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text);
}

#[test]
fn special_tokens_in_a_text_are_those_tokens_and_offsets_are_bytes() {
    let tokenizer = tokenizer_with_bos("");
    let text = "é</s>x";
    let encoded = tokenizer.encode(text, true).unwrap();
    assert_eq!(encoded.ids.first().copied(), tokenizer.bos_id());
    let eos = encoded.ids.iter().position(|id| Some(*id) == tokenizer.eos_id()).unwrap();
    assert_eq!(encoded.offsets[eos], (2, 6));
    assert_eq!(tokenizer.decode(&encoded.ids, true).unwrap(), "éx");
    // Once is enough.
    let again = tokenizer.encode("<s>é", true).unwrap();
    assert_eq!(again.ids.iter().filter(|id| Some(**id) == tokenizer.bos_id()).count(), 1);
}

#[test]
fn prompts_of_inference_begin_as_those_of_training() {
    let tokenizer = tokenizer_with_bos(&format!("{{{{ bos_token }}}}{CHATML}"));
    let example = |record: Value| tokenized(&[record], &tokenizer, TrainOn::Completion).examples.remove(0);
    for prompt in ["Please explain:", "<s>Please explain:", ""] {
        let found = example(json!({"prompt": prompt, "completion": " it works."}));
        let given = tokenizer.encode_prompt(prompt).unwrap();
        assert_eq!(given, found.input_ids[..found.completion_start.unwrap()], "{prompt}");
    }
    let messages = [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Yes"})];
    let found = example(json!({ "messages": messages }));
    let given = tokenizer.encode_chat(&messages[..1], None, &serde_json::Map::new()).unwrap();
    assert_eq!(given, found.input_ids[..found.completion_start.unwrap()]);
    assert_eq!(given.iter().filter(|id| Some(**id) == tokenizer.bos_id()).count(), 1);
}

#[test]
fn flags_of_llama_tokenizers_go_before_the_file() {
    let with_flag = |flag: Value| {
        let folder = model_folder(&json!({
            "bos_token": "<s>", "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": flag
        }));
        open(&folder).encode("x", true).unwrap().ids.len()
    };
    assert_eq!(with_flag(json!(true)), with_flag(json!(false)) + 1);
    assert_eq!(with_flag(json!(null)), with_flag(json!(false)), "the file has no post-processor");
}

#[test]
fn the_fingerprint_changes_with_what_decides_the_tokens() {
    let mut seen = std::collections::HashSet::new();
    for config in [
        json!({}),
        json!({"eos_token": "</s>"}),
        json!({"eos_token": "</s>", "chat_template": "{{ 'a' }}"}),
        json!({"eos_token": "</s>", "chat_template": "{{ 'b' }}"}),
    ] {
        assert!(seen.insert(open(&model_folder(&config)).fingerprint()), "{config}");
        assert!(!seen.insert(open(&model_folder(&config)).fingerprint()), "{config}");
    }
}

#[test]
fn a_missing_tokenizer_says_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let error = |folder: &std::path::Path| TextTokenizer::from_folder(folder, None).unwrap_err().to_string();
    let message = error(folder.path());
    assert!(message.contains("no tokenizer\n  looked for: tokenizer.json"), "{message}");
    write(folder.path(), "tokenizer.model", "x");
    let message = error(folder.path());
    assert!(message.contains("(tokenizer.model)") && message.contains("save_pretrained"), "{message}");
    let message = error(&folder.path().join("gone"));
    assert!(message.contains("the folder is not there"), "{message}");

    for broken in ["", "{}", "[1]", "{\"model\": {\"type\": \"BPE\"}}", "\u{0}"] {
        write(folder.path(), "tokenizer.json", broken);
        let message = error(folder.path());
        assert!(message.contains("tokenizer.json: not a tokenizer of this form"), "{message}");
    }
    // A template with a token that it does not explain: the library panics when it encodes.
    let mut file: Value = serde_json::from_slice(&std::fs::read(golden("tokenizer.json")).unwrap()).unwrap();
    file["post_processor"] = json!({"type": "TemplateProcessing", "special_tokens": {}, "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
    write(folder.path(), "tokenizer.json", &file.to_string());
    let message = error(folder.path());
    assert!(message.contains("its parts contradict each other"), "{message}");
    std::fs::copy(golden("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    write(folder.path(), "tokenizer_config.json", "[]");
    let message = error(folder.path());
    assert!(message.contains("tokenizer_config.json: expected a JSON object"), "{message}");
}
