//! Whole runs of the program: what they keep, how they end, what they leave.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cli::rankine;
use crate::resume::{adapter, workplace};

fn train(place: &Path, sets: &[&str]) -> crate::cli::Run {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    rankine(place, &[&["train", "recipe.yaml"], &sets[..]].concat())
}

fn events(run: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics.jsonl");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == kind).collect()
}

fn checkpoints(run: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run.join("checkpoints")).expect("checkpoints/");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn the_best_checkpoint_is_kept_and_is_the_result() {
    let place = workplace();
    // So high a rate that the loss rises after its lowest point.
    let sets = ["output_dir=run", "learning_rate=1", "lr_scheduler=constant", "eval_steps=1", "max_steps=12"];
    train(place.path(), &sets).ends(0);
    let run = place.path().join("run");
    let evals = events(&run, "eval");
    let loss = |event: &Value| event["loss"].as_f64().expect("a loss");
    let best = evals[1..].iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("evaluations");
    let step = best["step"].as_u64().expect("a step");
    assert!(step < 12, "the loss never rose: this test shows nothing");
    let tensors = |bytes: Vec<u8>| {
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
        tensors.sort();
        tensors
    };
    let kept = std::fs::read(run.join(format!("checkpoints/step-{step:06}/adapter/adapter_model.safetensors")));
    let kept = tensors(kept.expect("the best checkpoint"));
    assert!(tensors(adapter(&run)) == kept, "the result is not the best checkpoint");
    let names = checkpoints(&run);
    assert!(names.len() <= 3, "save_total_limit is 2, and the best one is kept: {names:?}");
}

#[test]
fn a_run_ends_early_when_the_loss_stops_falling() {
    let place = workplace();
    let sets = ["output_dir=run", "learning_rate=0.3", "warmup_steps=0", "eval_steps=1", "early_stopping_patience=2"];
    train(place.path(), &sets).ends(0);
    let run = place.path().join("run");
    let stop = &events(&run, "early_stop")[0];
    let (step, best) = (stop["step"].as_u64().expect("a step"), stop["best_step"].as_u64().expect("a step"));
    assert!(step < 14 && step >= best + 2, "stopped at {step}, best at {best}");
    assert_eq!(events(&run, "step").len() as u64, step);
}

