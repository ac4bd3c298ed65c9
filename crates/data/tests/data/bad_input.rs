//! What is wrong is said with file and line, what was expected and what to do; all of it at once.

use std::path::Path;

use rankine_data::{
    DataError, DatasetConfig, FieldNames, RecordType, TextTokenizer, TokenizeConfig, TrainOn, read_dataset, tokenize,
};
use serde_json::json;

use crate::fixtures::{CHATML, dataset, model_folder, tokenizer, write};

fn error(folder: &Path, config: &DatasetConfig) -> String {
    read_dataset(config, folder).unwrap_err().to_string()
}

fn error_of(name: &str, text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), name, text);
    error(folder.path(), &DatasetConfig::new(name))
}

#[track_caller]
fn assert_says(message: &str, expected: &[&str]) {
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in:\n{message}");
    }
}

#[test]
fn all_faulty_records_are_named_at_once() {
    let message = error_of(
        "d.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n\n{\"prompt\": 3, \"completion\": \"b\"}\n{oops\n[1]\n",
    );
    assert_says(
        &message,
        &[
            "4 records cannot be used:",
            "d.jsonl:2: no `completion`, found `prompt`",
            "d.jsonl:4: `prompt` is a number: expected a string",
            "d.jsonl:5: not valid JSON: key must be a string at column 2",
            "d.jsonl:6: expected an object with the record's fields, found a list",
        ],
    );
    // In the order of the file, whatever is wrong with each.
    let places: Vec<usize> =
        ["jsonl:2", "jsonl:4", "jsonl:5", "jsonl:6"].iter().map(|at| message.find(at).unwrap()).collect();
    assert!(places.is_sorted(), "{message}");
    let many: String = (0..500).map(|_| "{\"x\": 1}\n").collect();
    let message = error_of("d.jsonl", &format!("{{\"text\": \"a\"}}\n{many}"));
    assert_says(&message, &["500 records", "d.jsonl:11: no `text`, found `x`", "and 490 more"]);
    assert!(message.len() < 2000, "{message}");
}

#[test]
fn mixed_types_name_the_record_that_decided() {
    let message =
        error_of("d.jsonl", "{\"text\": \"a\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n");
    assert_says(
        &message,
        &["d.jsonl:2: no `text`", "looks like `chat`", "the dataset is `text` after its first record (d.jsonl:1)"],
    );
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "d.jsonl", "{\"text\": \"a\"}\n");
    let config = DatasetConfig { record_type: Some(RecordType::Alpaca), ..DatasetConfig::new("d.jsonl") };
    assert_says(
        &error(folder.path(), &config),
        &["d.jsonl:1: no `instruction`, found `text`", "looks like `text`, but the recipe says `type: alpaca`"],
    );
}

#[test]
fn what_is_not_recognised_says_what_would_be() {
    assert_says(
        &error_of("d.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n"),
        &["d.jsonl:1:", "`question`, `answer`", "fields: {prompt: question, completion: answer}"],
    );
    assert_says(
        &error_of("d.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"),
        &["d.jsonl:1:", "preference data"],
    );
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "d.jsonl", "{\"text\": \"a\"}\n");
    let config = DatasetConfig {
        fields: FieldNames { text: Some("body".to_owned()), ..FieldNames::default() },
        record_type: Some(RecordType::Text),
        ..DatasetConfig::new("d.jsonl")
    };
    assert_says(&error(folder.path(), &config), &["d.jsonl:1: no `body`, found `text`"]);
}

#[test]
fn conversations_name_the_message() {
    for (record, expected) in [
        (json!({"messages": []}), "d.jsonl:1: `messages` is empty"),
        (json!({"messages": "hi"}), "d.jsonl:1: the format is not recognised"),
        (json!({"messages": [{"role": "user", "content": 1}]}), "d.jsonl:1: `messages`[0]: `content` is a number"),
        (json!({"messages": [{"role": "gpt", "content": "x"}]}), "`role` is `gpt`"),
        (json!({"conversations": [{"from": "robot", "value": "x"}]}), "`conversations`[0]: `from` is `robot`"),
        (json!({"conversations": [{"from": "gpt"}]}), "`conversations`[0]: no `value`"),
        (json!({"conversations": [{"from": "function_call", "value": "f("}]}), "a `function_call` must be JSON"),
        (json!({"messages": [{"role": "user", "content": "x"}], "tools": "[{"}), "`tools`: a string that is not JSON"),
        (
            json!({"instruction": "i", "output": "o", "history": [["q"]]}),
            "`history`[0]: expected [instruction, answer]",
        ),
        (
            json!({"prompt": [{"role": "user", "content": "x"}], "completion": "y"}),
            "must both be strings or both be lists",
        ),
    ] {
        assert_says(&error_of("d.jsonl", &format!("{record}\n")), &[expected]);
    }
}

