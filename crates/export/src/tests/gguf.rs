use rankine_models::config::DecoderConfig;
use serde_json::{Value, json};

use super::*;
use crate::gguf::lora;

/// A folder with a tokenizer for the golden models, whose vocabularies have 96 rows.
pub(super) fn tokenizer(chat_template: Option<&str>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut vocab: serde_json::Map<String, Value> =
        ('!'..='~').enumerate().map(|(id, c)| (c.to_string(), json!(id))).take(88).collect();
    for (at, text) in ["ab", "abc"].into_iter().enumerate() {
        vocab.insert(text.into(), json!(88 + at));
    }
    let added: Vec<Value> = ["<s>", "</s>", "<|im_end|>"]
        .into_iter()
        .enumerate()
        .map(|(at, text)| {
            json!({
                "id": 90 + at, "content": text, "special": true, "normalized": false, "single_word": false,
                "lstrip": false, "rstrip": false,
            })
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["ab", "c"]]},
    });
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": chat_template});
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

/// The untied model with its adapter, as `target`.
pub(super) fn exported(target: Target, chat_template: Option<&str>) -> Place {
    let place = Place::new();
    let (base, tokenizer) = (golden("llama-untied"), tokenizer(chat_template));
    let inputs = ExportInputs {
        base: &base,
        adapter: Some(&base.join("adapter")),
        tokenizer: Some(tokenizer.path()),
        chat_template: None,
        facts: &place.facts,
    };
    export(&ExportConfig::new(target), &inputs, &place.out(), &mut |_| ()).unwrap();
    place
}

fn config(quantize: Option<GgufQuantize>, dtype: Option<ExportDtype>) -> ExportConfig {
    ExportConfig { quantize, dtype, ..ExportConfig::new(Target::Gguf) }
}

/// The case as `config` says, and what went wrong.
fn export_case(case: &str, config: &ExportConfig) -> Result<(Place, ExportReport), ExportError> {
    let place = Place::new();
    let (base, adapter, tokenizer) = (golden(case), golden(case).join("adapter"), tokenizer(None));
    let inputs = ExportInputs {
        base: &base,
        adapter: Some(&adapter),
        tokenizer: Some(tokenizer.path()),
        chat_template: None,
        facts: &place.facts,
    };
    let report = export(config, &inputs, &place.out(), &mut |_| ());
    report.map(|report| (place, report))
}

#[test]
fn a_gguf_model_is_the_merged_model_to_the_bit() {
    for case in cases() {
        for dtype in [ExportDtype::F32, ExportDtype::F16, ExportDtype::Bf16] {
            let settings = ExportConfig { dtype: Some(dtype), ..merged() };
            let (place, expected, report) = merge_case(&case, &settings);
            let (gguf_place, gguf_report) = export_case(&case, &config(None, Some(dtype))).unwrap();
            let found = WeightFiles::open(&gguf_place.out()).unwrap();
            let head = "lm_head.weight";
            let decoder = DecoderConfig::from_folder(&place.out()).unwrap();
            let tied = decoder.tie_word_embeddings;
            let names: Vec<&str> = expected.names().filter(|name| !tied || *name != head).collect();
            assert_eq!(found.names().collect::<Vec<_>>(), names, "{case}");
            for name in names {
                let (found, expected) = (found.get(name).unwrap(), expected.get(name).unwrap());
                assert_eq!(found.shape, expected.shape, "{case}: {name}");
                let vector = found.shape.len() == 1;
                assert_eq!(found.dtype, if vector { StoredDtype::F32 } else { dtype.into() }, "{case}: {name}");
                // A vector is the sum in f32, where the merged model rounds it to its own type.
                let rounded = if vector { encode(expected.dtype, &found.to_f32()) } else { found.bytes().into_owned() };
                assert_eq!(rounded, expected.bytes().into_owned(), "{case}: {name}");
            }
            let mut shape = DecoderConfig::from_folder(&gguf_place.out()).unwrap();
            shape.initializer_range = decoder.initializer_range;
            assert_eq!(shape, decoder, "{case}");
            assert_eq!((gguf_report.changed_tensors, gguf_report.untied), (report.changed_tensors, report.untied));
            assert_eq!(listing(&gguf_place.out()), ["README.md", "export.json", "model.gguf"]);
        }
    }
}

