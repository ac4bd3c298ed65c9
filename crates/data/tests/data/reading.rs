//! Files of every kind and records of every format.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rankine_data::{Content, Dataset, DatasetConfig, FieldNames, RecordType, read_dataset};
use serde_json::{Value, json};

use crate::fixtures::{json_lines, write};

fn read(folder: &Path, path: &str) -> Dataset {
    read_dataset(&DatasetConfig::new(path), folder).unwrap()
}

fn texts(dataset: &Dataset) -> Vec<(String, String)> {
    dataset
        .records
        .iter()
        .map(|record| match &record.content {
            Content::Text(text) => (text.clone(), record.source.to_string()),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Arrow's own JSON reader makes the columns, nested ones too.
fn write_parquet(path: &Path, records: &[Value], compression: Compression) {
    let lines = json_lines(records);
    let (schema, _) = arrow_json::reader::infer_json_schema(Cursor::new(&lines), None).unwrap();
    let schema = Arc::new(schema);
    let batches = arrow_json::ReaderBuilder::new(Arc::clone(&schema)).build(Cursor::new(&lines)).unwrap();
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    for batch in batches {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn every_kind_of_file_gives_the_same_records() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let records = [json!({"text": "one, \"two\""}), json!({"text": "dréi\nfour"}), json!({"text": ""})];
    let lines = json_lines(&records);
    write(root, "a.jsonl", &lines);
    write(root, "a.ndjson", &lines.replace('\n', "\r\n"));
    write(root, "bom.jsonl", &format!("\u{feff}{lines}"));
    write(root, "no_end.jsonl", lines.trim_end());
    write(root, "lines.json", &lines);
    write(root, "array.json", &serde_json::to_string_pretty(&records).unwrap());
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(lines.as_bytes()).unwrap();
    std::fs::write(root.join("a.jsonl.gz"), gz.finish().unwrap()).unwrap();
    std::fs::write(root.join("a.jsonl.zst"), zstd::bulk::compress(lines.as_bytes(), 3).unwrap()).unwrap();
    // The name says nothing of the compression.
    std::fs::copy(root.join("a.jsonl.zst"), root.join("packed.jsonl")).unwrap();
    write_parquet(&root.join("a.parquet"), &records, Compression::SNAPPY);
    write_parquet(&root.join("zstd.parquet"), &records, Compression::ZSTD(ZstdLevel::default()));

    for name in [
        "a.jsonl",
        "a.ndjson",
        "bom.jsonl",
        "no_end.jsonl",
        "lines.json",
        "array.json",
        "a.jsonl.gz",
        "a.jsonl.zst",
        "packed.jsonl",
        "a.parquet",
        "zstd.parquet",
    ] {
        let dataset = read(root, name);
        let expected: Vec<(String, String)> = ["one, \"two\"", "dréi\nfour", ""]
            .iter()
            .zip(1..)
            .map(|(text, line)| ((*text).to_owned(), format!("{name}:{line}")))
            .collect();
        assert_eq!(texts(&dataset), expected);
        assert_eq!((dataset.record_type, dataset.detected), (RecordType::Text, true));
        assert_eq!(dataset.files, [root.join(name)]);
    }
}

#[test]
fn csv_lines_are_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.csv", "id,prompt,completion\n1,\"one\ntwo\",x\n2,\"say \"\"hi\"\"\",\"a, b\"\n");
    write(folder.path(), "a.tsv", "prompt\tcompletion\nq\ta, b\n");
    let dataset = read(folder.path(), "a.csv");
    let found: Vec<(String, &Content)> =
        dataset.records.iter().map(|record| (record.source.to_string(), &record.content)).collect();
    let pair = |prompt: &str, completion: &str| Content::PromptCompletion {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
    };
    assert_eq!(
        found,
        [("a.csv:2".to_owned(), &pair("one\ntwo", "x")), ("a.csv:4".to_owned(), &pair("say \"hi\"", "a, b")),]
    );
    assert_eq!(read(folder.path(), "a.tsv").records[0].content, pair("q", "a, b"));
}

#[test]
fn nested_columns_of_parquet_are_conversations_without_what_was_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let records = [
        json!({"id": 1, "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": {\"b\": [1, 2]}}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
            {"role": "assistant", "content": "Four.", "weight": 0},
        ], "tools": "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]"}),
        json!({"id": 2, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}),
    ];
    write_parquet(&folder.path().join("d.parquet"), &records, Compression::SNAPPY);
    write(folder.path(), "d.jsonl", &json_lines(&records));
    let from_parquet = read(folder.path(), "d.parquet");
    let from_lines = read(folder.path(), "d.jsonl");
    assert_eq!(from_parquet.record_type, RecordType::Chat);
    assert_eq!(from_parquet.records.len(), 2);
    for (parquet, lines) in from_parquet.records.iter().zip(&from_lines.records) {
        let (
            Content::Chat { messages, trained, tools },
            Content::Chat { messages: other, trained: other_trained, tools: other_tools },
        ) = (&parquet.content, &lines.content)
        else {
            panic!("no conversation");
        };
        assert_eq!((trained, tools), (other_trained, other_tools));
        for (message, other) in messages.iter().zip(other) {
            // But for nulls, which a column cannot tell from fields that are not there.
            let kept = |message: &Value| -> Vec<(String, Value)> {
                let mut kept: Vec<(String, Value)> = message
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                kept.sort_by(|a, b| a.0.cmp(&b.0));
                kept
            };
            assert_eq!(kept(message), kept(other));
        }
    }
    let Content::Chat { messages, .. } = &from_parquet.records[1].content else { panic!() };
    assert_eq!(messages[0].as_object().unwrap().len(), 2, "{}", messages[0]);
}

#[test]
fn every_format_is_recognised_and_becomes_what_templates_expect() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    let system = |text: &str| json!({"role": "system", "content": text});
    let call = json!({"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]});
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    for (record, record_type, expected) in [
        (json!({"messages": [user("a"), assistant("b")]}), RecordType::Chat, vec![user("a"), assistant("b")]),
        (json!({"conversations": [user("a"), assistant("b")]}), RecordType::Chat, vec![user("a"), assistant("b")]),
        (
            json!({"messages": serde_json::to_string(&[user("a"), assistant("b")]).unwrap()}),
            RecordType::Chat,
            vec![user("a"), assistant("b")],
        ),
        (
            json!({"system": "s", "tools": tool.to_string(), "conversations": [
                {"from": "human", "value": "a"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
                {"from": "observation", "value": "1"}, {"from": "gpt", "value": "b"}]}),
            RecordType::Sharegpt,
            vec![system("s"), user("a"), call, json!({"role": "tool", "content": "1"}), assistant("b")],
        ),
        (json!({"instruction": "i", "input": "", "output": "o"}), RecordType::Alpaca, vec![user("i"), assistant("o")]),
        (
            json!({"instruction": "i", "input": "n", "output": "o", "system": "s", "history": [["q", "a"]]}),
            RecordType::Alpaca,
            vec![system("s"), user("q"), assistant("a"), user("i\nn"), assistant("o")],
        ),
        (
            json!({"prompt": [user("a")], "completion": [assistant("b")]}),
            RecordType::PromptCompletion,
            vec![user("a"), assistant("b")],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "d.jsonl", &json_lines(&[record]));
        let dataset = read(folder.path(), "d.jsonl");
        assert_eq!(dataset.record_type, record_type);
        let Content::Chat { messages, trained, tools } = &dataset.records[0].content else { panic!("no chat") };
        assert_eq!(messages, &expected);
        let answers: Vec<bool> = expected.iter().map(|message| message["role"] == "assistant").collect();
        assert_eq!(trained, &answers);
        assert_eq!(tools.is_some(), record_type == RecordType::Sharegpt);
    }
}

#[test]
fn fields_may_have_other_names_and_limits_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<Value> = (0..9).map(|n| json!({"question": format!("q{n}"), "answer": "a"})).collect();
    write(folder.path(), "d/1.jsonl", &json_lines(&records[..5]));
    write(folder.path(), "d/2.jsonl", &json_lines(&records[5..]));
    let config = DatasetConfig {
        fields: FieldNames {
            prompt: Some("question".to_owned()),
            completion: Some("answer".to_owned()),
            ..FieldNames::default()
        },
        max_records: Some(7),
        ..DatasetConfig::new("d")
    };
    let dataset = read_dataset(&config, folder.path()).unwrap();
    assert_eq!(dataset.record_type, RecordType::PromptCompletion);
    assert_eq!(dataset.records.len(), 7);
    assert_eq!(dataset.records[6].source.to_string(), "d/2.jsonl:2");
    write_parquet(&folder.path().join("d.parquet"), &records, Compression::SNAPPY);
    let config = DatasetConfig { path: "d.parquet".to_owned(), ..config };
    assert_eq!(read_dataset(&config, folder.path()).unwrap().records.len(), 7);
}

#[test]
fn the_recipe_says_what_it_means() {
    let config: DatasetConfig = serde_json::from_value(json!({
        "path": "d", "split": "test", "type": "prompt-completion", "weight": 2, "max_records": 3,
        "fields": {"prompt": "q"}
    }))
    .unwrap();
    assert_eq!(config.record_type, Some(RecordType::PromptCompletion));
    assert_eq!(config.weight, Some(2.0));
    assert_eq!(serde_json::from_value::<DatasetConfig>(serde_json::to_value(&config).unwrap()).unwrap(), config);
    assert_eq!(serde_json::to_value(DatasetConfig::new("d")).unwrap(), json!({"path": "d"}));
    for wrong in [json!({"path": "d", "kind": "chat"}), json!({"path": "d", "fields": {"promt": "q"}})] {
        let error = serde_json::from_value::<DatasetConfig>(wrong).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }
    let schema = serde_json::to_value(schemars::schema_for!(DatasetConfig)).unwrap();
    assert_eq!(schema["additionalProperties"], json!(false));
    assert!(schema["properties"]["type"].is_object(), "{schema}");
}
