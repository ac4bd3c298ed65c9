//! From a JSON object to a record: recognising the format, checking it, and bringing conversations into the
//! one form that chat templates expect.

use serde_json::{Map, Value, json};

use crate::dataset::{FieldNames, RecordType, quoted};
use crate::messages::{Conversation, checked_messages, parsed_tools};
use crate::reader::{RawRecord, kind};
use crate::record::Content;

type Object = Map<String, Value>;

/// The format that the fields say, if they say any.
pub(crate) fn detect(value: &Object, fields: &FieldNames) -> Option<RecordType> {
    if let Some(key) = conversation_key(value, fields) {
        let first = match &value[key] {
            Value::Array(list) => list.first().cloned(),
            // CSV, and Parquet files written from text, hold the list as JSON in a string.
            Value::String(text) => serde_json::from_str::<Vec<Value>>(text).ok()?.into_iter().next(),
            _ => return None,
        };
        return match first {
            Some(Value::Object(turn)) if turn.contains_key("from") => Some(RecordType::Sharegpt),
            None if key.starts_with("conversation") => Some(RecordType::Sharegpt),
            _ => Some(RecordType::Chat),
        };
    }
    let has = |name: &Option<String>, usual: &str| value.contains_key(name.as_deref().unwrap_or(usual));
    if has(&fields.instruction, "instruction") && has(&fields.output, "output") {
        Some(RecordType::Alpaca)
    } else if has(&fields.prompt, "prompt") && has(&fields.completion, "completion") {
        Some(RecordType::PromptCompletion)
    } else if has(&fields.text, "text") {
        Some(RecordType::Text)
    } else {
        None
    }
}

/// Every field that a record of any format may have; the columns of a Parquet file that are read.
pub(crate) fn known_fields(fields: &FieldNames) -> Vec<&str> {
    let named = [
        (&fields.messages, "messages"),
        (&fields.prompt, "prompt"),
        (&fields.completion, "completion"),
        (&fields.text, "text"),
        (&fields.instruction, "instruction"),
        (&fields.input, "input"),
        (&fields.output, "output"),
        (&fields.system, "system"),
        (&fields.tools, "tools"),
    ];
    let mut known: Vec<&str> = named.iter().map(|(name, usual)| name.as_deref().unwrap_or(usual)).collect();
    known.extend(["conversations", "conversation", "history", "chosen", "rejected"]);
    known
}

/// The record's content as `record_type`, or what is wrong with it.
pub(crate) fn to_record(record: &RawRecord, record_type: RecordType, fields: &FieldNames) -> Result<Content, String> {
    let value = &record.value;
    match record_type {
        RecordType::Chat => chat(value, fields),
        RecordType::Sharegpt => sharegpt(value, fields),
        RecordType::Alpaca => alpaca(value, fields),
        RecordType::PromptCompletion => prompt_completion(value, fields),
        RecordType::Text => Ok(Content::Text(required(value, &fields.text, "text")?.to_owned())),
    }
}

fn chat(value: &Object, fields: &FieldNames) -> Result<Content, String> {
    let key = conversation_key(value, fields).ok_or_else(|| missing(value, &fields.messages, "messages"))?;
    let mut list = list_of(value, key)?;
    if let Some(system) = system_text(value, fields)? {
        // A system prompt beside the messages is one more message, unless they bring their own.
        if !system.is_empty() && list.first().and_then(|first| first.get("role")) != Some(&json!("system")) {
            list.insert(0, json!({"role": "system", "content": system}));
        }
    }
    with_tools(value, fields, checked_messages(list, key)?)
}

/// The system prompt beside the messages: a text, or the list of texts of Amazon Bedrock's conversations.
fn system_text(value: &Object, fields: &FieldNames) -> Result<Option<String>, String> {
    let key = fields.system.as_deref().unwrap_or("system");
    let Some(Value::Array(parts)) = value.get(key) else {
        return Ok(optional(value, &fields.system, "system")?.map(str::to_owned));
    };
    let texts: Option<Vec<&str>> = parts.iter().map(|part| part.get("text").and_then(Value::as_str)).collect();
    let texts = texts.ok_or_else(|| format!("`{key}` is a list of other things than `{{\"text\": ..}}`"))?;
    Ok(Some(texts.join("\n")))
}

fn sharegpt(value: &Object, fields: &FieldNames) -> Result<Content, String> {
    let key = conversation_key(value, fields).ok_or_else(|| missing(value, &fields.messages, "conversations"))?;
    let mut list = Vec::new();
    if let Some(system) = optional(value, &fields.system, "system")?
        && !system.is_empty()
    {
        list.push(json!({"role": "system", "content": system}));
    }
    for (index, turn) in list_of(value, key)?.into_iter().enumerate() {
        list.push(sharegpt_turn(&turn).map_err(|message| format!("`{key}`[{index}]: {message}"))?);
    }
    with_tools(value, fields, checked_messages(list, key)?)
}

fn sharegpt_turn(turn: &Value) -> Result<Value, String> {
    let Value::Object(turn) = turn else {
        return Err(format!("expected an object with `from` and `value`, found {}", kind(turn)));
    };
    let from = required(turn, &None, "from")?;
    let text = required(turn, &None, "value")?;
    let mut message = match from {
        "human" | "user" => json!({"role": "user", "content": text}),
        "gpt" | "assistant" | "chatgpt" | "bard" | "bing" => {
            json!({"role": "assistant", "content": text})
        }
        "system" => json!({"role": "system", "content": text}),
        "observation" | "tool" | "function_response" => json!({"role": "tool", "content": text}),
        "function_call" => {
            let call: Value = serde_json::from_str(text).map_err(|error| {
                format!("a `function_call` must be JSON like {{\"name\": .., \"arguments\": {{..}}}}: {error}")
            })?;
            let calls = match call {
                Value::Array(calls) => calls,
                call => vec![call],
            };
            let calls: Vec<Value> =
                calls.into_iter().map(|call| json!({"type": "function", "function": call})).collect();
            json!({"role": "assistant", "content": "", "tool_calls": calls})
        }
        other => {
            return Err(format!("`from` is `{other}`: expected human, gpt, system, function_call or observation"));
        }
    };
    if let Some(weight) = turn.get("weight")
        && let Some(message) = message.as_object_mut()
    {
        message.insert("weight".to_owned(), weight.clone());
    }
    Ok(message)
}