#[test]
fn a_quantised_model_is_near_and_keeps_more_of_its_head() {
    for (quantize, head, most) in [(GgufQuantize::Q8_0, "Q8_0", 0.02), (GgufQuantize::Q4_0, "Q8_0", 0.3)] {
        for case in ["llama-tied", "llama-untied", "qwen3"] {
            let (_place, expected, _) = merge_case(case, &merged());
            let (place, _) = export_case(case, &config(Some(quantize), None)).unwrap();
            let found = WeightFiles::open(&place.out()).unwrap();
            for name in found.names() {
                let (tensor, expected) = (found.get(name).unwrap(), expected.get(name).unwrap());
                let apart = difference(&tensor.to_f32(), &expected.to_f32());
                // 48 columns are no whole number of blocks.
                let whole = tensor.shape.len() == 2 && tensor.shape[1] % 32 == 0;
                assert_eq!(tensor.is_quantised(), whole, "{case}: {name}");
                assert!(apart <= most && (apart > 0.0 || !whole), "{case}: {name} {apart}");
                let is_head = name == "lm_head.weight" || (case == "llama-tied" && name == "model.embed_tokens.weight");
                if is_head {
                    assert!(apart <= 0.02, "{case}: {name} is in {head}: {apart}");
                }
            }
        }
    }
}

/// The difference between two merges of one base.
fn merges_apart(case: &str, one: &Path, other: &Path) -> f64 {
    let merge = |adapter: &Path| {
        let place = Place::new();
        place
            .export(&ExportConfig { dtype: Some(ExportDtype::F32), ..merged() }, &golden(case), Some(adapter))
            .unwrap();
        place
    };
    let (one, other) = (merge(one), merge(other));
    let (one, other) = (WeightFiles::open(&one.out()).unwrap(), WeightFiles::open(&other.out()).unwrap());
    assert_eq!(one.names().collect::<Vec<_>>(), other.names().collect::<Vec<_>>());
    one.names()
        .map(|name| difference(&one.get(name).unwrap().to_f32(), &other.get(name).unwrap().to_f32()))
        .fold(0.0, f64::max)
}

#[test]
fn an_adapter_file_says_what_the_adapter_says_or_is_refused() {
    let settings = ExportConfig { weights: Weights::Adapter, ..ExportConfig::new(Target::Gguf) };
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    for case in cases() {
        let (place, report) = match export_case(&case, &settings) {
            Ok(done) => done,
            Err(ExportError::Inexpressible { reasons, .. }) => {
                refused.push((case, reasons.join("; ")));
                continue;
            }
            Err(other) => panic!("{case}: {other}"),
        };
        let adapter = golden(&case).join("adapter");
        let trained = AdapterFile::open(&adapter).unwrap();
        let updates =
            trained.keys().filter(|key| key.to_string().contains("lora_A") || key.to_string().contains("embedding_A"));
        assert_eq!(report.changed_tensors, updates.count(), "{case}");
        let read = lora::read(&place.out(), &golden(&case), &trained.config).unwrap();
        let back = tempfile::tempdir().unwrap();
        let tensors = read.tensors.into_iter().map(|(key, tensor)| (key.to_string(), tensor)).collect();
        write_adapter(back.path(), &read.config, &tensors).unwrap();
        let apart = merges_apart(&case, &adapter, back.path());
        assert!(apart < 1e-6, "{case}: {apart}");
        written.push(case);
    }
    for case in ["llama-tied", "mistral", "qwen2", "lora-patterns", "lora-rslora", "lora-embedding", "lora-head"] {
        assert!(written.iter().any(|name| name == case), "{case}: {refused:?}");
    }
    let names: Vec<&str> = refused.iter().map(|(case, _)| case.as_str()).collect();
    let expected = [
        "lora-dora",
        "lora-modules-to-save",
        "lora-tied-both-to-save",
        "lora-tied-modules-to-save",
        "lora-tied-modules-to-save-ensured",
    ];
    assert_eq!(names, expected);
    assert!(refused[0].1.contains("DoRA's norms are no sum of matrices"), "{refused:?}");
    assert!(refused[1].1.contains("trained in full (lm_head.weight, model.embed_tokens.weight)"), "{refused:?}");
}

#[test]
fn what_gguf_cannot_hold_is_refused_and_nothing_is_left() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let place = Place::new();
        let tokenizer = tokenizer(None);
        let file = tokenizer.path().join("tokenizer.json");
        let mut value = json(&file);
        change(&mut value);
        fs::write(&file, value.to_string()).unwrap();
        let inputs = ExportInputs {
            base: &golden("llama-tied"),
            adapter: None,
            tokenizer: Some(tokenizer.path()),
            chat_template: None,
            facts: &place.facts,
        };
        let error = export(&config(None, None), &inputs, &place.out(), &mut |_| ()).unwrap_err();
        assert_eq!(listing(place.dir.path()), Vec::<String>::new());
        error.to_string()
    };
    let text = refused(&|value| value["pre_tokenizer"] = json!({"type": "Whitespace"}));
    assert!(text.starts_with("the target `gguf` cannot hold this:\n  its pre-tokenizer is none"), "{text}");
    let text = refused(&|value| value["added_tokens"][0]["id"] = json!(96));
    assert!(text.contains("have no row in the embedding table, which has 96: \"<s>\" is the first"), "{text}");
}
