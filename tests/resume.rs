//! A run that is killed and resumed is the uninterrupted run, to the bit.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{folder, rankine, root};

const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 48,
  "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "vocab_size": 500, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "tie_word_embeddings": true, "initializer_range": 0.1, "torch_dtype": "float32"
}"#;

/// Everything that could tell a resumed run from a whole one: dropout, noise, packing, shuffling, accumulation, a
/// warm-up, an optimizer with moments, evaluations with early stopping's memory, a tied table trained in full.
const RECIPE: &str = "
base_model: base
adapter: lora
lora: {r: 4, alpha: 12, dropout: 0.1, modules_to_save: [embed_tokens]}
datasets: [{path: train.jsonl}]
val_datasets: [{path: held.jsonl}]
waive: [stop-not-trained]  # the tokenizer has no end-of-text token
max_seq_len: 96
packing: true
max_steps: 14
micro_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1e-3
warmup_steps: 3
neftune_alpha: 5
eval_steps: 5
save_steps: 2
save_total_limit: 2
early_stopping_patience: 9
load_best: true
";

pub(crate) fn records(count: usize, seed: usize) -> String {
    (0..count)
        .map(|i| {
            let number = (i * 7919 + seed) % 9973;
            format!("{{\"prompt\": \"What is {number} and then {i}?\\n\", \"completion\": \"It is {i}, {number}.\"}}\n")
        })
        .collect()
}

pub(crate) fn workplace() -> tempfile::TempDir {
    let place = folder(&[
        ("config.json", CONFIG),
        ("recipe.yaml", RECIPE),
        ("train.jsonl", &records(60, 0)),
        ("held.jsonl", &records(4, 5000)),
    ]);
    let tokenizer = root().join("tests/golden/templates/tokenizer.json");
    let tokenizer = tokenizer.to_str().expect("UTF-8");
    rankine(place.path(), &["init", "config.json", "--out", "base", "--tokenizer", tokenizer]).ends(0);
    place
}

/// The lines of metrics.jsonl that a resumed run must repeat exactly: losses, rates, norms, evaluations.
fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics.jsonl");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a whole line"));
    lines
        .filter(|line| ["step", "eval"].contains(&line["event"].as_str().expect("an event")))
        .map(|mut line| {
            for timing in ["tokens_per_second", "seconds_left", "peak_memory_bytes"] {
                line.as_object_mut().expect("an object").remove(timing);
            }
            line
        })
        .collect()
}

pub(crate) fn adapter(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("adapter/adapter_model.safetensors")).expect("an adapter")
}

/// Every folder under checkpoints/ is whole, or says by its name that it is not.
fn assert_whole(run: &Path) {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.ends_with(".part") {
            let files = ["state.json", "optimizer.safetensors", "adapter/adapter_config.json"];
            // A checkpoint that is being removed loses its state first.
            if path.join("state.json").exists() {
                for file in files {
                    assert!(path.join(file).is_file(), "{name} lacks {file}");
                }
            }
        }
    }
}

/// Starts a run and kills it with SIGKILL as soon as its metrics hold `step`.
fn kill_at(place: &Path, output: &str, step: u64, resume: bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankine"));
    let set = format!("output_dir={output}");
    command.args(["train", "recipe.yaml", "--set", &set]).args(resume.then_some("--resume"));
    command.current_dir(place).env("RANKINE_CACHE", place.join(".cache"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let begun = Instant::now();
    let file = place.join(output).join("metrics.jsonl");
    loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let reached = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if reached.filter(|line| line["event"] == "step").any(|line| line["step"].as_u64() >= Some(step)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "step {step} was never reached");
        if child.try_wait().expect("a child").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("a child");
    child.wait().expect("a child");
    assert_whole(&place.join(output));
}

#[test]
fn a_killed_and_resumed_run_is_the_uninterrupted_one_to_the_bit() {
    let place = workplace();
    killed_again_and_again(place.path());
}

#[test]
fn a_killed_and_resumed_stream_is_the_uninterrupted_one_to_the_bit() {
    let place = workplace();
    // Blocks of 7 of the 60 records: the run ends in a later epoch, and is killed within blocks.
    let recipe = format!("{RECIPE}streaming: true\nshuffle_buffer: 7\n").replace("max_steps: 14", "max_steps: 24");
    std::fs::write(place.path().join("recipe.yaml"), recipe).expect("a file");
    killed_again_and_again(place.path());
    let epochs = metrics(&place.path().join("whole"));
    assert!(epochs.iter().any(|line| line["epoch"].as_f64() > Some(1.0)), "{epochs:?}");
}

/// Of one recipe, a whole run and one that is killed again and again are the same.
fn killed_again_and_again(place: &Path) {
    rankine(place, &["train", "recipe.yaml", "--set", "output_dir=whole"]).ends(0);
    // Killed again and again: before the first checkpoint, while one is written, and after one.
    kill_at(place, "broken", 1, false);
    for step in [2, 5, 6, 9] {
        kill_at(place, "broken", step, true);
        assert!(!place.join("broken/adapter").exists(), "the run ended before it was killed at step {step}");
    }
    kill_at(place, "broken", 13, true);
    rankine(place, &["train", "recipe.yaml", "--set", "output_dir=broken", "--resume"]).ends(0);
    let (whole, broken) = (place.join("whole"), place.join("broken"));
    assert_eq!(metrics(&broken), metrics(&whole));
    assert!(adapter(&broken) == adapter(&whole), "the adapters differ");
}

#[test]
fn two_runs_of_one_recipe_are_equal_to_the_bit() {
    let place = workplace();
    let place = place.path();
    for output in ["one", "two"] {
        rankine(place, &["train", "recipe.yaml", "--set", &format!("output_dir={output}"), "--set", "max_steps=6"])
            .ends(0);
    }
    assert_eq!(metrics(&place.join("one")), metrics(&place.join("two")));
    assert!(adapter(&place.join("one")) == adapter(&place.join("two")));
}

#[test]
fn a_resume_under_another_recipe_is_refused_with_what_differs() {
    let place = workplace();
    let place = place.path();
    let run = ["train", "recipe.yaml", "--set", "output_dir=run", "--set", "max_steps=4"];
    rankine(place, &run).ends(0);
    let other = [&run[..], &["--resume", "--set", "learning_rate=5e-3"]].concat();
    let refused = rankine(place, &other);
    assert_ne!(refused.code, Some(0));
    refused.says("learning_rate");
    // The same shape with other weights is another base.
    let tokenizer = root().join("tests/golden/templates/tokenizer.json");
    let tokenizer = tokenizer.to_str().expect("UTF-8");
    rankine(place, &["init", "config.json", "--out", "other", "--tokenizer", tokenizer, "--seed", "7"]).ends(0);
    let refused = rankine(place, &[&run[..], &["--resume", "--set", "base_model=other"]].concat());
    assert_ne!(refused.code, Some(0));
    refused.says("base weights");
}
