//! Amazon Bedrock's three formats.

use serde_json::{Value, json};

use super::Carried;
use super::dialogue::Dialogue;
use crate::record::Content;

/// `prompt` and `completion`: one question and its answer.
pub(super) fn prompt_completion(content: &Content) -> Result<Carried, String> {
    if let Content::PromptCompletion { prompt, completion } = content {
        return Ok(Carried { value: json!({"prompt": prompt, "completion": completion}), changes: Vec::new() });
    }
    let Dialogue { system, turns, mut changes } = Dialogue::of(content)?;
    let [(question, answer)] = turns.as_slice() else {
        return Err(format!("it has {} questions and answers: the format has one of each", turns.len()));
    };
    changes.push("messages become a prompt and a completion without roles".to_owned());
    let prompt = match system.filter(|system| !system.is_empty()) {
        Some(system) => {
            changes.push("the system prompt is put before the prompt".to_owned());
            format!("{system}\n\n{question}")
        }
        None => (*question).to_owned(),
    };
    Ok(Carried { value: json!({"prompt": prompt, "completion": answer}), changes })
}

/// The messages of the Converse API.
pub(super) fn conversation(content: &Content) -> Result<Carried, String> {
    let Dialogue { system, turns, changes } = Dialogue::of(content)?;
    let message = |role: &str, text: &str| json!({"role": role, "content": [{"text": text}]});
    let mut value = json!({"schemaVersion": "bedrock-conversation-2024"});
    if let Some(system) = system.filter(|system| !system.is_empty()) {
        value["system"] = json!([{"text": system}]);
    }
    value["messages"] = in_turn(&turns, message);
    Ok(Carried { value, changes: with_empty_system(system, changes) })
}

/// Anthropic's messages, with plain text as their content.
pub(super) fn claude_haiku(content: &Content) -> Result<Carried, String> {
    let Dialogue { system, turns, changes } = Dialogue::of(content)?;
    let mut value = json!({});
    if let Some(system) = system.filter(|system| !system.is_empty()) {
        value["system"] = json!(system);
    }
    value["messages"] = in_turn(&turns, |role, text| json!({"role": role, "content": text}));
    Ok(Carried { value, changes: with_empty_system(system, changes) })
}

fn in_turn(turns: &[(&str, &str)], message: impl Fn(&str, &str) -> Value) -> Value {
    turns.iter().flat_map(|(user, answer)| [message("user", user), message("assistant", answer)]).collect()
}

/// Said where a system prompt says nothing.
pub(super) fn with_empty_system(system: Option<&str>, mut changes: Vec<String>) -> Vec<String> {
    if system == Some("") {
        changes.push("an empty system prompt is left out".to_owned());
    }
    changes
}
