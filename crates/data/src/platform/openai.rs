//! OpenAI's chat format: arguments of tool calls as text, every call with an id that its answer names.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::Carried;
use super::dialogue::{BECAME_MESSAGES, PLAIN_TEXT, other_fields, role};
use crate::record::Content;

const FIELDS: [&str; 6] = ["role", "content", "name", "tool_calls", "tool_call_id", "refusal"];

pub(super) fn carry(content: &Content) -> Result<Carried, String> {
    match content {
        Content::Text(_) => Err(PLAIN_TEXT.to_owned()),
        Content::PromptCompletion { prompt, completion } => Ok(Carried {
            value: json!({"messages": [
                {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]}),
            changes: vec![BECAME_MESSAGES.to_owned()],
        }),
        Content::Chat { messages, trained, tools } => {
            if !messages.iter().any(|message| role(message) == "assistant") {
                return Err("it has no answer of the assistant".to_owned());
            }
            let mut changes = other_fields(messages, &FIELDS);
            let mut calls = Calls::default();
            let mut written = Vec::with_capacity(messages.len());
            for (index, (message, trained)) in messages.iter().zip(trained).enumerate() {
                written.push(
                    carry_message(message, *trained, &mut calls).map_err(|why| format!("message {index} {why}"))?,
                );
            }
            if calls.made {
                changes.push(
                    "tool calls and their answers are given the ids, types and arguments that they lack".to_owned(),
                );
            }
            let mut value = json!({ "messages": written });
            if let Some(tools) = tools {
                let (tools, wrapped) = wrapped(tools);
                value["tools"] = tools;
                changes.extend(wrapped.then(|| "tools are put into `{\"type\": \"function\", ...}`".to_owned()));
            }
            Ok(Carried { value, changes })
        }
    }
}

/// Ids of the calls that are still to be answered.
#[derive(Default)]
struct Calls {
    open: VecDeque<Value>,
    count: usize,
    made: bool,
}

impl Calls {
    fn new_id(&mut self) -> Value {
        self.made = true;
        self.count += 1;
        json!(format!("call_{}", self.count))
    }
}

fn carry_message(message: &Value, trained: bool, calls: &mut Calls) -> Result<Value, String> {
    let role = role(message);
    if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
        return Err(format!("is {role}'s: the format knows system, developer, user, assistant and tool"));
    }
    let mut written: Map<String, Value> = Map::new();
    for (field, value) in message.as_object().into_iter().flatten() {
        match (field.as_str(), value) {
            ("tool_calls", Value::Array(list)) => {
                let list: Vec<Value> = list.iter().map(|call| carry_call(call, calls)).collect();
                written.insert(field.clone(), Value::Array(list));
            }
            (known, value) if FIELDS.contains(&known) => {
                written.insert(field.clone(), value.clone());
            }
            _ => {}
        }
    }
    if role == "tool" {
        match written.get("tool_call_id").cloned() {
            Some(id) => calls.open.retain(|open| *open != id),
            None => {
                let id = calls.open.pop_front().ok_or("(tool) answers no call before it")?;
                calls.made = true;
                written.insert("tool_call_id".to_owned(), id);
            }
        }
    }
    if role == "assistant" && !trained {
        written.insert("weight".to_owned(), json!(0));
    }
    Ok(Value::Object(written))
}

fn carry_call(call: &Value, calls: &mut Calls) -> Value {
    let mut function = call.get("function").unwrap_or(call).clone();
    if call.get("function").is_none() {
        // The wrapper is new, which reading the file again shows.
        calls.made = true;
        if let Some(function) = function.as_object_mut() {
            ["id", "type"].iter().for_each(|key| drop(function.shift_remove(*key)));
        }
    }
    let arguments = function.get("arguments").map_or_else(|| "{}".to_owned(), Value::to_string);
    calls.made |= function.get("arguments").is_none();
    function["arguments"] = json!(arguments);
    let id = match call.get("id").filter(|id| id.is_string()) {
        Some(id) => id.clone(),
        None => calls.new_id(),
    };
    calls.open.push_back(id.clone());
    calls.made |= call.get("type").is_none();
    json!({"id": id, "type": "function", "function": function})
}

fn wrapped(tools: &Value) -> (Value, bool) {
    let mut any = false;
    let list = tools.as_array().into_iter().flatten().map(|tool| {
        if tool.get("function").is_some() {
            return tool.clone();
        }
        any = true;
        json!({"type": "function", "function": tool})
    });
    (list.collect(), any)
}