/// As LLaMA-Factory reads Alpaca: the input follows the instruction on a line of its own, `history` holds
/// earlier pairs.
fn alpaca(value: &Object, fields: &FieldNames) -> Result<Content, String> {
    let instruction = required(value, &fields.instruction, "instruction")?;
    let output = required(value, &fields.output, "output")?;
    let input = optional(value, &fields.input, "input")?.unwrap_or_default();
    let mut messages = Vec::new();
    if let Some(system) = optional(value, &fields.system, "system")?
        && !system.is_empty()
    {
        messages.push(json!({"role": "system", "content": system}));
    }
    let history = match value.get("history") {
        None | Some(Value::Null) => Vec::new(),
        Some(_) => list_of(value, "history")?,
    };
    for (index, pair) in history.iter().enumerate() {
        let (Some(user), Some(answer)) = (pair.get(0).and_then(Value::as_str), pair.get(1).and_then(Value::as_str))
        else {
            return Err(format!(
                "`history`[{index}]: expected [instruction, answer], two strings, found {}",
                kind(pair)
            ));
        };
        messages.push(json!({"role": "user", "content": user}));
        messages.push(json!({"role": "assistant", "content": answer}));
    }
    let asked = match (instruction, input) {
        (instruction, "") => instruction.to_owned(),
        ("", input) => input.to_owned(),
        (instruction, input) => format!("{instruction}\n{input}"),
    };
    messages.push(json!({"role": "user", "content": asked}));
    messages.push(json!({"role": "assistant", "content": output}));
    with_tools(value, fields, checked_messages(messages, "instruction")?)
}

fn prompt_completion(value: &Object, fields: &FieldNames) -> Result<Content, String> {
    let prompt_key = fields.prompt.as_deref().unwrap_or("prompt");
    let completion_key = fields.completion.as_deref().unwrap_or("completion");
    let is_list = |key: &str| matches!(value.get(key), Some(Value::Array(_)));
    if !is_list(prompt_key) && !is_list(completion_key) {
        return Ok(Content::PromptCompletion {
            prompt: required(value, &fields.prompt, "prompt")?.to_owned(),
            completion: required(value, &fields.completion, "completion")?.to_owned(),
        });
    }
    for key in [prompt_key, completion_key] {
        if !is_list(key) {
            return Err(format!(
                "`{prompt_key}` and `{completion_key}` must both be strings or both be lists of messages, but \
                 `{key}` is {}",
                value.get(key).map_or("missing", kind)
            ));
        }
    }
    // Conversational prompts: only what stands in the completion is learnt.
    let prompt = checked_messages(list_of(value, prompt_key)?, prompt_key)?;
    let completion = checked_messages(list_of(value, completion_key)?, completion_key)?;
    let mut trained = vec![false; prompt.messages.len()];
    trained.extend(completion.trained);
    let mut messages = prompt.messages;
    messages.extend(completion.messages);
    with_tools(value, fields, Conversation { messages, trained })
}

fn with_tools(value: &Object, fields: &FieldNames, conversation: Conversation) -> Result<Content, String> {
    let key = fields.tools.as_deref().unwrap_or("tools");
    Ok(Content::Chat {
        messages: conversation.messages,
        trained: conversation.trained,
        tools: parsed_tools(value.get(key)).map_err(|message| format!("`{key}`: {message}"))?,
    })
}

fn conversation_key<'a>(value: &Object, fields: &'a FieldNames) -> Option<&'a str> {
    match &fields.messages {
        Some(key) => value.contains_key(key).then_some(key),
        None => ["messages", "conversations", "conversation"].into_iter().find(|key| value.contains_key(*key)),
    }
}

fn list_of(value: &Object, key: &str) -> Result<Vec<Value>, String> {
    match value.get(key) {
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| format!("`{key}` is a string that is not a JSON list: {error}"))
        }
        Some(other) => Err(format!("`{key}` is {}: expected a list", kind(other))),
        None => Err(missing(value, &None, key)),
    }
}

fn required<'a>(value: &'a Object, name: &Option<String>, usual: &str) -> Result<&'a str, String> {
    let key = name.as_deref().unwrap_or(usual);
    match value.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` is {}: expected a string", kind(other))),
        None => Err(missing(value, name, usual)),
    }
}

fn optional<'a>(value: &'a Object, name: &Option<String>, usual: &str) -> Result<Option<&'a str>, String> {
    let key = name.as_deref().unwrap_or(usual);
    match value.get(key) {
        Some(Value::String(text)) => Ok(Some(text)),
        None | Some(Value::Null) => Ok(None),
        Some(other) => Err(format!("`{key}` is {}: expected a string", kind(other))),
    }
}

fn missing(value: &Object, name: &Option<String>, usual: &str) -> String {
    let key = name.as_deref().unwrap_or(usual);
    let found: Vec<&str> = value.keys().map(String::as_str).collect();
    format!("no `{key}`, found {}", quoted(&found))
}
