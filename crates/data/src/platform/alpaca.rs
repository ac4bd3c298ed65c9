//! Stanford Alpaca's format, with LLaMA-Factory's `system` and `history`.

use serde_json::json;

use super::Carried;
use super::bedrock::with_empty_system;
use super::dialogue::Dialogue;
use crate::record::Content;

pub(super) fn carry(content: &Content) -> Result<Carried, String> {
    let Dialogue { system, turns, changes } = Dialogue::of(content)?;
    let Some(((question, answer), history)) = turns.split_last() else {
        return Err("it has no answer".to_owned());
    };
    let mut value = json!({"instruction": question, "input": "", "output": answer});
    if let Some(system) = system.filter(|system| !system.is_empty()) {
        value["system"] = json!(system);
    }
    if !history.is_empty() {
        value["history"] = history.iter().map(|(user, answer)| json!([user, answer])).collect();
    }
    Ok(Carried { value, changes: with_empty_system(system, changes) })
}
