use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::write::write_gguf;
use super::*;
use crate::gguf::{SmallFiles, find};
use crate::weights::WeightsError;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn json_file(path: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

/// What the reader makes of the metadata.
fn read_back(metadata: GgufMetadata) -> (Json, Json, Json) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut all = vec![("general.architecture".to_owned(), GgufValue::Text("llama".to_owned()))];
    all.extend(metadata);
    let written: Result<(), WeightsError> = write_gguf(&path, &all, &[], |_, _| Ok(()));
    written.unwrap();
    let files = SmallFiles::open(&find(&path).unwrap().unwrap()).unwrap();
    let read = |name: &str| serde_json::from_str(&files.read(name).unwrap().unwrap()).unwrap();
    (read("tokenizer.json"), read("tokenizer_config.json"), read("generation_config.json"))
}

fn tokenizer(json: &Json) -> tokenizers::Tokenizer {
    json.to_string().parse().unwrap()
}

fn value<'a>(metadata: &'a GgufMetadata, key: &str) -> Option<&'a GgufValue> {
    metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

fn byte_level() -> VocabularyFiles {
    VocabularyFiles {
        tokenizer: json_file("templates/tokenizer.json"),
        tokenizer_config: json!({
            "bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>",
            "chat_template": [
                {"name": "default", "template": "old"}, {"name": "tool use", "template": "tools"},
            ],
        }),
        config: json!({"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 1_000_000}),
        generation_config: json!({"eos_token_id": [4, 2, 5]}),
        chat_template: Some("{{ messages }}".to_owned()),
        chats: Vec::new(),
    }
}

#[test]
fn a_byte_level_tokenizer_comes_back() {
    let files = byte_level();
    let before = tokenizer(&files.tokenizer);
    let rows = before.get_vocab_size(true) + 3;
    let metadata = vocabulary(&files, rows).unwrap();
    let number = |key: &str| match value(&metadata, &format!("tokenizer.ggml.{key}")) {
        Some(GgufValue::U32(number)) => before.id_to_token(*number),
        None => None,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(number("bos_token_id").as_deref(), Some("<s>"));
    assert_eq!(number("eos_token_id").as_deref(), Some("<|im_end|>"));
    assert_eq!(number("padding_token_id").as_deref(), Some("<|endoftext|>"));
    assert_eq!(number("unknown_token_id"), None);
    // The ends that llama.cpp knows by their text are left to it.
    assert_eq!(number("eot_token_id").as_deref(), before.id_to_token(4).as_deref());
    assert_eq!(number("eom_token_id").as_deref(), before.id_to_token(5).as_deref());
    let filler = format!("[PAD{}]", rows - 1);
    match value(&metadata, "tokenizer.ggml.tokens") {
        Some(GgufValue::Texts(texts)) => assert_eq!((texts.len(), texts.last().unwrap()), (rows, &filler)),
        other => panic!("{other:?}"),
    }
    let (after, config, generation) = read_back(metadata);
    let after = tokenizer(&after);
    assert_eq!(after.get_vocab(true), before.get_vocab(true));
    let mut texts: Vec<String> = ["gguf/generate.py", "templates/masks.json", "README.md"]
        .into_iter()
        .map(|file| std::fs::read_to_string(golden(file)).unwrap())
        .collect();
    texts.push("<|im_start|>user\nÜber 12345 <s>\u{200d}</s> don't  stop <|endoftext|>".to_owned());
    for text in texts {
        for special in [false, true] {
            let expected = before.encode(text.as_str(), special).unwrap();
            assert_eq!(after.encode(text.as_str(), special).unwrap().get_ids(), expected.get_ids());
        }
    }
    let templates = config["chat_template"].as_array().unwrap();
    let named =
        |entry: &Json| (entry["name"].as_str().unwrap().to_owned(), entry["template"].as_str().unwrap().to_owned());
    let expected = [("default", "{{ messages }}"), ("tool_use", "tools")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(templates.iter().map(named).collect::<Vec<_>>(), expected);
    let ends: Vec<u32> = serde_json::from_value(generation["eos_token_id"].clone()).unwrap();
    assert!([4, 2, 5].iter().all(|id| ends.contains(id)), "{ends:?}");
}

#[test]
fn a_sentence_piece_vocabulary_comes_back() {
    let found = find(&golden("gguf/tokenizers/spm.gguf")).unwrap().unwrap();
    let small = SmallFiles::open(&found).unwrap();
    let read = |name: &str| serde_json::from_str(&small.read(name).unwrap().unwrap()).unwrap();
    let files = VocabularyFiles {
        tokenizer: read("tokenizer.json"),
        tokenizer_config: read("tokenizer_config.json"),
        ..VocabularyFiles::default()
    };
    let before = tokenizer(&files.tokenizer);
    let metadata = vocabulary(&files, before.get_vocab_size(true)).unwrap();
    let (after, config, _) = read_back(metadata);
    assert_eq!(
        after["model"]["merges"].as_array().unwrap().len(),
        files.tokenizer["model"]["merges"].as_array().unwrap().len()
    );
    assert_eq!(config["bos_token"], files.tokenizer_config["bos_token"]);
    let after = tokenizer(&after);
    let cases = json_file("gguf/tokenizers/spm.json");
    for case in cases["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(after.encode(text, false).unwrap().get_ids(), expected, "{text:?}");
        assert_eq!(after.encode(text, true).unwrap().get_ids(), before.encode(text, true).unwrap().get_ids());
    }
}

#[test]
fn the_space_before_a_text_is_said_as_the_tokenizer_puts_it_and_read_again() {
    let found = find(&golden("gguf/tokenizers/spm.gguf")).unwrap().unwrap();
    let small = SmallFiles::open(&found).unwrap();
    let read = |name: &str| -> Json { serde_json::from_str(&small.read(name).unwrap().unwrap()).unwrap() };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let sequence = |parts: &[&Json]| json!({"type": "Sequence", "normalizers": parts});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
    let chats = ["<s>user: Hello  world</s>assistant:", "<s>a</s>b c<s>d"];
    let plain = ["Hello world", "a", "two  spaces, ü"];
    let none = Json::Null;
    // The texts at hand decide only where llama.cpp has no such rule.
    for (normalizer, cuts, with_chats, without) in [
        (sequence(&[&prepend, &replace]), none.clone(), true, true),
        (sequence(&[&replace]), none.clone(), false, false),
        (replace.clone(), none.clone(), false, false),
        (none.clone(), metaspace("always"), true, true),
        (none.clone(), metaspace("never"), false, false),
        (none.clone(), metaspace("first"), false, true),
    ] {
        let mut files = VocabularyFiles {
            tokenizer: read("tokenizer.json"),
            tokenizer_config: read("tokenizer_config.json"),
            ..VocabularyFiles::default()
        };
        files.tokenizer["normalizer"] = normalizer.clone();
        files.tokenizer["pre_tokenizer"] = cuts.clone();
        let before = tokenizer(&files.tokenizer);
        for (texts, expected) in [(chats.as_slice(), with_chats), (plain.as_slice(), without)] {
            files.chats = texts.iter().filter(|text| text.contains("<s>")).map(|text| (*text).to_owned()).collect();
            let metadata = vocabulary(&files, before.get_vocab_size(true)).unwrap();
            let said = value(&metadata, "tokenizer.ggml.add_space_prefix");
            assert_eq!(said, Some(&GgufValue::Bool(expected)), "{normalizer} {cuts}");
            let after = tokenizer(&read_back(metadata).0);
            for text in texts {
                let ids =
                    |tokenizer: &tokenizers::Tokenizer| tokenizer.encode(*text, false).unwrap().get_ids().to_vec();
                assert_eq!(ids(&after), ids(&before), "{text:?} {normalizer} {cuts}");
            }
        }
    }
}

#[test]
fn what_gguf_cannot_say_is_told_all_at_once() {
    let refused = |change: &dyn Fn(&mut VocabularyFiles), rows: usize| {
        let mut files = byte_level();
        change(&mut files);
        vocabulary(&files, rows).unwrap_err().join("; ")
    };
    let text = refused(
        &|files| {
            files.tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"});
            files.tokenizer["added_tokens"][0]["lstrip"] = true.into();
            files.tokenizer["model"]["merges"][7] = json!(["a"]);
        },
        300,
    );
    for part in [
        "its pre-tokenizer is none that llama.cpp knows",
        "has lstrip, which GGUF cannot say",
        "at place 7: two tokens",
        "tokens have no row in the embedding table, which has 300",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let rows = 100_000;
    let text = refused(&|files| files.tokenizer["model"]["type"] = "Unigram".into(), rows);
    assert!(text.contains("`model.type` is Unigram"), "{text}");
    let template = json!({
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
    });
    let text = refused(&|files| files.tokenizer["post_processor"] = template.clone(), rows);
    assert!(text.contains("a text has </s> before it, and llama.cpp puts only the bos token there"), "{text}");
}

#[test]
fn merges_that_no_scores_give_are_refused() {
    let found = find(&golden("gguf/tokenizers/spm.gguf")).unwrap().unwrap();
    let tokenizer: Json =
        serde_json::from_str(&SmallFiles::open(&found).unwrap().read("tokenizer.json").unwrap().unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Json>)| {
        let mut files = VocabularyFiles { tokenizer: tokenizer.clone(), ..VocabularyFiles::default() };
        let merges = files.tokenizer["model"]["merges"].as_array_mut().unwrap();
        change(merges);
        vocabulary(&files, 10_000).unwrap_err().join("; ")
    };
    let text = refused(&|merges| _ = merges.remove(0));
    assert!(text.contains("1 ways to make a token are not in `model.merges`"), "{text}");
    let text = refused(&|merges| {
        let first = merges[0].clone();
        merges.push(first);
    });
    assert!(text.contains("at two places with others between them"), "{text}");
}
