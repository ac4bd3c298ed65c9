//! TRL's prompt and completion: texts, or lists of messages of which the completion is trained on.

use serde_json::{Value, json};

use super::Carried;
use super::dialogue::{PLAIN_TEXT, role, unambiguous_arguments};
use crate::record::Content;

pub(super) fn carry(content: &Content) -> Result<Carried, String> {
    match content {
        Content::Text(_) => Err(PLAIN_TEXT.to_owned()),
        Content::PromptCompletion { prompt, completion } => {
            Ok(Carried { value: json!({"prompt": prompt, "completion": completion}), changes: Vec::new() })
        }
        Content::Chat { messages, trained, tools } => {
            let Some((answer, prompt)) = messages.split_last().filter(|(last, _)| role(last) == "assistant") else {
                return Err("it does not end with an answer of the assistant".to_owned());
            };
            if trained.last() != Some(&true) {
                return Err("its last answer is not trained on (`weight: 0`)".to_owned());
            }
            if prompt.is_empty() {
                return Err("it has nothing before its answer".to_owned());
            }
            let mut changes = Vec::new();
            if trained.iter().rev().skip(1).any(|trained| *trained) {
                changes.push("earlier answers become a part of the prompt and are not trained on".to_owned());
            }
            let prompt: Vec<Value> = prompt.iter().map(message).collect();
            let mut value = json!({"prompt": prompt, "completion": [message(answer)]});
            if let Some(tools) = tools {
                value["tools"] = tools.clone();
            }
            Ok(Carried { value, changes })
        }
    }
}

fn message(message: &Value) -> Value {
    let mut message = message.clone();
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        unambiguous_arguments(if call.get("function").is_some() { &mut call["function"] } else { call });
    }
    message
}
