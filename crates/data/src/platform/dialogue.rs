//! A conversation without tools: what the simpler formats have a place for.

use serde_json::Value;

use crate::record::Content;

/// A system prompt and pairs of question and answer.
pub(super) struct Dialogue<'a> {
    pub(super) system: Option<&'a str>,
    pub(super) turns: Vec<(&'a str, &'a str)>,
    /// What these do not hold.
    pub(super) changes: Vec<String>,
}

/// What is said where a prompt becomes a user's message.
pub(super) const BECAME_MESSAGES: &str = "prompt and completion become a user's and an assistant's message";
/// Why plain text has no place in any of the formats.
pub(super) const PLAIN_TEXT: &str = "plain text has no question and answer";

impl<'a> Dialogue<'a> {
    /// Of a record, or why it is none.
    pub(super) fn of(content: &'a Content) -> Result<Self, String> {
        match content {
            Content::Text(_) => Err(PLAIN_TEXT.to_owned()),
            Content::PromptCompletion { prompt, completion } => {
                Ok(Self { system: None, turns: vec![(prompt, completion)], changes: vec![BECAME_MESSAGES.to_owned()] })
            }
            Content::Chat { messages, trained, tools } => {
                let mut changes = untrained(messages, trained);
                if tools.is_some() {
                    changes.push("the list of tools is left out".to_owned());
                }
                changes.extend(other_fields(messages, &["role", "content"]));
                changes.extend(developer(messages));
                let (system, messages, first) = match messages.split_first() {
                    Some((first, rest)) if is_system(first) => (Some(text(first, 0)?), rest, 1),
                    _ => (None, messages.as_slice(), 0),
                };
                Ok(Self { system, turns: turns(messages, first)?, changes })
            }
        }
    }
}

fn turns(messages: &[Value], first: usize) -> Result<Vec<(&str, &str)>, String> {
    for (index, message) in messages.iter().enumerate() {
        let expected = if index % 2 == 0 { "user" } else { "assistant" };
        let (place, found) = (first + index, role(message));
        if found == "tool" || message.get("tool_calls").is_some() {
            return Err(format!("message {place} ({found}): the format has no place for tool calls"));
        }
        if found != expected {
            return Err(format!("message {place} is {found}'s: the format wants user and assistant in turn"));
        }
    }
    if messages.is_empty() || messages.len() % 2 == 1 {
        return Err("it does not end with an answer of the assistant".to_owned());
    }
    let pairs = messages.chunks_exact(2).enumerate();
    pairs.map(|(pair, two)| Ok((text(&two[0], first + 2 * pair)?, text(&two[1], first + 2 * pair + 1)?))).collect()
}

pub(super) fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_system(message: &Value) -> bool {
    matches!(role(message), "system" | "developer")
}

pub(super) fn text(message: &Value, index: usize) -> Result<&str, String> {
    let content = message.get("content").and_then(Value::as_str);
    content.ok_or_else(|| format!("message {index} ({}) has no text", role(message)))
}

/// Said where the newer word for the system prompt becomes the older.
pub(super) fn developer(messages: &[Value]) -> Option<String> {
    let change = "the role `developer` becomes `system`".to_owned();
    messages.iter().any(|message| role(message) == "developer").then_some(change)
}

/// Arguments that are a text are written as JSON of a text: a reader takes texts for JSON.
pub(super) fn unambiguous_arguments(function: &mut Value) {
    if let Some(arguments) = function.get("arguments").filter(|arguments| arguments.is_string()).map(Value::to_string) {
        function["arguments"] = Value::from(arguments);
    }
}

/// Said where some answers are not to be trained on and the format cannot say so.
pub(super) fn untrained(messages: &[Value], trained: &[bool]) -> Vec<String> {
    let mut answers = messages.iter().zip(trained).filter(|(message, _)| role(message) == "assistant");
    let change = "that an answer is not trained on (`weight: 0`) is left out".to_owned();
    answers.any(|(_, trained)| !trained).then_some(change).into_iter().collect()
}

/// Said of each field of a message that the format has no place for.
pub(super) fn other_fields(messages: &[Value], known: &[&str]) -> Vec<String> {
    let mut changes = Vec::new();
    let fields = messages.iter().filter_map(Value::as_object).flat_map(|message| message.keys());
    for field in fields.filter(|field| !known.contains(&field.as_str())) {
        let change = format!("the field `{field}` of messages is left out");
        if !changes.contains(&change) {
            changes.push(change);
        }
    }
    changes
}
