//! Labels, equal to transformers' assistant masks and to prefix rendering in Python
//! (`tests/golden/templates/masks.json`).
//!
//! One rule differs on purpose: the goldens train a token if any of its characters is in a span, here one that
//! begins before the span is not trained, as inference never asks for it.

use rankine_data::{Dataset, Example, IGNORED, TextTokenizer, TokenizeConfig, TrainOn, tokenize};
use serde_json::{Value, json};

use crate::fixtures::{dataset, golden_json, model_folder};

struct Golden {
    file: Value,
}

impl Golden {
    fn tokenizer(&self, template: &str) -> TextTokenizer {
        let entry = &self.file["templates"][template];
        let folder = model_folder(&json!({
            "bos_token": entry["bos_token"], "eos_token": entry["eos_token"], "chat_template": entry["template"]
        }));
        TextTokenizer::from_folder(folder.path(), None).unwrap()
    }

    fn conversation(&self, case: &Value) -> Dataset {
        let messages = &self.file["conversations"][case["conversation"].as_str().unwrap()];
        dataset(&[json!({ "messages": messages })])
    }
}

fn examples(dataset: Dataset, tokenizer: &TextTokenizer, train_on: TrainOn) -> Result<Vec<Example>, String> {
    let config = TokenizeConfig { max_seq_len: 4096, train_on };
    tokenize(&[dataset], tokenizer, &config, &|_, _| {})
        .map(|tokenized| tokenized.examples)
        .map_err(|error| error.to_string())
}

fn pairs(value: &Value) -> Vec<(usize, usize)> {
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(|pair| (number(&pair[0]), number(&pair[1]))).collect()
}

/// Whether each token begins in a span, but for the first token of all, which nothing predicts.
fn begins_in(offsets: &[(usize, usize)], spans: &[(usize, usize)]) -> Vec<bool> {
    offsets
        .iter()
        .enumerate()
        .map(|(index, (start, _))| index > 0 && spans.iter().any(|(from, to)| from <= start && start < to))
        .collect()
}

#[test]
fn masks_are_those_of_the_reference() {
    let golden = Golden { file: golden_json("masks.json") };
    let (mut compared, mut straddling, mut refused, mut split) = (0, 0, 0, 0);
    for case in golden.file["cases"].as_array().unwrap() {
        let place = format!("{} {}", case["template"], case["conversation"]);
        let name = case["template"].as_str().unwrap();
        let tokenizer = golden.tokenizer(name);
        match case.get("error").and_then(Value::as_str) {
            Some("the prompt is no prefix of the turn") => {
                let error = examples(golden.conversation(case), &tokenizer, TrainOn::Assistant).unwrap_err();
                let message =
                    format!("d.jsonl:1: the chat template is not prefix-stable at message {}", case["message"]);
                assert!(error.contains(&message), "{place}: {error}");
                assert!(error.contains("<think>") && error.contains("{% generation %}"), "{place}: {error}");
                refused += 1;
                continue;
            }
            Some(_) => {
                let found = examples(golden.conversation(case), &tokenizer, TrainOn::Assistant);
                // Two answers in a row: what the model is given before the second is not in the text either.
                if case["conversation"] == "assistant-twice" {
                    let error = found.unwrap_err();
                    assert!(error.contains("not prefix-stable at message 2"), "{place}: {error}");
                    refused += 1;
                    continue;
                }
                // One conversation becomes an example for each answer that later turns rewrite.
                let found = found.unwrap();
                assert_each_answer_follows_its_prompt(&golden, case, &tokenizer, &found);
                split += 1;
                continue;
            }
            None => {}
        }
        let ids: Vec<u32> = serde_json::from_value(case["input_ids"].clone()).unwrap();
        let offsets = pairs(&case["offsets"]);
        for (train_on, key) in [(TrainOn::Assistant, "assistant"), (TrainOn::Last, "last"), (TrainOn::All, "all")] {
            let (spans, mask) = match (name.starts_with("generation"), key) {
                (_, "all") => (vec![(0, usize::MAX)], &case[key]["mask"]),
                (true, _) => (pairs(&case[key]["spans"]), &case[key]["mask"]),
                (false, _) => (pairs(&case[key]["spans_to_stop"]), &case[key]["mask_to_stop"]),
            };
            let expected = begins_in(&offsets, &spans);
            // The reference's own mask, but for tokens that begin before a span.
            let reference: Vec<u64> = serde_json::from_value(mask.clone()).unwrap();
            for (index, (expected, reference)) in expected.iter().zip(&reference).enumerate() {
                if *expected != (*reference == 1) {
                    let (start, end) = offsets[index];
                    let begins_before = spans.iter().any(|(from, _)| start < *from && *from < end);
                    assert!(index == 0 || begins_before, "{place} {key}: token {index}");
                    straddling += usize::from(begins_before);
                }
            }
            let found = examples(golden.conversation(case), &tokenizer, train_on);
            if !expected.contains(&true) {
                assert!(found.unwrap_err().contains("none of the 1 records has a token to train on"), "{place}");
                continue;
            }
            let found = found.unwrap();
            assert_eq!(found.len(), 1, "{place} {key}");
            assert_eq!(found[0].input_ids, ids, "{place} {key}");
            let trained: Vec<bool> = found[0].labels.iter().map(|label| *label != IGNORED).collect();
            assert_eq!(trained, expected, "{place} {key}");
            assert!(
                found[0].labels.iter().zip(&ids).all(|(label, id)| [IGNORED, i64::from(*id)].contains(label)),
                "{place} {key}"
            );
            compared += 1;
        }
    }
    assert!(compared > 150 && refused > 5 && split > 3, "{compared} {refused} {split}");
    assert!(straddling > 0, "no token begins before its span: the difference is not covered");
}

/// Together the examples train every answer once, each after exactly what the model is given before it.
fn assert_each_answer_follows_its_prompt(golden: &Golden, case: &Value, tokenizer: &TextTokenizer, found: &[Example]) {
    let messages = golden.file["conversations"][case["conversation"].as_str().unwrap()].as_array().unwrap();
    let template = tokenizer.chat_template().unwrap();
    let render = |count: usize, prompt: bool| {
        template.render(&messages[..count], None, prompt, &serde_json::Map::new()).unwrap().text
    };
    let mut wanted: Vec<String> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message["role"] == "assistant" {
            let (prompt, turn) = (render(index, true), render(index + 1, false));
            wanted.push(turn.strip_prefix(&prompt).unwrap().trim_end().to_owned());
        }
    }
    let mut answers = Vec::new();
    for example in found {
        let mut at = 0;
        while at < example.labels.len() {
            if example.labels[at] == IGNORED {
                at += 1;
                continue;
            }
            let length = example.labels[at..].iter().take_while(|label| **label != IGNORED).count();
            let before = tokenizer.decode(&example.input_ids[..at], false).unwrap();
            let answer = tokenizer.decode(&example.input_ids[at..at + length], false).unwrap();
            let index = (1..messages.len()).find(|index| render(*index, true) == before);
            assert!(index.is_some(), "{}: no prompt is {before:?}", case["conversation"]);
            answers.push(answer);
            at += length;
        }
    }
    assert_eq!(answers, wanted, "{}", case["conversation"]);
}
