//! Messages as chat templates expect them: checked, with tool calls as objects and weights taken out.

use serde_json::{Map, Value, json};

use crate::reader::kind;

/// Messages and, for each, whether it may be trained on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    pub(crate) trained: Vec<bool>,
}

/// Checks messages of the OpenAI form. `key` is where they stood, for what is said of faults.
pub(crate) fn checked_messages(list: Vec<Value>, key: &str) -> Result<Conversation, String> {
    if list.is_empty() {
        return Err(format!("`{key}` is empty: expected at least one message"));
    }
    let mut messages = Vec::with_capacity(list.len());
    let mut trained = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let (message, train) = checked_message(message).map_err(|fault| format!("`{key}`[{index}]: {fault}"))?;
        messages.push(message);
        trained.push(train);
    }
    Ok(Conversation { messages, trained })
}

/// Tools as a list of objects; the list may be JSON in a string, as in LLaMA-Factory's ShareGPT files and in
/// CSV. An empty list is no tools: templates ask `if tools`, and some only `is not none`.
pub(crate) fn parsed_tools(tools: Option<&Value>) -> Result<Option<Value>, String> {
    let parsed = match tools {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| format!("a string that is not JSON: {error}"))?
        }
        Some(other) => other.clone(),
    };
    match parsed {
        Value::Null => Ok(None),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) => match list.iter().position(|tool| !tool.is_object()) {
            Some(index) => Err(format!("[{index}] is {}: expected an object", kind(&list[index]))),
            None => Ok(Some(Value::Array(list))),
        },
        other => Err(format!("{}: expected a list of tools", kind(&other))),
    }
}

fn checked_message(message: Value) -> Result<(Value, bool), String> {
    let Value::Object(mut message) = message else {
        return Err(format!("expected an object with `role` and `content`, found {}", kind(&message)));
    };
    let role = match message.get("role") {
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(format!("`role` is {}: expected a string", kind(other))),
        None if message.contains_key("from") => {
            return Err("no `role`, but `from`: this is ShareGPT; say `type: sharegpt` in the recipe".to_owned());
        }
        None => return Err("no `role`: expected system, user, assistant or tool".to_owned()),
    };
    // Other roles are a template's own business, but these are other formats' words for the usual ones, and
    // most templates drop or misplace what they do not know.
    if let Some(meant) = match role.as_str() {
        "human" | "prompter" => Some("user"),
        "gpt" | "bot" | "ai" | "chatbot" | "model" => Some("assistant"),
        "" => Some("user"),
        _ => None,
    } {
        return Err(format!("`role` is `{role}`: expected system, user, assistant or tool (`{meant}` here?)"));
    }
    if let Some(call) = message.shift_remove("function_call").filter(|call| !call.is_null()) {
        message.insert("tool_calls".to_owned(), json!([{"type": "function", "function": call}]));
    }
    let calls = checked_calls(&mut message)?;
    checked_content(&mut message, calls)?;
    let weight = checked_weight(&mut message, &role)?;
    Ok((Value::Object(message), role == "assistant" && weight))
}

/// Arguments of tool calls are JSON in a string for OpenAI and an object for templates.
fn checked_calls(message: &mut Map<String, Value>) -> Result<bool, String> {
    let calls = match message.get_mut("tool_calls") {
        None => return Ok(false),
        // Templates ask `if 'tool_calls' in message`, which a null would answer with yes.
        Some(Value::Null) => {
            message.shift_remove("tool_calls");
            return Ok(false);
        }
        Some(Value::Array(calls)) if calls.is_empty() => {
            message.shift_remove("tool_calls");
            return Ok(false);
        }
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(format!("`tool_calls` is {}: expected a list", kind(other))),
    };
    for (index, call) in calls.iter_mut().enumerate() {
        let place = format!("`tool_calls`[{index}]");
        let found = kind(call);
        let function = match call {
            Value::Object(call) => call,
            _ => return Err(format!("{place} is {found}: expected an object")),
        };
        // Some datasets leave the wrapper out; templates take both.
        let function = if function.contains_key("function") {
            match function.get_mut("function") {
                Some(Value::Object(function)) => function,
                _ => {
                    return Err(format!("{place}: `function` must be an object with `name` and `arguments`"));
                }
            }
        } else {
            function
        };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(format!("{place}: no `name` of the function that is called"));
        }
        if let Some(Value::String(text)) = function.get("arguments") {
            let arguments: Value = match text.trim() {
                "" => json!({}),
                text => serde_json::from_str(text)
                    .map_err(|error| format!("{place}: `arguments` is a string that is not JSON: {error}"))?,
            };
            function.insert("arguments".to_owned(), arguments);
        }
    }
    Ok(true)
}

