//! Rendered conversations, equal to transformers' to the byte (`tests/golden/templates/generate.py`).

use std::time::{Duration, UNIX_EPOCH};

use rankine_data::{ChatTemplate, SpecialTokens, TemplateError};
use serde_json::{Map, Value, json};

use crate::fixtures::{golden, golden_json};

/// 2025-01-31 12:34:56, the `now` of the goldens.
const NOW: u64 = 1_738_326_896;

pub(crate) fn template_names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(golden(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json") && name != "tokenizer.json" && name != "masks.json")
        .collect();
    names.sort();
    names
}

fn compiled(file: &Value) -> ChatTemplate {
    let token = |name: &str| file[name].as_str().map(str::to_owned);
    let special = SpecialTokens { bos: token("bos_token"), eos: token("eos_token"), ..SpecialTokens::default() };
    let template = ChatTemplate::new(file["template"].as_str().unwrap(), &special).unwrap();
    assert_eq!(file["now"], "2025-01-31T12:34:56");
    template.set_time(UNIX_EPOCH + Duration::from_secs(NOW));
    template
}

#[test]
fn every_conversation_renders_as_in_transformers() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in template_names() {
        let file = golden_json(&name);
        let template = compiled(&file);
        for case in file["cases"].as_array().unwrap() {
            count += 1;
            let place = format!("{name} {}", case["name"]);
            let kwargs = case.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default();
            let found = template.render(
                case["messages"].as_array().unwrap(),
                case.get("tools"),
                case["add_generation_prompt"].as_bool().unwrap(),
                &kwargs,
            );
            match (found, case.get("expected").and_then(Value::as_str)) {
                (Ok(found), Some(expected)) if found.text == expected => {
                    let spans = found.generated.map(|spans| {
                        spans
                            .into_iter()
                            .map(|span| {
                                let chars = |at: usize| found.text[..at].chars().count();
                                json!([chars(span.start), chars(span.end)])
                            })
                            .collect::<Vec<_>>()
                    });
                    if spans.map(Value::from).as_ref() != case.get("generation") {
                        wrong.push(format!("{place}: other generation spans than {}", case["generation"]));
                    }
                }
                (Ok(found), Some(expected)) => {
                    wrong.push(format!("{place}:\n  found    {:?}\n  expected {expected:?}", found.text))
                }
                (Ok(found), None) => {
                    wrong.push(format!("{place}: no error but {:?}, not {}", found.text, case["error"]))
                }
                (Err(error), Some(_)) => wrong.push(format!("{place}: {error}")),
                (Err(error), None) => {
                    // The template's own words are kept; Python's are not promised.
                    let raised = matches!(&error, TemplateError::Raised { message } if *message == case["error"]);
                    if case["error_kind"] == "raised" && !raised {
                        wrong.push(format!("{place}: {error}, not {}", case["error"]));
                    }
                }
            }
        }
    }
    assert!(count > 500, "only {count} cases were found");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Filters, tests, methods, operators and whitespace one by one (`fragments/generate.py`).
#[test]
fn pieces_of_templates_render_as_in_jinja2() {
    let file: Value = serde_json::from_str(include_str!("fragments/fragments.json")).unwrap();
    let context: &Map<String, Value> = file["context"].as_object().unwrap();
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let found = ChatTemplate::new(source, &SpecialTokens::default())
            .and_then(|template| template.render(&[], None, false, context));
        match (found, case["expected"].as_str()) {
            (Ok(found), Some(expected)) if found.text == expected => {}
            (Err(_), None) => {}
            (Ok(found), expected) => {
                wrong.push(format!("{source}\n  found    {:?}\n  expected {expected:?}", found.text))
            }
            (Err(error), expected) => wrong.push(format!("{source}\n  {error}\n  expected {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} pieces:\n{}", wrong.len(), wrong.join("\n"));
}
