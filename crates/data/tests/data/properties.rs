//! Random records and texts: what is read does not depend on the kind of file, a slice is a slice, and the fast way
//! of encoding is the slow one.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rankine_data::{Content, DatasetConfig, Record, Records, TextTokenizer, read_dataset};
use serde_json::{Map, Value, json};

use crate::fixtures::{golden, json_lines, write};

/// Pieces that texts are put together of: what quoting, cutting and encoding part on.
const PIECES: &[&str] = &[
    "a",
    "Hello",
    " world",
    "don't",
    "I'LL",
    "'s",
    "'\u{17f}",
    "\u{212a}",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\t",
    " \n ",
    "\n\n",
    "1",
    "42",
    "1234567",
    "3.14",
    "\u{661}\u{662}",
    "\u{b2}",
    "\u{2167}",
    "\u{e9}",
    "na\u{ef}ve",
    "a\u{301}",
    "\u{4f60}\u{597d}",
    "\u{ff0c}",
    "\u{1f600}",
    "\u{1f468}\u{200d}\u{1f469}",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    "\u{feff}",
    "\u{e000}",
    "\u{10ffff}",
    "\"",
    "\\",
    "\\n",
    ",",
    ";",
    "{}",
    "<|im_start|>",
    "<|im_end|>",
    "<|im",
    "</s>",
    "...",
    "!!!",
    "==",
    "--",
    "_x_",
    "\u{130}",
    "\u{df}",
    "\u{fb00}",
    "\u{16ee}",
    "\u{1d7d8}",
    "\u{0}",
    "\u{7f}",
    "'",
    "''",
    "' s",
    "'ve",
    "'R",
    "'re",
];

fn text(random: &mut ChaCha8Rng, most: usize) -> String {
    let count = random.random_range(0..=most);
    (0..count).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect()
}

fn conversation(random: &mut ChaCha8Rng, sharegpt: bool) -> Vec<Value> {
    let mut turns = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let (question, answer) = (text(random, 6), text(random, 6));
        if sharegpt {
            turns.push(json!({"from": "human", "value": question}));
            turns.push(json!({"from": "gpt", "value": answer}));
        } else {
            turns.push(json!({"role": "user", "content": question}));
            let mut message = json!({"role": "assistant", "content": answer});
            if random.random_bool(0.3) {
                let argument = text(random, 3);
                message["tool_calls"] = json!([{"type": "function", "function": {
                    "name": "f", "arguments": json!({"x": argument}).to_string()}}]);
            }
            turns.push(message);
        }
    }
    turns
}

/// A record of one of the formats; the first of a file has every field, so that any file has its columns.
fn record(random: &mut ChaCha8Rng, format: usize, full: bool) -> Value {
    let mut record = Map::new();
    let mut field = |name: &str, value: Value| record.insert(name.to_owned(), value);
    match format {
        0 => drop(field("text", json!(text(random, 12)))),
        1 => {
            field("prompt", json!(text(random, 6)));
            field("completion", json!(text(random, 6)));
        }
        2 => {
            field("instruction", json!(text(random, 6)));
            field("output", json!(text(random, 6)));
            if full || random.random_bool(0.5) {
                field("input", json!(text(random, 3)));
            }
        }
        3 => {
            field("messages", json!(conversation(random, false)));
            if full || random.random_bool(0.5) {
                field("tools", json!(r#"[{"type": "function", "function": {"name": "f"}}]"#));
            }
        }
        _ => {
            field("conversations", json!(conversation(random, true)));
            if full || random.random_bool(0.5) {
                field("system", json!(text(random, 3)));
            }
        }
    }
    Value::Object(record)
}

fn parquet(path: &Path, lines: &str, compression: Compression, group: usize) {
    let (schema, _) = arrow_json::reader::infer_json_schema(Cursor::new(lines), None).unwrap();
    let schema = Arc::new(schema);
    let batches = arrow_json::ReaderBuilder::new(Arc::clone(&schema)).build(Cursor::new(lines)).unwrap();
    let properties =
        WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(group)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    for batch in batches {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
}

fn csv(records: &[Value], delimiter: char) -> String {
    let names: Vec<&String> = records[0].as_object().unwrap().keys().collect();
    let row = |cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        format!("{}\n", cells.join(&delimiter.to_string()))
    };
    let mut text = row(names.iter().map(|name| (*name).clone()).collect());
    for record in records {
        text += &row(names
            .iter()
            .map(|name| match record.get(name.as_str()) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            })
            .collect());
    }
    text
}

/// The contents without what a column cannot tell apart: nulls from fields that are not there, nothing from "".
fn contents(records: &[Record]) -> Vec<Content> {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
                entries.sort_by_key(|(key, _)| key.as_str());
                Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
            }
            Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    records
        .iter()
        .map(|record| match &record.content {
            Content::Chat { messages, trained, tools } => Content::Chat {
                messages: messages.iter().map(sorted).collect(),
                trained: trained.clone(),
                tools: tools.clone(),
            },
            other => other.clone(),
        })
        .collect()
}

