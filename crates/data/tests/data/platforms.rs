//! Other platforms' formats: their exact form, their limits, and that nothing is lost unsaid.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rankine_data::platform::{Conversion, Platform, convert};
use rankine_data::{Content, DatasetConfig, Record, RecordType, read_dataset, write_new};
use serde_json::{Value, json};

use crate::fixtures::dataset;

fn converted(records: &[Value], platform: Platform) -> Conversion {
    convert(&dataset(records).records, platform)
}

fn lines(conversion: &Conversion) -> Vec<Value> {
    conversion.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn dialogue() -> Value {
    json!({"messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]})
}

fn with_tools() -> Value {
    json!({
        "messages": [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "", "weight": 0, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Bonn\"}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "12"},
            {"role": "assistant", "content": "12 degrees"}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    })
}

#[test]
fn every_format_has_its_exact_form() {
    let one = |record: Value, platform| {
        let conversion = converted(&[record], platform);
        assert_eq!(conversion.written, 1, "{:?}", conversion.left_out);
        lines(&conversion).remove(0)
    };
    assert_eq!(one(dialogue(), Platform::Openai), dialogue());
    assert_eq!(one(with_tools(), Platform::Openai), with_tools());
    assert_eq!(
        one(dialogue(), Platform::BedrockConversation),
        json!({
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "be brief"}],
            "messages": [
                {"role": "user", "content": [{"text": "1+1?"}]}, {"role": "assistant", "content": [{"text": "2"}]},
                {"role": "user", "content": [{"text": "2+2?"}]}, {"role": "assistant", "content": [{"text": "4"}]}]
        })
    );
    assert_eq!(
        one(dialogue(), Platform::ClaudeHaiku),
        json!({"system": "be brief", "messages": [
            {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
            {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]})
    );
    assert_eq!(
        one(dialogue(), Platform::Alpaca),
        json!({"instruction": "2+2?", "input": "", "output": "4", "system": "be brief", "history": [["1+1?", "2"]]})
    );
    assert_eq!(
        one(with_tools(), Platform::Sharegpt),
        json!({
            "conversations": [
                {"from": "human", "value": "weather?"},
                {"from": "function_call", "value": "{\"name\":\"weather\",\"arguments\":{\"city\":\"Bonn\"}}", "weight": 0},
                {"from": "observation", "value": "12"},
                {"from": "gpt", "value": "12 degrees"}],
            "tools": "[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{}}}]"
        })
    );
    let pair = json!({"prompt": "1+1=", "completion": "2"});
    assert_eq!(one(pair.clone(), Platform::Bedrock), pair);
    assert_eq!(one(pair.clone(), Platform::PromptCompletion), pair);
    assert_eq!(
        one(json!({"instruction": "1+1?", "output": "2", "system": "be brief"}), Platform::Bedrock),
        json!({"prompt": "be brief\n\n1+1?", "completion": "2"})
    );
    let found = one(dialogue(), Platform::PromptCompletion);
    assert_eq!(found["completion"], json!([{"role": "assistant", "content": "4"}]));
    assert_eq!(found["prompt"].as_array().unwrap().len(), 4);
}

#[test]
fn what_has_no_place_is_said() {
    let records = [dialogue(), with_tools()];
    let found = converted(&records, Platform::BedrockConversation);
    assert_eq!((found.written, found.left_out.len()), (1, 1));
    assert_eq!(
        found.left_out.shown()[0].to_string(),
        "d.jsonl:2: message 1 (assistant): the format has no place for tool calls"
    );
    let changes = |record: Value, platform| -> Vec<String> {
        converted(&[record], platform).changes.into_iter().map(|(change, _)| change).collect()
    };
    assert_eq!(changes(with_tools(), Platform::Sharegpt), ["the ids of tool calls are left out"]);
    let mut weighted = dialogue();
    weighted["messages"][2]["weight"] = json!(0);
    weighted["messages"][2]["reasoning_content"] = json!("one and one");
    assert_eq!(
        changes(weighted.clone(), Platform::ClaudeHaiku),
        [
            "that an answer is not trained on (`weight: 0`) is left out",
            "the field `reasoning_content` of messages is left out"
        ]
    );
    assert_eq!(changes(weighted, Platform::Openai), ["the field `reasoning_content` of messages is left out"]);
    assert_eq!(
        changes(dialogue(), Platform::PromptCompletion),
        ["earlier answers become a part of the prompt and are not trained on"]
    );
    let text = converted(&[json!({"text": "once"})], Platform::Openai);
    assert_eq!((text.written, text.left_out.len()), (0, 1));
}

#[test]
fn limits_are_the_platforms() {
    let many = |count: usize| vec![json!({"prompt": "a", "completion": "b"}); count];
    let limits = |count, platform| {
        let found = converted(&many(count), platform);
        (found.limits.iter().map(|limit| limit.model.clone()).collect::<Vec<_>>(), found.refused)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(limits(9, Platform::Openai), (vec!["OpenAI".to_owned()], true));
    assert_eq!(limits(10, Platform::Openai), (none.clone(), false));
    assert_eq!(limits(31, Platform::ClaudeHaiku), (vec!["Claude 3 Haiku".to_owned()], true));
    assert_eq!(limits(32, Platform::ClaudeHaiku), (none.clone(), false));
    assert_eq!(limits(10_000, Platform::ClaudeHaiku), (none.clone(), false));
    assert_eq!(limits(10_001, Platform::ClaudeHaiku), (vec!["Claude 3 Haiku".to_owned()], true));
    // One model of the platform takes what another does not.
    assert_eq!(limits(99, Platform::BedrockConversation), (vec!["Llama 3.2 and 3.3".to_owned()], false));
    assert!(limits(20_001, Platform::BedrockConversation).1);
    let mut long = many(100);
    long[7]["prompt"] = json!("word ".repeat(16_000 * 6 / 5));
    let found = converted(&long, Platform::Bedrock);
    assert!(found.limits.is_empty(), "{:?}", found.limits);
    long[7]["prompt"] = json!("word ".repeat(16_010 * 6 / 5));
    let found = converted(&long, Platform::Bedrock);
    assert!(
        found.limits[0].message.contains("16000 tokens a record, and d.jsonl:8 has about 160"),
        "{:?}",
        found.limits
    );
}

/// Random records of every kind, read as any others.
fn random_record(random: &mut ChaCha8Rng) -> Value {
    match random.random_range(0..10) {
        0 => json!({"prompt": words(random), "completion": words(random)}),
        1 => json!({"text": words(random)}),
        2 => json!({"instruction": words(random), "input": words(random), "output": words(random)}),
        _ => random_chat(random),
    }
}

fn words(random: &mut ChaCha8Rng) -> String {
    const PIECES: [&str; 12] =
        ["a", " ", "\n", "\"", "\\", "é", "🦀", "</s>", "{\"x\": 1}", "null", "\t", "a longer piece of text"];
    (0..random.random_range(0..6)).map(|_| *PIECES.choose(random).unwrap()).collect()
}

fn random_chat(random: &mut ChaCha8Rng) -> Value {
    let mut messages = Vec::new();
    let plain = random.random_bool(0.5);
    if random.random_bool(0.4) {
        let role = if random.random_bool(0.8) { "system" } else { "developer" };
        messages.push(json!({"role": role, "content": words(random)}));
    }
    for _ in 0..random.random_range(1..4) {
        messages.push(json!({"role": "user", "content": words(random)}));
        if !plain && random.random_bool(0.4) {
            calls(random, &mut messages);
        }
        let mut answer = json!({"role": "assistant", "content": words(random)});
        if !plain && random.random_bool(0.3) {
            answer["weight"] = json!(random.random_range(0..2));
        }
        if !plain && random.random_bool(0.1) {
            answer["reasoning_content"] = json!(words(random));
        }
        messages.push(answer);
    }
    if random.random_bool(0.1) {
        messages.pop();
    }
    let mut record = json!({ "messages": messages });
    if !plain && random.random_bool(0.4) {
        record["tools"] = json!([{"type": "function", "function": {"name": "f", "description": words(random)}}]);
    }
    record
}

fn calls(random: &mut ChaCha8Rng, messages: &mut Vec<Value>) {
    let with_ids = random.random_bool(0.5);
    let count = random.random_range(1..3);
    let list: Vec<Value> = (0..count)
        .map(|index| {
            let arguments = match random.random_range(0..3) {
                0 => json!({"x": words(random), "n": [1, 2.5, null]}),
                1 => json!(json!({"y": words(random)}).to_string()),
                // A text that is JSON of a text.
                _ => json!(json!(words(random)).to_string()),
            };
            let mut call =
                json!({"type": "function", "function": {"name": format!("f{index}"), "arguments": arguments}});
            if with_ids {
                call["id"] = json!(format!("id{index}"));
            }
            call
        })
        .collect();
    let content = if random.random_bool(0.3) { json!(words(random)) } else { json!("") };
    messages.push(json!({"role": "assistant", "content": content, "tool_calls": list}));
    for index in 0..count {
        let mut answer = json!({"role": "tool", "content": words(random)});
        if with_ids {
            answer["tool_call_id"] = json!(format!("id{index}"));
        }
        messages.push(answer);
    }
}

fn record_type(platform: Platform) -> RecordType {
    match platform {
        Platform::Openai | Platform::BedrockConversation | Platform::ClaudeHaiku => RecordType::Chat,
        Platform::Bedrock | Platform::PromptCompletion => RecordType::PromptCompletion,
        Platform::Sharegpt => RecordType::Sharegpt,
        Platform::Alpaca => RecordType::Alpaca,
    }
}

/// Everything that is said in a record.
fn texts(content: &Content) -> Vec<String> {
    match content {
        Content::Text(text) => vec![text.clone()],
        Content::PromptCompletion { prompt, completion } => vec![prompt.clone(), completion.clone()],
        Content::Chat { messages, .. } => {
            messages.iter().filter_map(|message| message["content"].as_str()).map(str::to_owned).collect()
        }
    }
}

fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(map) => map.values().for_each(|item| strings(item, found)),
        _ => {}
    }
}

#[test]
fn nothing_is_lost_unsaid() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let raw: Vec<Value> = (0..600).map(|_| random_record(&mut random)).collect();
    let records: Vec<Record> = raw.iter().map(|raw| dataset(std::slice::from_ref(raw)).records.remove(0)).collect();
    for platform in Platform::ALL {
        let (mut file, mut written, mut whole, mut left_out) = (String::new(), Vec::new(), 0, 0);
        for (record, raw) in records.iter().zip(&raw) {
            let place = format!("{}: {raw}", platform.name());
            let conversion = convert(std::slice::from_ref(record), platform);
            if conversion.written == 0 {
                assert_eq!(conversion.left_out.len(), 1, "{place}");
                left_out += 1;
                continue;
            }
            let line: Value = serde_json::from_str(&conversion.text).unwrap();
            let mut found = Vec::new();
            strings(&line, &mut found);
            for text in texts(&record.content) {
                assert!(found.iter().any(|found| found.contains(&text)), "{place}: {text:?} is gone: {line}");
            }
            file.push_str(&conversion.text);
            written.push((conversion.changes.is_empty(), &record.content, place));
        }
        // Whatever is written is read again, and where nothing was said of a change it is the same.
        let path = folder.path().join(format!("{}.jsonl", platform.name()));
        write_new(&path, &file).unwrap();
        let config = DatasetConfig {
            record_type: Some(record_type(platform)),
            ..DatasetConfig::new(path.to_string_lossy().into_owned())
        };
        let again = read_dataset(&config, folder.path()).unwrap_or_else(|error| panic!("{}: {error}", platform.name()));
        for (again, (unchanged, content, place)) in again.records.iter().zip(&written) {
            if *unchanged {
                assert_eq!(again.content, **content, "{place}");
                whole += 1;
            }
        }
        let changed = written.len() - whole;
        assert!(whole > 40 && changed > 20 && left_out > 20, "{}: {whole} {changed} {left_out}", platform.name());
    }
}
