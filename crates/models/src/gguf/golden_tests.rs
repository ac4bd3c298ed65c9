//! Against files written by llama.cpp's Python package (`tests/golden/gguf`).

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::*;
use crate::config::DecoderConfig;
use crate::weights::{TensorFile, WeightFiles};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn small_files(path: &str) -> SmallFiles {
    SmallFiles::open(&find(&golden(path)).unwrap().unwrap()).unwrap()
}

#[test]
fn every_format_is_dequantised_to_the_bit() {
    for kind in GgmlType::NAMES {
        let found = WeightFiles::open(&golden(&format!("gguf/quants/{kind}.gguf"))).unwrap();
        let expected = TensorFile::open(&golden(&format!("gguf/quants/{kind}.safetensors"))).unwrap();
        let names: Vec<&str> = found.names().collect();
        assert_eq!(names, expected.names().collect::<Vec<_>>());
        for name in names {
            let (found, expected) = (found.get(name).unwrap(), expected.get(name).unwrap());
            assert_eq!((&found.shape, found.is_quantised()), (&expected.shape, kind.contains('Q')), "{kind}");
            let (values, expected) = (found.to_f32(), expected.to_f32());
            for (i, (a, b)) in values.iter().zip(&expected).enumerate() {
                assert_eq!(a.to_bits(), b.to_bits(), "{kind}: value {i} is {a}, and {b} is expected");
            }
            // Whatever type they are handed on in, nothing is lost.
            let encoded = crate::weights::encode(found.dtype, &values);
            assert_eq!(found.bytes(), encoded, "{kind}");
            let mut back = vec![0.0; values.len()];
            crate::weights::decode_into(found.dtype, &encoded, &mut back);
            assert!(back.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind}");
        }
    }
}

#[test]
fn every_written_format_is_quantised_to_the_bit() {
    let file = TensorFile::open(&golden("gguf/quantized/values.safetensors")).unwrap();
    let values = file.get("values").unwrap().to_f32();
    for kind in [GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0] {
        let expected = std::fs::read(golden(&format!("gguf/quantized/{kind}.bin"))).unwrap();
        let found = quantize(kind, &values).unwrap();
        assert_eq!(found.len(), expected.len(), "{kind}");
        let (size, per_row) = (kind.block_bytes(), 512 / kind.block_values());
        for (block, (found, expected)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(found, expected, "{kind}: row {}, block {}", block / per_row, block % per_row);
        }
    }
}

/// Every key of the models' golden files, which llama.cpp's package wrote, is described with the same value.
#[test]
fn a_model_is_described_as_it_was() {
    for case in
        ["llama-tied", "llama-mha-bias", "llama-head-dim", "llama3-rope", "linear-rope", "mistral", "qwen2", "qwen3"]
    {
        let bytes = std::fs::read(golden(&format!("gguf/models/{case}.gguf"))).unwrap();
        let header = Header::read(&bytes).unwrap();
        let config = DecoderConfig::from_folder(&golden(&format!("models/{case}"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("described.gguf");
        let written: Result<(), crate::weights::WeightsError> =
            write_gguf(&path, &describe(&config).unwrap(), &[], |_, _| Ok(()));
        written.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let described = Header::read(&bytes).unwrap();
        for key in header.metadata.keys().filter(|key| *key != "general.name") {
            assert_eq!(described.metadata.get(key), header.metadata.get(key), "{case}: {key}");
        }
        let stored = small_files(&format!("gguf/models/{case}.gguf"));
        let expected = stored.rope_factors();
        let found = rope_factors(&config);
        assert_eq!(found.as_ref().map(Vec::len), expected.map(<[f32]>::len), "{case}");
        for (found, expected) in found.iter().flatten().zip(expected.into_iter().flatten()) {
            assert!((found - expected).abs() <= 1e-6 * expected, "{case}: {found} {expected}");
        }
    }
}

#[test]
fn a_converted_model_is_the_model() {
    for case in
        ["llama-tied", "llama-mha-bias", "llama-head-dim", "llama3-rope", "linear-rope", "mistral", "qwen2", "qwen3"]
    {
        let converted = golden(&format!("gguf/models/{case}.gguf"));
        let original = golden(&format!("models/{case}"));
        let mut config = DecoderConfig::from_folder(&converted).unwrap();
        let expected = DecoderConfig::from_folder(&original).unwrap();
        // Not among the metadata; it matters to new models alone.
        config.initializer_range = expected.initializer_range;
        assert_eq!(config, expected, "{case}");
        let (found, expected) = (WeightFiles::open(&converted).unwrap(), WeightFiles::open(&original).unwrap());
        assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>(), "{case}");
        for name in expected.names() {
            let (found, expected) = (found.get(name).unwrap(), expected.get(name).unwrap());
            assert_eq!((found.dtype, &found.shape), (expected.dtype, &expected.shape), "{case}: {name}");
            assert!(found.bytes() == expected.bytes(), "{case}: {name}");
        }
    }
}

#[test]
fn a_sentence_piece_vocabulary_cuts_as_sentence_piece_does() {
    let files = small_files("gguf/tokenizers/spm.gguf");
    let tokenizer: tokenizers::Tokenizer = files.read("tokenizer.json").unwrap().unwrap().parse().unwrap();
    let cases: Json = serde_json::from_slice(&std::fs::read(golden("gguf/tokenizers/spm.json")).unwrap()).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 15);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap().get_ids(), expected, "{text:?}");
    }
    let encoded = tokenizer.encode("The lazy 犬<|user|>", true).unwrap();
    assert_eq!(encoded.get_ids()[0], 1, "BOS is put before a text");
    assert_eq!(encoded.get_ids().last(), tokenizer.token_to_id("<|user|>").as_ref());
    assert_eq!(tokenizer.decode(encoded.get_ids(), true).unwrap(), "The lazy 犬<|user|>");
}

#[test]
fn a_byte_level_tokenizer_is_the_one_that_it_was() {
    let files = small_files("gguf/tokenizers/bpe.gguf");
    let found: tokenizers::Tokenizer = files.read("tokenizer.json").unwrap().unwrap().parse().unwrap();
    let original = tokenizers::Tokenizer::from_file(golden("templates/tokenizer.json")).unwrap();
    let mut texts: Vec<String> = ["gguf/generate.py", "templates/masks.json", "README.md"]
        .into_iter()
        .map(|file| std::fs::read_to_string(golden(file)).unwrap())
        .collect();
    texts.push("<|im_start|>user\nÜber 12345 <s>\u{200d}</s> don't  stop <|endoftext|>[PAD0]".to_owned());
    for text in texts {
        let ids = original.encode(text.as_str(), false).unwrap();
        assert_eq!(found.encode(text.as_str(), false).unwrap().get_ids(), ids.get_ids());
        let with_bos = found.encode(text.as_str(), true).unwrap();
        assert_eq!((with_bos.get_ids()[0], &with_bos.get_ids()[1..]), (3, ids.get_ids()));
        assert_eq!(found.decode(ids.get_ids(), false).unwrap(), text);
    }
    assert_eq!(found.get_vocab_size(true), original.get_vocab_size(true), "fillers are no tokens");
    let config: Json = serde_json::from_str(&files.read("tokenizer_config.json").unwrap().unwrap()).unwrap();
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&"<s>".into(), &"</s>".into()));
    assert_eq!(config["chat_template"][1]["name"], "tool_use");
    let generation: Json = serde_json::from_str(&files.read("generation_config.json").unwrap().unwrap()).unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([4, 2, 0]), "</s>, <|im_end|>, <|endoftext|>");
}