#[test]
fn a_loss_that_is_not_finite_names_step_records_and_checkpoint() {
    let place = workplace();
    let run = train(place.path(), &["output_dir=run", "learning_rate=1e38", "warmup_steps=2", "save_steps=1"]);
    run.ends(1).says("not finite").says("train.jsonl:").says("last good checkpoint: run/checkpoints/step-00000");
    assert!(!place.path().join("run/adapter").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on() {
    let place = workplace();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankine"));
    command.args(["train", "recipe.yaml", "--set", "output_dir=run", "--set", "max_steps=4000"]);
    command.current_dir(place.path()).env("RANKINE_CACHE", place.path().join(".cache")).env("NO_COLOR", "1");
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let file = place.path().join("run/metrics.jsonl");
    for _ in 0..6000 {
        if std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"step\":3,")) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("the program ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("--resume"), "{said}");
    let newest = checkpoints(&place.path().join("run")).pop().expect("a checkpoint");
    assert!(place.path().join("run/checkpoints").join(newest).join("state.json").is_file());
}

#[test]
fn every_step_is_an_event_on_stdout_and_a_line_in_the_file() {
    let place = workplace();
    let arguments = ["train", "recipe.yaml", "--json", "--set", "output_dir=run", "--set", "max_steps=3"];
    let run = rankine(place.path(), &arguments);
    run.ends(0);
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let steps: Vec<&Value> = lines.iter().filter(|line| line["event"] == "step").collect();
    assert_eq!(steps.len(), 3);
    for (event, line) in steps.into_iter().zip(events(&place.path().join("run"), "step")) {
        assert_eq!(*event, line);
        for field in ["loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "epoch", "seconds_left"] {
            assert!(line[field].is_number(), "{field} in {line}");
        }
    }
}

#[test]
fn base_with_adapter_and_merged_folder_measure_the_same() {
    let place = workplace();
    let folder = place.path();
    train(folder, &["output_dir=run", "export=[{target: merged}]", "max_steps=8", "learning_rate=1e-2"]).ends(0);
    let measure = |arguments: &[&str]| -> Value {
        let run = rankine(folder, &[&["eval"], arguments, &["--data", "held.jsonl", "--json"]].concat());
        run.ends(0);
        serde_json::from_str(&run.stdout).expect("JSON")
    };
    let base = measure(&["base"]);
    let adapted = measure(&["base", "--adapter", "run/adapter"]);
    let merged = measure(&["run/merged"]);
    let loss = |value: &Value| value["loss"].as_f64().expect("a loss");
    assert!((loss(&adapted) - loss(&merged)).abs() < 1e-5, "{adapted} {merged}");
    assert!((loss(&adapted) - loss(&base)).abs() > 1e-2, "the adapter changed nothing: {base}");
    let evaluated = events(&folder.join("run"), "eval").into_iter().map(|event| loss(&event));
    assert!(evaluated.into_iter().any(|trained| (trained - loss(&adapted)).abs() < 1e-5), "eval equals the run's own");
}

/// Every optimizer, schedule and way to train runs, and lowers the loss of what it sees again and again.
#[test]
fn every_optimizer_schedule_and_adapter_learns() {
    let place = workplace();
    let common = ["max_steps=12", "epochs=9", "lora={r: 8, alpha: 16}", "load_best=false"];
    let cases: [&[&str]; 8] = [
        &["optimizer=adamw", "learning_rate=1e-2", "lr_scheduler=linear"],
        &["optimizer=adafactor", "learning_rate=1e-2", "lr_scheduler=wsd"],
        &["optimizer=lion", "learning_rate=2e-3", "lr_scheduler=constant"],
        &["optimizer=sgd", "learning_rate=0.5", "betas=[0.9, 0.99]", "lr_scheduler=cosine-with-min"],
        &["adapter=dora", "learning_rate=1e-2", "lora.dropout=0.1"],
        &["lora.use_rslora=true", "learning_rate=1e-2", "loraplus_lr_ratio=4"],
        &["lora.modules_to_save=[lm_head, norm]", "learning_rate=1e-2", "lora.target_modules=[q_proj, v_proj]"],
        &["lora.init=gaussian", "lora.layers_to_transform=[1]", "learning_rate=2e-2", "packing=false"],
    ];
    for (index, case) in cases.iter().enumerate() {
        let output = format!("output_dir=run{index}");
        train(place.path(), &[&common[..], case, &[output.as_str()]].concat()).ends(0);
        let evals = events(&place.path().join(format!("run{index}")), "eval");
        let loss = |event: &Value| event["loss"].as_f64().expect("a loss");
        let (before, after) = (loss(&evals[0]), loss(evals.last().expect("evaluations")));
        assert!(after < before - 0.02, "{case:?}: {before} before, {after} after");
    }
}

/// k micro-batches of unequal length are one batch: the loss is divided once, by the tokens of all of them.
#[test]
fn micro_batches_of_unequal_length_are_one_batch() {
    let place = workplace();
    let records: String = (0..32)
        .map(|i| {
            let answer = "so and so ".repeat(1 + i * i % 13);
            format!("{{\"prompt\": \"Say {i}:\\n\", \"completion\": \"{answer}{i}\"}}\n")
        })
        .collect();
    std::fs::write(place.path().join("train.jsonl"), records).expect("a file");
    let common = ["packing=false", "lora={r: 4, alpha: 12}", "max_steps=6", "save_steps=3"];
    let shapes = [
        ["output_dir=one", "micro_batch_size=8", "gradient_accumulation_steps=1"],
        ["output_dir=two", "micro_batch_size=2", "gradient_accumulation_steps=4"],
        ["output_dir=auto", "micro_batch_size=auto", "gradient_accumulation_steps=4"],
    ];
    // Embedding noise has the shape of a micro-batch: without it the two are the same arithmetic.
    let recipe = std::fs::read_to_string(place.path().join("recipe.yaml")).expect("a recipe");
    std::fs::write(place.path().join("recipe.yaml"), recipe.replace("neftune_alpha: 5\n", "")).expect("a file");
    for shape in shapes {
        train(place.path(), &[&common[..], &shape].concat()).ends(0);
    }
    let (one, two) = (events(&place.path().join("one"), "step"), events(&place.path().join("two"), "step"));
    assert_eq!((one.len(), two.len()), (6, 6));
    for (one, two) in one.iter().zip(&two) {
        for field in ["loss", "grad_norm", "trained_tokens"] {
            let (a, b) = (one[field].as_f64().expect("a number"), two[field].as_f64().expect("a number"));
            assert!((a / b - 1.0).abs() < 2e-4, "step {}: {field} {a} and {b}", one["step"]);
        }
    }
    // As many sequences as with the default, in passes as large as fit: here all of them.
    assert!(adapter(&place.path().join("auto")) == adapter(&place.path().join("one")), "auto is 8 x 1, to the bit");
    let plan = rankine(place.path(), &["plan", "recipe.yaml", "--set", "micro_batch_size=auto"]);
    let words = "4 sequences a step (micro_batch_size 4 (auto) x gradient_accumulation_steps 1)";
    assert!(plan.stdout.contains(words), "{}", plan.stdout);
    // A run keeps what was chosen, whatever would be chosen now.
    let two = place.path().join("two");
    let whole = adapter(&two);
    std::fs::remove_dir_all(two.join("checkpoints/step-000006")).expect("removed");
    std::fs::remove_dir_all(two.join("adapter")).expect("removed");
    let auto = ["output_dir=two", "resume=true", "micro_batch_size=auto", "gradient_accumulation_steps=4"];
    train(place.path(), &[&common[..], &auto].concat()).ends(0);
    assert_eq!(events(&two, "step").len(), 6);
    assert!(adapter(&two) == whole, "resumed with what it began with, to the bit");
}
