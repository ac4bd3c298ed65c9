//! What a person gets wrong ends in exit code 2, with the place, what was expected, and no panic.

use std::fs;
use std::path::Path;

use crate::cli::{Run, rankine};
use crate::resume::workplace;

#[track_caller]
fn refused(place: &Path, arguments: &[&str], words: &[&str]) -> Run {
    let run = rankine(place, arguments);
    run.ends(2);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    for word in words {
        run.says(word);
    }
    assert!(!place.join("run/adapter").exists());
    run
}

const TRAIN: [&str; 4] = ["train", "recipe.yaml", "--set", "output_dir=run"];

#[test]
fn data_that_cannot_be_read() {
    let place = workplace();
    let place = place.path();
    let good = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    for (text, words) in [
        (String::new(), vec!["train.jsonl", "empty"]),
        (format!("{good}{{\"prompt\": \"a\"}}\n"), vec!["train.jsonl:2", "completion"]),
        (format!("{good}{good}{{\"prompt\": \"a\", \n"), vec!["train.jsonl:3"]),
        (format!("{good}{{\"text\": \"a\"}}\n"), vec!["train.jsonl:2"]),
        (format!("{good}{{\"prompt\": 4, \"completion\": \"b\"}}\n"), vec!["train.jsonl:2", "prompt"]),
    ] {
        fs::write(place.join("train.jsonl"), text).expect("a file");
        refused(place, &TRAIN, &words);
    }
}

#[test]
fn a_template_that_is_not_prefix_stable() {
    let place = workplace();
    let place = place.path();
    let record = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    fs::write(place.join("train.jsonl"), format!("{record}\n")).expect("a file");
    fs::write(place.join("held.jsonl"), format!("{record}\n").replace("\"a\"", "\"c\"")).expect("a file");
    // The number of messages stands in front of them.
    let template = "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    fs::write(place.join("t.jinja"), template).expect("a file");
    let arguments = [&TRAIN[..], &["--set", "chat_template=t.jinja"]].concat();
    refused(place, &arguments, &["train.jsonl:1"]);
}

#[test]
fn a_model_folder_that_is_not_whole() {
    for (file, words) in [
        ("tokenizer.json", vec!["tokenizer.json"]),
        ("config.json", vec!["config.json"]),
        ("model.safetensors", vec!["safetensors"]),
    ] {
        let place = workplace();
        fs::remove_file(place.path().join("base").join(file)).expect("a file of the model");
        refused(place.path(), &TRAIN, &words);
    }
}

#[test]
fn weights_that_are_damaged_or_hostile() {
    let place = workplace();
    let place = place.path();
    let file = place.join("base/model.safetensors");
    let whole = fs::read(&file).expect("weights");
    let huge = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let outside = header(r#"{"model.norm.weight":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}"#);
    let overflow = header(
        r#"{"model.norm.weight":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,4]}}"#,
    );
    for bytes in [whole[..whole.len() / 2].to_vec(), whole[..4].to_vec(), Vec::new(), huge, outside, overflow] {
        fs::write(&file, bytes).expect("a file");
        refused(place, &TRAIN, &["model.safetensors"]);
    }
}

#[test]
fn weights_of_another_shape_are_all_listed() {
    let place = workplace();
    let place = place.path();
    let file = place.join("base/config.json");
    let config = fs::read_to_string(&file).expect("a config");
    fs::write(&file, config.replace("\"intermediate_size\": 96", "\"intermediate_size\": 80")).expect("a file");
    let words = ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight", "[80, 48]", "[96, 48]"];
    refused(place, &TRAIN, &words);
}

#[test]
fn a_config_field_that_is_not_supported_is_named() {
    let place = workplace();
    let place = place.path();
    let file = place.join("base/config.json");
    let config = fs::read_to_string(&file).expect("a config");
    fs::write(&file, config.replace("\"silu\"", "\"gelu\"")).expect("a file");
    refused(place, &TRAIN, &["hidden_act", "silu"]);
    fs::write(&file, config.replace("\"llama\"", "\"mamba\"")).expect("a file");
    refused(place, &TRAIN, &["model_type", "mamba", "qwen3"]);
}

#[test]
fn an_adapter_of_another_model() {
    let place = workplace();
    let place = place.path();
    let other = crate::cli::root().join("tests/golden/models/llama-untied/adapter");
    let other = other.to_str().expect("UTF-8");
    let arguments = ["generate", "base", "--adapter", other, "--prompt", "a"];
    refused(place, &arguments, &["q_proj", "[4, 48]", "[4, 32]"]);
}
