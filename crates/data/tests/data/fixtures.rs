//! Files and tokenizers that several tests use.

use std::path::{Path, PathBuf};

use rankine_data::{
    DataError, Dataset, DatasetConfig, Examples, Records, TextTokenizer, TokenizeConfig, Tokenized, TrainOn,
    read_dataset, tokenize, tokenize_stored,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `tests/golden/templates`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/templates").join(name)
}

pub(crate) fn golden_json(name: &str) -> Value {
    let path = golden(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// A model folder with the goldens' byte-level tokenizer. `config` is its `tokenizer_config.json`.
pub(crate) fn model_folder(config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    write(folder.path(), "tokenizer_config.json", &config.to_string());
    folder
}

/// The goldens' tokenizer with `<s>` and `</s>`, a post-processor that adds `<s>`, and a template.
pub(crate) fn tokenizer_with_bos(template: &str) -> TextTokenizer {
    let folder = model_folder(&json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}));
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bos =
        tokenizer["added_tokens"].as_array().unwrap().iter().find(|token| token["content"] == "<s>").unwrap()["id"]
            .clone();
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}}
    });
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    TextTokenizer::from_folder(folder.path(), None).unwrap()
}

/// The goldens' tokenizer with the stop token of ChatML and a template.
pub(crate) fn tokenizer(template: &str) -> TextTokenizer {
    let folder = model_folder(&json!({
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": template
    }));
    TextTokenizer::from_folder(folder.path(), None).unwrap()
}

pub(crate) const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                          + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
                          '<|im_start|>assistant\n' }}{% endif %}";

pub(crate) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) fn json_lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

/// A dataset of these records, read as any other.
pub(crate) fn dataset(records: &[Value]) -> Dataset {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "d.jsonl", &json_lines(records));
    read_dataset(&DatasetConfig::new("d.jsonl"), folder.path()).unwrap()
}

/// Sets of records tokenised into a file of `cache`, or found there, and read back; says whether they were found.
pub(crate) fn stored(
    cache: &Path,
    sets: &[&[Value]],
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
) -> Result<(Tokenized, bool), DataError> {
    let folder = tempfile::tempdir().unwrap();
    let open = |(number, records): (usize, &&[Value])| {
        let name = if number == 0 { "d.jsonl".to_owned() } else { format!("d{number}.jsonl") };
        write(folder.path(), &name, &json_lines(records));
        Records::open(&DatasetConfig::new(name), folder.path()).unwrap()
    };
    let datasets: Vec<Records> = sets.iter().enumerate().map(open).collect();
    let (stored, found) = tokenize_stored(cache, &datasets, tokenizer, config, &|_, _| {})?;
    let (report, remarks) = (stored.report().clone(), stored.remarks().to_vec());
    assert_eq!(stored.records(), sets.iter().map(|set| set.len()).collect::<Vec<_>>());
    let examples = Examples::from(stored).into_memory().unwrap();
    Ok((Tokenized { examples, report, remarks }, found))
}

pub(crate) fn tokenized(records: &[Value], tokenizer: &TextTokenizer, train_on: TrainOn) -> Tokenized {
    let config = TokenizeConfig { max_seq_len: 4096, train_on };
    tokenize(&[dataset(records)], tokenizer, &config, &|_, _| {}).unwrap()
}
