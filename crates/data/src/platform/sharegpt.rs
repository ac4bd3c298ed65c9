//! ShareGPT's format with LLaMA-Factory's tools.

use serde_json::{Value, json};

use super::Carried;
use super::dialogue::{BECAME_MESSAGES, PLAIN_TEXT, developer, other_fields, role, text, unambiguous_arguments};
use crate::record::Content;

pub(super) fn carry(content: &Content) -> Result<Carried, String> {
    match content {
        Content::Text(_) => Err(PLAIN_TEXT.to_owned()),
        Content::PromptCompletion { prompt, completion } => Ok(Carried {
            value: json!({"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": completion}]}),
            changes: vec![BECAME_MESSAGES.to_owned()],
        }),
        Content::Chat { messages, trained, tools } => {
            let mut changes = other_fields(messages, &["role", "content", "tool_calls", "tool_call_id"]);
            changes.extend(developer(messages));
            let mut turns = Vec::with_capacity(messages.len());
            for (index, (message, trained)) in messages.iter().zip(trained).enumerate() {
                carry_message(message, index, *trained, &mut turns, &mut changes)?;
            }
            let mut value = json!({ "conversations": turns });
            if let Some(tools) = tools {
                value["tools"] = json!(tools.to_string());
            }
            Ok(Carried { value, changes })
        }
    }
}

fn carry_message(
    message: &Value,
    index: usize,
    trained: bool,
    turns: &mut Vec<Value>,
    changes: &mut Vec<String>,
) -> Result<(), String> {
    let mut change = |what: &str| {
        if !changes.iter().any(|known| known == what) {
            changes.push(what.to_owned());
        }
    };
    let from = match role(message) {
        "system" | "developer" => "system",
        "user" => "human",
        "assistant" => "gpt",
        "tool" => "observation",
        other => return Err(format!("message {index} is {other}'s: the format knows system, human, gpt and tools")),
    };
    if message.get("tool_call_id").is_some() {
        change("the ids of tool calls are left out");
    }
    let mut push = |from: &str, value: Value| {
        let mut turn = json!({"from": from, "value": value});
        if from != "human" && from != "system" && from != "observation" && !trained {
            turn["weight"] = json!(0);
        }
        turns.push(turn);
    };
    let calls = message.get("tool_calls").and_then(Value::as_array).filter(|calls| !calls.is_empty());
    let Some(calls) = calls else {
        push(from, json!(text(message, index)?));
        return Ok(());
    };
    if let Some(content) = message.get("content").and_then(Value::as_str).filter(|content| !content.is_empty()) {
        change("a message that says something and calls a tool becomes two");
        push(from, json!(content));
    }
    if calls.iter().any(|call| call.get("id").is_some()) {
        change("the ids of tool calls are left out");
    }
    if calls.iter().any(|call| call.get("function").is_none()) {
        change("tool calls are put into `{\"type\": \"function\", ...}`");
    }
    let mut functions: Vec<Value> = calls.iter().map(carry_call).collect();
    let value = if functions.len() == 1 { functions.remove(0) } else { Value::Array(functions) };
    push("function_call", json!(value.to_string()));
    Ok(())
}

fn carry_call(call: &Value) -> Value {
    let mut function = call.get("function").unwrap_or(call).clone();
    if let Some(function) = function.as_object_mut().filter(|_| call.get("function").is_none()) {
        ["id", "type"].iter().for_each(|key| drop(function.shift_remove(*key)));
    }
    unambiguous_arguments(&mut function);
    function
}
