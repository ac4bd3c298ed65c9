//! Whose words a token is.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// What a system or developer message says.
    System,
    /// What the user says.
    User,
    /// What the assistant says, its tool calls and the token that ends its turn.
    Assistant,
    /// What a tool gave back.
    Tool,
    /// What another role says.
    OtherRole,
    /// What the template writes around the messages: headers, tools, ends of other turns.
    Template,
    /// The prompt of a prompt/completion record.
    Prompt,
    /// The completion of a prompt/completion record.
    Completion,
    /// Plain text.
    Text,
}

impl Part {
    /// The part that a role's message is.
    pub(crate) fn of_role(role: &str) -> Self {
        match role {
            "system" | "developer" => Self::System,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" | "ipython" | "function" => Self::Tool,
            _ => Self::OtherRole,
        }
    }

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::OtherRole => "other role",
            Self::Template => "template",
            Self::Prompt => "prompt",
            Self::Completion => "completion",
            Self::Text => "text",
        }
    }
}

/// Tokens of one part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartTokens {
    /// All of them.
    pub tokens: usize,
    /// Those that are trained on.
    pub trained: usize,
}

/// How many tokens each part has.
pub type PartCounts = BTreeMap<Part, PartTokens>;

/// Where the words of each message stand in the text that a template made of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Located {
    /// Disjoint and in order of the text.
    pub(crate) parts: Vec<(Range<usize>, Part)>,
    /// Messages of which something was not found as it stands in the data: what is asked of the template itself.
    pub(crate) missing: Vec<usize>,
}

/// Looks for the messages' contents and the names of the functions they call, one after another.
pub(crate) fn locate(messages: &[Value], text: &str) -> Located {
    let mut located = Located::default();
    let mut at = 0;
    for (index, message) in messages.iter().enumerate() {
        let part = Part::of_role(message.get("role").and_then(Value::as_str).unwrap_or_default());
        let mut complete = true;
        for words in words(message) {
            match place(&text[at..], words) {
                Some(found) => {
                    located.parts.push((at + found.start..at + found.end, part));
                    at += found.end;
                }
                // Out of order, as where a template moves the system prompt into the last question.
                None => complete &= place(text, words).is_some(),
            }
        }
        if !complete {
            located.missing.push(index);
        }
    }
    located
}

/// What a message has to say: its content and the functions that it calls.
pub(crate) fn words(message: &Value) -> impl Iterator<Item = &str> {
    let content = message.get("content").and_then(Value::as_str);
    content.into_iter().chain(call_names(message)).map(str::trim).filter(|words| !words.is_empty())
}

fn call_names(message: &Value) -> impl Iterator<Item = &str> {
    let calls = message.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    calls.iter().filter_map(|call| call.get("function").unwrap_or(call).get("name")?.as_str())
}

/// The words as they are, or as they stand in a JSON string (Llama 3.1 writes what tools gave back so).
fn place(text: &str, words: &str) -> Option<Range<usize>> {
    if let Some(start) = text.find(words) {
        return Some(start..start + words.len());
    }
    if !words.contains(['"', '\\', '\n', '\t', '\r']) {
        return None;
    }
    let quoted = Value::from(words).to_string();
    let inner = &quoted[1..quoted.len() - 1];
    text.find(inner).map(|start| start..start + inner.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_found_in_order_escaped_or_moved() {
        let messages = [
            json!({"role": "system", "content": " be brief "}),
            json!({"role": "user", "content": "say \"hi\""}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "greet"}}]}),
            json!({"role": "tool", "content": "hi"}),
            json!({"role": "robot", "content": "gone"}),
        ];
        let text = "[say \\\"hi\\\"][greet][hi] be brief";
        let located = locate(&messages, text);
        let found: Vec<(&str, Part)> =
            located.parts.iter().map(|(range, part)| (&text[range.clone()], *part)).collect();
        // The system prompt stands behind all others, so what follows it is looked for from the start.
        assert_eq!(found, [("be brief", Part::System)]);
        assert_eq!(located.missing, [4]);
        let text = "be brief[say \\\"hi\\\"][greet][hi]gone";
        let located = locate(&messages, text);
        let found: Vec<(&str, Part)> =
            located.parts.iter().map(|(range, part)| (&text[range.clone()], *part)).collect();
        assert_eq!(
            found,
            [
                ("be brief", Part::System),
                ("say \\\"hi\\\"", Part::User),
                ("greet", Part::Assistant),
                ("hi", Part::Tool),
                ("gone", Part::OtherRole)
            ]
        );
        assert!(located.missing.is_empty());
    }
}
