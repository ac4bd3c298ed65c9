//! Tokens and labels, equal to those that TRL's SFTTrainer prepares (`tests/golden/trl`), where TRL is right.
//!
//! `completion_only_loss` trains everything behind the prompt: the line break after the stop token, which the model
//! never has to write, and what tools and users say in a completion of several turns. Here only answers are trained,
//! each with its stop token, so those labels are taken out of TRL's before they are compared. So are line breaks of
//! the header before the answer, which TRL trains where they are other tokens at the end of a prompt than before text.

use rankine_data::{Example, IGNORED, TextTokenizer, TokenizeConfig, TrainOn, tokenize};
use serde_json::{Value, json};

use crate::fixtures::{dataset, golden, model_folder};

fn examples(case: &Value, tokenizer: &TextTokenizer) -> Vec<Example> {
    let config = TokenizeConfig { max_seq_len: 4096, train_on: TrainOn::Assistant };
    tokenize(&[dataset(&[case["record"].clone()])], tokenizer, &config, &|_, _| {}).unwrap().examples
}

/// What stands after a stop token and before the next answer is not trained.
fn answers_only(ids: &[u32], labels: &[i64], tokenizer: &TextTokenizer, answer: &[u32]) -> Vec<i64> {
    let stop: Vec<u32> = ["<|im_end|>", "<|eot_id|>"]
        .iter()
        .filter_map(|token| tokenizer.inner().token_to_id(token))
        .filter(|id| ids.contains(id))
        .collect();
    let mut kept = labels.to_vec();
    if stop.is_empty() {
        // A tokenizer that spells the stop token out: the one answer is behind the last header.
        let last = (0..ids.len()).rev().find(|at| ids[..*at].ends_with(answer)).unwrap_or_default();
        kept[..last].fill(IGNORED);
        return kept;
    }
    let mut within = !ids.windows(answer.len()).any(|window| window == answer);
    for at in 0..ids.len() {
        within |= ids[..at].ends_with(answer);
        if !within {
            kept[at] = IGNORED;
        }
        within &= !stop.contains(&ids[at]);
    }
    kept
}

#[test]
fn tokens_and_labels_are_those_of_trl() {
    let file: Value = serde_json::from_slice(&std::fs::read(golden("../trl/trl.json")).unwrap()).unwrap();
    let (mut masks, mut completions, mut split) = (0, 0, 0);
    for case in file["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let place = format!("{} {name} {}", case["loss"], case["title"]);
        let folder = model_folder(&json!({
            "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": file["templates"][name]
        }));
        let tokenizer = TextTokenizer::from_folder(folder.path(), None).unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["input_ids"].clone()).unwrap();
        let labels: Vec<i64> = serde_json::from_value(case["labels"].clone()).unwrap();
        let labels = if case["loss"] == "assistant_only_loss" {
            masks += 1;
            labels
        } else {
            completions += 1;
            // With a letter behind it, so that its line breaks are the tokens that they are before an answer.
            let start = match name {
                "llama3" => "<|start_header_id|>assistant<|end_header_id|>\n\nA",
                _ => "<|im_start|>assistant\nA",
            };
            let mut start = tokenizer.encode(start, false).unwrap().ids;
            start.pop();
            answers_only(&ids, &labels, &tokenizer, &start)
        };
        let made = examples(case, &tokenizer);
        if made.len() > 1 {
            // Qwen3 shows an earlier answer without the thinking it was given with: TRL trains the call after a text
            // that inference never feeds, here it has an example of its own.
            assert_eq!((name, case["title"].as_str().unwrap(), made.len()), ("qwen3", "tool call", 2));
            let whole = made.iter().find(|example| example.input_ids == ids).unwrap();
            assert!(whole.labels.iter().zip(&labels).all(|(ours, theirs)| *ours == IGNORED || ours == theirs));
            split += 1;
            continue;
        }
        assert_eq!(made.len(), 1, "{place}");
        assert_eq!(made[0].input_ids, ids, "{place}");
        let text = |labels: &[i64]| -> String {
            let trained: Vec<u32> =
                labels.iter().filter(|label| **label != IGNORED).map(|label| *label as u32).collect();
            tokenizer.decode(&trained, false).unwrap()
        };
        assert_eq!(text(&made[0].labels), text(&labels), "{place}");
        assert_eq!(made[0].labels, labels, "{place}");
    }
    assert_eq!((masks, completions, split), (13, 14, 1));
}