/// Content is text. A list of text parts is joined: all models here read text only, and most templates would
/// print such a list as Python code.
fn checked_content(message: &mut Map<String, Value>, has_calls: bool) -> Result<(), String> {
    let joined = match message.get("content") {
        Some(Value::String(_)) => return Ok(()),
        None | Some(Value::Null) if has_calls => return Ok(()),
        None => return Err("no `content`".to_owned()),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for (index, part) in parts.iter().enumerate() {
                match (part, part.get("text").and_then(Value::as_str)) {
                    (Value::String(part), _) => text.push_str(part),
                    (_, Some(part)) => text.push_str(part),
                    _ => {
                        let found = part.get("type").and_then(Value::as_str).unwrap_or(kind(part));
                        return Err(format!("`content`[{index}] is `{found}`: only text parts can be trained on"));
                    }
                }
            }
            text
        }
        Some(other) => return Err(format!("`content` is {}: expected a string", kind(other))),
    };
    message.insert("content".to_owned(), Value::String(joined));
    Ok(())
}

fn checked_weight(message: &mut Map<String, Value>, role: &str) -> Result<bool, String> {
    match message.shift_remove("weight") {
        None | Some(Value::Null) => Ok(true),
        Some(_) if role != "assistant" => {
            Err(format!("`weight` on a turn of `{role}`: only assistant turns are weighted"))
        }
        Some(weight) => match weight.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) => Ok(true),
            _ => Err(format!("`weight` is {weight}: expected 0 (not trained) or 1")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(list: Value) -> Result<Conversation, String> {
        let Value::Array(list) = list else { panic!("not a list") };
        checked_messages(list, "messages")
    }

    #[test]
    fn arguments_become_objects_and_weights_are_taken_out() {
        let found = conversation(json!([
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "weight": 0, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": [1, 2.5]}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
            {"role": "assistant", "content": "done", "tool_calls": null},
        ]))
        .unwrap();
        assert_eq!(found.trained, [false, false, false, true]);
        assert_eq!(found.messages[0], json!({"role": "user", "content": "ab"}));
        assert_eq!(
            found.messages[1],
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5]}}}]})
        );
        assert_eq!(found.messages[3], json!({"role": "assistant", "content": "done"}));
    }

    #[test]
    fn faults_name_the_message() {
        for (list, expected) in [
            (json!([]), "`messages` is empty"),
            (json!(["hi"]), "`messages`[0]: expected an object with `role` and `content`, found a string"),
            (json!([{"content": "x"}]), "no `role`"),
            (json!([{"from": "human", "value": "x"}]), "type: sharegpt"),
            (json!([{"role": "human", "content": "x"}]), "`role` is `human`: expected"),
            (json!([{"role": "user"}]), "`messages`[0]: no `content`"),
            (json!([{"role": "user", "content": 3}]), "`content` is a number: expected a string"),
            (json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]), "`messages`[1]:"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
                "`content`[0] is `image_url`: only text",
            ),
            (json!([{"role": "user", "content": "x", "weight": 1}]), "only assistant turns are weighted"),
            (json!([{"role": "assistant", "content": "x", "weight": 0.5}]), "`weight` is 0.5: expected 0"),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}]),
                "`tool_calls`[0]: `arguments` is a string that is not JSON",
            ),
            (json!([{"role": "assistant", "tool_calls": [{"function": {}}]}]), "no `name`"),
        ] {
            let message = conversation(list).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn tools_may_be_json_in_a_string() {
        assert_eq!(parsed_tools(Some(&json!("[{\"name\": \"f\"}]"))).unwrap(), Some(json!([{"name": "f"}])));
        for none in [json!(null), json!([]), json!(""), json!("[]")] {
            assert_eq!(parsed_tools(Some(&none)).unwrap(), None);
        }
        for bad in [json!("[{"), json!([1]), json!({"name": "f"})] {
            assert!(parsed_tools(Some(&bad)).is_err(), "{bad}");
        }
    }
}