#[test]
fn every_kind_of_file_gives_the_same_records() {
    for seed in 0..60 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let format = seed as usize % 5;
        let count = random.random_range(1..40);
        let records: Vec<Value> = (0..count).map(|at| record(&mut random, format, at == 0)).collect();
        let lines = json_lines(&records);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "a.jsonl", &lines);
        write(root, "array.json", &Value::Array(records.clone()).to_string());
        write(root, "lines.json", &lines);
        write(root, "a.csv", &csv(&records, ','));
        write(root, "a.tsv", &csv(&records, '\t'));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(lines.as_bytes()).unwrap();
        std::fs::write(root.join("a.jsonl.gz"), gz.finish().unwrap()).unwrap();
        std::fs::write(root.join("a.jsonl.zst"), zstd::bulk::compress(lines.as_bytes(), 1).unwrap()).unwrap();
        for (name, compression) in [
            ("plain", Compression::UNCOMPRESSED),
            ("snappy", Compression::SNAPPY),
            ("gzip", Compression::GZIP(GzipLevel::default())),
            ("zstd", Compression::ZSTD(ZstdLevel::default())),
            ("lz4", Compression::LZ4_RAW),
        ] {
            parquet(&root.join(format!("{name}.parquet")), &lines, compression, random.random_range(1..20));
        }
        let read = |name: &str| {
            read_dataset(&DatasetConfig::new(name), root).unwrap_or_else(|error| panic!("seed {seed}, {name}: {error}"))
        };
        let expected = read("a.jsonl");
        assert_eq!(expected.records.len(), records.len());
        for name in [
            "array.json",
            "lines.json",
            "a.csv",
            "a.tsv",
            "a.jsonl.gz",
            "a.jsonl.zst",
            "plain.parquet",
            "snappy.parquet",
            "gzip.parquet",
            "zstd.parquet",
            "lz4.parquet",
        ] {
            let found = read(name);
            assert_eq!(found.record_type, expected.record_type, "seed {seed}, {name}");
            assert_eq!(contents(&found.records), contents(&expected.records), "seed {seed}, {name}");
        }
    }
}