#[test]
fn empty_damaged_and_misnamed_files() {
    for (name, text, expected) in [
        ("d.jsonl", "", "the dataset is empty: 1 file was read"),
        ("d.jsonl", "\n  \n", "the dataset is empty"),
        ("d.json", "[]", "the dataset is empty"),
        ("d.csv", "text\n", "the dataset is empty"),
        ("d.json", "[{\"text\": \"a\"},", "not a valid JSON list of records: EOF"),
        ("d.json", "{\n \"data\": [{\"text\": \"a\"}]\n}", "one object whose `data` is a list; save that list alone"),
        ("d.json", "[1, {\"text\": \"a\"}]", "d.json:1: expected an object"),
        ("d.txt", "hello", "the name does not say what it holds: expected .jsonl"),
        ("d.parquet", "PAR1 not really", "not a readable Parquet file"),
        ("d.csv", "text,text\na,b\n", "two columns are called `text`"),
        ("d.csv", "text,b\na,b\nc\n", "d.csv:3: expected 2 fields as in the header, found 1"),
    ] {
        assert_says(&error_of(name, text), &[name, expected]);
    }
    let deep = format!("{{\"text\": {}1{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert_says(&error_of("d.jsonl", &deep), &["d.jsonl:1: not valid JSON: recursion limit exceeded"]);
}

#[test]
fn bytes_that_are_no_text_name_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.jsonl");
    std::fs::write(&path, b"{\"text\": \"a\"}\n{\"text\": \"\xff\xfe\"}\n").unwrap();
    assert_says(&error(folder.path(), &DatasetConfig::new("d.jsonl")), &["d.jsonl:2: not UTF-8 at byte 11"]);
    std::fs::write(folder.path().join("d.csv"), b"text\nok\n\xff\n").unwrap();
    assert_says(&error(folder.path(), &DatasetConfig::new("d.csv")), &["d.csv:3: the row cannot be read"]);

    let packed = zstd::bulk::compress("{\"text\": \"a\"}\n".repeat(1000).as_bytes(), 3).unwrap();
    std::fs::write(&path, &packed[..packed.len() - 5]).unwrap();
    assert_says(&error(folder.path(), &DatasetConfig::new("d.jsonl")), &["damaged or cut off", "fetch it again"]);
}

/// A Parquet file with any byte changed is read or refused, and nothing panics.
#[test]
fn hostile_parquet_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{\"text\": \"abcdefgh\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n".repeat(20);
    let (schema, _) = arrow_json::reader::infer_json_schema(text.as_bytes(), None).unwrap();
    let schema = std::sync::Arc::new(schema);
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, schema.clone(), None).unwrap();
    for batch in arrow_json::ReaderBuilder::new(schema).build(text.as_bytes()).unwrap() {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
    let path = folder.path().join("d.parquet");
    let config = DatasetConfig::new("d.parquet");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(read_dataset(&config, folder.path()).unwrap().records.len(), 20);
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(11) {
        let mut damaged = bytes.clone();
        damaged[at] = damaged[at].wrapping_add(101);
        std::fs::write(&path, &damaged).unwrap();
        refused += usize::from(read_dataset(&config, folder.path()).is_err());
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "d.jsonl", "{\"text\": \"a\"}\n");
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = DatasetConfig { weight: Some(weight), ..DatasetConfig::new("d.jsonl") };
        assert_says(&error(folder.path(), &config), &["dataset `d.jsonl`: `weight` is", "expected a number above 0"]);
    }
    let config = DatasetConfig { max_records: Some(0), ..DatasetConfig::new("d.jsonl") };
    assert_says(&error(folder.path(), &config), &["`max_records` is 0"]);
    assert_says(
        &error(folder.path(), &DatasetConfig::new("gone.jsonl")),
        &["gone.jsonl: there is no such file or folder", "relative to the folder of the recipe"],
    );
}

#[test]
fn templates_that_refuse_or_are_missing() {
    let config = TokenizeConfig { max_seq_len: 64, train_on: TrainOn::Assistant };
    let chats = [
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        json!({"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}]}),
    ];
    let refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        .to_owned()
        + CHATML;
    let failed = tokenize(&[dataset(&chats)], &tokenizer(&refusing), &config, &|_, _| {}).unwrap_err();
    assert_says(
        &failed.to_string(),
        &["1 record", "d.jsonl:2: the chat template refuses the conversation: System role not supported"],
    );
    let failing = "{{ messages[0].tool.name }}";
    let failed = tokenize(&[dataset(&chats)], &tokenizer(failing), &config, &|_, _| {}).unwrap_err();
    assert_says(
        &failed.to_string(),
        &["2 records", "d.jsonl:1: the chat template failed at its line 1: undefined value"],
    );

    let folder = model_folder(&json!({"eos_token": "</s>"}));
    let bare = TextTokenizer::from_folder(folder.path(), None).unwrap();
    let failed = tokenize(&[dataset(&chats)], &bare, &config, &|_, _| {}).unwrap_err();
    assert!(matches!(failed, DataError::Template(_)));
    assert_says(&failed.to_string(), &["has no chat template", "`chat_template: chatml`"]);

    let weightless = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]});
    let failed = tokenize(&[dataset(&[weightless])], &tokenizer(CHATML), &config, &|_, _| {}).unwrap_err();
    assert_says(&failed.to_string(), &["none of the 1 records has a token to train on", "`weight: 0`"]);
}