#[test]
fn a_slice_is_what_a_slice_of_the_whole_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut number = 0;
    let mut some = |count: usize| -> String {
        (0..count)
            .map(|_| {
                number += 1;
                format!("{}\n\n", json!({"text": format!("record {number}")}))
            })
            .collect()
    };
    let parts: Vec<String> = [30, 1, 0, 57].iter().map(|count| some(*count)).collect();
    for (at, part) in parts.iter().enumerate() {
        write(root, &format!("lines/train/{at}.jsonl"), part);
        write(root, &format!("csv/train/{at}.csv"), &csv_of(part));
        if !part.is_empty() {
            std::fs::create_dir_all(root.join("parquet/train")).unwrap();
            parquet(&root.join(format!("parquet/train/{at}.parquet")), part, Compression::SNAPPY, 7);
        }
    }
    write(root, "lines/test.jsonl", &some(9));
    let read = |path: &str, split: &str, most: Option<usize>| -> Vec<String> {
        let config = DatasetConfig { split: Some(split.to_owned()), max_records: most, ..DatasetConfig::new(path) };
        let Ok(records) = Records::open(&config, root) else { return Vec::new() };
        let mut reader = records.read();
        let mut found = Vec::new();
        while let Some(batch) = reader.next_batch(13).unwrap() {
            found.extend(batch.into_iter().map(|record| match record.unwrap().content {
                Content::Text(text) => text,
                other => panic!("{other:?}"),
            }));
        }
        found
    };
    let whole: Vec<String> = (1..=88).map(|number| format!("record {number}")).collect();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for path in ["lines", "csv", "parquet"] {
        assert_eq!(read(path, "train", None), whole, "{path}");
        for _ in 0..40 {
            let (from, to) = (random.random_range(0..95usize), random.random_range(0..95usize));
            let expected = &whole[from.min(88).min(to.min(88))..to.min(88)];
            let expected = if from > to { &[][..] } else { expected };
            assert_eq!(read(path, &format!("train[{from}:{to}]"), None), expected, "{path} {from}:{to}");
            let last = from.min(88);
            assert_eq!(
                read(path, &format!("train[-{from}:]"), None),
                if from == 0 { &whole[..] } else { &whole[88 - last..] }
            );
            let most = random.random_range(1..20);
            let expected: Vec<String> = whole[from.min(88)..].iter().take(most).cloned().collect();
            assert_eq!(read(path, &format!("train[{from}:]"), Some(most)), expected);
            // And what is left out is not given again.
            let config = DatasetConfig { split: Some("train".to_owned()), ..DatasetConfig::new(path) };
            let records = Records::open(&config, root).unwrap();
            let mut reader = records.read();
            assert_eq!(reader.skip(from).unwrap(), from.min(88));
            let next = reader.next_batch(1).unwrap().map(|mut batch| batch.remove(0).unwrap().content);
            assert_eq!(next, whole.get(from).map(|text| Content::Text(text.clone())), "{path} {from}");
        }
        assert_eq!(read(path, "train[:10%]", None), &whole[..9]);
    }
    let sum = read("lines", "train[-2:] + test[:3]", None);
    assert_eq!(sum, ["record 87", "record 88", "record 89", "record 90", "record 91"]);
}

fn csv_of(lines: &str) -> String {
    let cells = lines.lines().filter(|line| !line.is_empty()).map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        format!("{}\n", record["text"].as_str().unwrap())
    });
    format!("text\n{}", cells.collect::<String>())
}

#[test]
fn the_fast_way_of_encoding_is_the_slow_one() {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |numbers: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    };
    let sequence = |parts: &[Value]| json!({"type": "Sequence", "pretokenizers": parts});
    let file: Value = serde_json::from_slice(&std::fs::read(golden("tokenizer.json")).unwrap()).unwrap();
    for pre_tokenizer in [
        level(true),
        sequence(&[digits, level(true)]),
        sequence(&[split(r"\p{N}{1,3}"), level(false)]),
        sequence(&[split(r"\p{N}"), level(false)]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut file = file.clone();
        file["pre_tokenizer"] = pre_tokenizer.clone();
        // Offsets are compared, and a post-processor of this kind trims blanks off them.
        file["post_processor"] = Value::Null;
        write(folder.path(), "tokenizer.json", &file.to_string());
        let tokenizer = TextTokenizer::from_folder(folder.path(), None).unwrap();
        assert!(tokenizer.is_fast(), "{pre_tokenizer}");
        for seed in 0..4000 {
            let text = text(&mut ChaCha8Rng::seed_from_u64(seed), 14);
            let slow = tokenizer.inner().encode(text.as_str(), false).unwrap();
            let fast = tokenizer.encode(&text, false).unwrap();
            assert_eq!(fast.ids, slow.get_ids(), "seed {seed}: {text:?} {pre_tokenizer}");
            assert_eq!(fast.offsets, slow.get_offsets(), "seed {seed}: {text:?} {pre_tokenizer}");
        }
    }
}
