//! From nothing to a merged model, with the program alone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rankine_ops::{Compute, InstructionSet};
use serde_json::Value as Json;

use super::{losses, rankine, rankine_with_input, sums_to_learn};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

const RECIPE: &str = "base_model: model\nlora: {r: 4, alpha: 8}\ndatasets: [{path: x.jsonl}]\n\
    val_datasets: [{path: x.jsonl, max_records: 2}]\nwaive: [validation-in-training]\nmax_steps: 4\nmicro_batch_size: 2\n\
    gradient_accumulation_steps: 1\nlearning_rate: 1e-2\nsample_prompts: ['1 + 1 =']\n";

/// A folder with a tiny untrained model, sums to learn and a recipe.
fn workshop() -> tempfile::TempDir {
    sums_to_learn(CONFIG, RECIPE, &[])
}

fn lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_recipe_becomes_an_adapter_and_a_merged_model() {
    let folder = workshop();
    let here = folder.path();
    let export = "export=[{target: merged}, {target: merged, dtype: bf16, out: half}, {target: peft, out: copy}]";
    let run = rankine(here, &["train", "recipe.yaml", "--set", export]);
    run.ends(0).says("step 4 of 4: loss").says("validation loss");
    for words in [
        "before",
        "after",
        "exact match",
        "prompt  1 + 1 =",
        "wrote runs/recipe/adapter",
        "try it: rankine generate model",
    ] {
        assert!(run.stdout.contains(words), "`{words}` is not in:\n{}", run.stdout);
    }
    for file in [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
        "adapter/tokenizer.json",
        "merged/model.safetensors",
        "metrics.jsonl",
        "plan.json",
        "recipe.json",
        "checkpoints/step-000004/state.json",
    ] {
        assert!(here.join("runs/recipe").join(file).is_file(), "{file}");
    }
    assert!(here.join("half/config.json").is_file() && here.join("copy/adapter_config.json").is_file());
    let leftovers: Vec<_> =
        walk(here).into_iter().filter(|name| name.contains(".part") || name.contains(".bare")).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");

    // The same numbers by every way to the same weights.
    let loss = |arguments: &[&str]| {
        let run = rankine(here, &[&["eval"], arguments, &["--data", "x.jsonl", "--json"]].concat());
        run.ends(0);
        lines(&run.stdout)[0]["loss"].as_f64().expect("a loss")
    };
    let adapted = loss(&["model", "--adapter", "runs/recipe"]);
    assert!((loss(&["runs/recipe/merged"]) - adapted).abs() < 1e-5);
    assert!((loss(&["model", "--adapter", "copy"]) - adapted).abs() < 1e-9);
    assert!(loss(&["model"]) > adapted + 0.1, "training changed something");
    let merge = rankine(here, &["merge", "model", "runs/recipe", "--out", "by-hand"]);
    merge.ends(0);
    assert!(merge.stdout.contains("14 tensors merged; largest difference"), "{}", merge.stdout);
    let bytes = |name: &str| std::fs::read(here.join(name)).expect("a file");
    assert!(bytes("by-hand/model.safetensors") == bytes("runs/recipe/merged/model.safetensors"));
}

#[test]
fn events_are_one_json_object_a_line() {
    let folder = workshop();
    let run = rankine(folder.path(), &["train", "recipe.yaml", "--json", "--set", "export=[{target: merged}]"]);
    run.ends(0);
    let events: Vec<String> =
        lines(&run.stdout).iter().map(|line| line["event"].as_str().expect("a name").to_owned()).collect();
    let expected =
        ["start", "eval", "sample", "step", "step", "step", "step", "eval", "sample", "checkpoint", "done", "export"];
    assert_eq!(events, expected);
    assert!(run.stderr.is_empty(), "{}", run.stderr);
    let quiet = rankine(folder.path(), &["train", "recipe.yaml", "--quiet", "--overwrite"]);
    quiet.ends(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn a_run_is_not_written_over_unless_that_is_asked_for() {
    let folder = workshop();
    let train = |more: &[&str]| rankine(folder.path(), &[&["train", "recipe.yaml"], more].concat());
    train(&["--resume"]).ends(2).says("there is no run in runs/recipe");
    train(&[]).ends(0);
    train(&[]).ends(2).says("already holds a run").says("--overwrite");
    train(&["--overwrite", "--set", "max_steps=2"]).ends(0);
    assert!(!folder.path().join("runs/recipe/checkpoints/step-000004").exists());
    train(&["--resume", "--set", "max_steps=2"]).ends(0).says("step 2 of 2");
    train(&["--resume"]).ends(2).says("schedule.total_steps: 2 then, 4 now");
    train(&["--resume", "--overwrite"]).ends(2);
}

#[test]
fn ctrl_c_writes_a_checkpoint_and_says_how_to_go_on() {
    let folder = workshop();
    let arguments = ["train", "recipe.yaml", "--set", "max_steps=3000", "--set", "lr_scheduler=constant"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankine"));
    command.args(arguments).current_dir(folder.path()).env("RANKINE_CACHE", folder.path().join(".cache"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let metrics = folder.path().join("runs/recipe/metrics.jsonl");
    let begun = Instant::now();
    while !std::fs::read_to_string(&metrics).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step was done");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(
        stderr.contains("rankine train recipe.yaml --set max_steps=3000 --set lr_scheduler=constant --resume"),
        "{stderr}"
    );
    let checkpoints = std::fs::read_dir(folder.path().join("runs/recipe/checkpoints")).expect("checkpoints").count();
    assert!(checkpoints >= 1);
}

#[test]
fn a_loss_that_is_not_a_number_fails_with_its_records() {
    let folder = workshop();
    let run =
        rankine(folder.path(), &["train", "recipe.yaml", "--set", "learning_rate=1e38", "--set", "max_grad_norm=0"]);
    run.ends(1).says("the loss is NaN").says("x.jsonl:").says("learning_rate");
}

#[test]
fn text_is_generated_and_answered() {
    let folder = workshop();
    let here = folder.path();
    let generate = |more: &[&str]| rankine(here, &[&["generate", "model", "--max-new-tokens", "4"], more].concat());
    let plain = generate(&["--prompt", "1 + 1 ="]);
    plain.ends(0);
    let json = generate(&["--prompt", "1 + 1 =", "--json"]);
    assert_eq!(lines(&json.stdout)[0]["text"].as_str().map(|text| format!("{text}\n")), Some(plain.stdout.clone()));
    assert_eq!(lines(&json.stdout)[0]["new_tokens"], 4);
    std::fs::write(here.join("chat.json"), r#"{"messages": [{"role": "user", "content": "hi"}]}"#).expect("written");
    generate(&["--messages", "chat.json"]).ends(0);
    std::fs::write(here.join("chat.json"), r#"[{"content": "hi"}]"#).expect("written");
    generate(&["--messages", "chat.json"]).ends(2).says("message 1 has no `role`");
    generate(&["--prompt", ""]).ends(2).says("no tokens");
    generate(&["--prompt", "x", "--temperature", "-1", "--top-p", "2"])
        .ends(2)
        .says("temperature is -1")
        .says("top_p is 2");
    generate(&[]).ends(2);
    let chat = rankine_with_input(
        here,
        &["chat", "model", "--max-new-tokens", "3"],
        "hello\n/nothing\n/reset\nhi\n/quit\nnever\n",
    );
    chat.ends(0).says("there is no `/nothing`");
    assert!(chat.stdout.matches('\n').count() >= 2, "{}", chat.stdout);
}

#[test]
fn an_evaluation_cuts_nothing() {
    let folder = workshop();
    let eval = |more: &[&str]| rankine(folder.path(), &[&["eval", "model"], more].concat());
    let run = eval(&["--data", "x.jsonl"]);
    run.ends(0);
    assert!(run.stdout.contains("exact match") && run.stdout.contains("perplexity"), "{}", run.stdout);
    eval(&["--data", "x.jsonl", "--max-seq-len", "6"]).ends(2).says("are longer than 6 tokens");
    eval(&["--data", "none.jsonl"]).ends(2).says("none.jsonl");
    eval(&["--data", "x.jsonl", "--type", "poem"]).ends(2).says("prompt-completion");
}

#[test]
fn a_new_model_is_whole_or_not_there() {
    let folder = workshop();
    let init = |more: &[&str]| rankine(folder.path(), &[&["init", "config.json", "--out", "new"], more].concat());
    init(&[]).ends(2).says("needs a tokenizer");
    init(&["--train-tokenizer", "none.jsonl"]).ends(2).says("none.jsonl");
    init(&["--train-tokenizer", "x.jsonl", "--vocab-size", "100"]).ends(2).says("a vocabulary of 100");
    assert!(!folder.path().join("new").exists() && !folder.path().join("new.part").exists());
    init(&["--tokenizer", "model/tokenizer.json", "--dtype", "bf16"]).ends(0);
    init(&["--tokenizer", "model/tokenizer.json"]).ends(2).says("something is there already");
    rankine(folder.path(), &["generate", "new", "--prompt", "x", "--max-new-tokens", "2"]).ends(0);
}

#[test]
fn a_model_that_is_trained_whole_is_a_model() {
    let folder = workshop();
    let sets = ["--set", "adapter=full", "--set", "lora=", "--set", "export=[{target: merged, dtype: bf16}]"];
    rankine(folder.path(), &[&["train", "recipe.yaml"], &sets[..]].concat()).ends(0);
    for model in ["runs/recipe", "runs/recipe/model", "runs/recipe/merged"] {
        rankine(folder.path(), &["generate", model, "--prompt", "1", "--max-new-tokens", "2"]).ends(0);
    }
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(walk(&path));
        }
    }
    found
}

/// Dropout and DoRA change what is around the frozen product, not how it is computed.
#[test]
fn every_adapter_multiplies_as_the_recipe_says() {
    let folder = workshop();
    let here = folder.path();
    let loss = |way: &str, adapter: &str| -> f64 {
        let sets =
            [format!("base_compute={way}"), format!("output_dir=run-{way}-{}", adapter.len()), adapter.to_owned()];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        rankine(here, &[&["train", "recipe.yaml", "--overwrite"], &sets[..]].concat()).ends(0);
        *losses(&here.join(format!("run-{way}-{}", adapter.len())), "step").first().expect("a step")
    };
    for adapter in ["lora={r: 4, alpha: 8, dropout: 0.5}", "adapter=dora"] {
        let (exact, rounded) = (loss("f32", adapter), loss("int8", adapter));
        assert!(exact != rounded, "{adapter}: int8 computes what f32 computes");
        assert!((exact - rounded).abs() < 5e-2 * exact, "{adapter}: {exact} and {rounded}");
    }
}

/// Every way to multiply learns, says what it does to the loss, and is part of what a resume must find the same.
#[test]
fn the_base_can_be_multiplied_in_integers() {
    let folder = workshop();
    let here = folder.path();
    let loss = |way: &str| -> f64 {
        let (set, out) = (format!("base_compute={way}"), format!("output_dir=run-{way}"));
        let run = rankine(here, &["train", "recipe.yaml", "--set", &set, "--set", &out]);
        run.ends(0);
        let computed = |compute: Compute| compute.on(InstructionSet::current());
        match way {
            "f32" => &run,
            "int16" if computed(Compute::Int16) == Compute::Bf16x2 => run
                .says("base_compute int16, computed in pairs of bf16 on this processor")
                .says("the first 8 records have a loss of"),
            "int8" if computed(Compute::Int8) == Compute::Bf16 => run
                .says("base_compute int8, computed in bf16 on this processor")
                .says("the first 8 records have a loss of"),
            _ => run.says(&format!("base_compute {way}: the first 8 records have a loss of")),
        };
        *losses(&here.join(format!("run-{way}")), "step").last().expect("a step")
    };
    let exact = loss("f32");
    assert!((loss("int16") - exact).abs() < 2e-3 * exact, "int16");
    assert!((loss("int8") - exact).abs() < 5e-2 * exact, "int8");
    let set = ["--set", "base_compute=int8", "--set", "output_dir=run-int16", "--set", "max_steps=6"];
    rankine(here, &[&["train", "recipe.yaml", "--resume"], &set[..]].concat()).ends(2).says("base_compute");
    rankine(here, &["plan", "recipe.yaml", "--set", "base_compute=int4"]).ends(2).says("int16");
}

/// A base in 4 or 8 bits learns, takes less memory in the plan's words, is part of what a resume must find the same, and
/// is refused where it cannot be, all faults at once.
#[test]
fn the_base_can_be_held_in_fewer_bits() {
    let folder = workshop();
    let here = folder.path();
    let trained = |format: &str, adapter: &str| {
        let out = format!("output_dir=run-{format}");
        let adapter = ["--set", &out, "--set", adapter];
        let quantize = format!("quantize={format}");
        let quantize = if format == "no" { vec![] } else { vec!["--set", &quantize] };
        rankine(here, &[&["train", "recipe.yaml", "--overwrite"], &adapter[..], &quantize[..]].concat()).ends(0);
        losses(&here.join(format!("run-{format}")), "step")
    };
    for adapter in ["adapter=lora", "adapter=dora", "lora={r: 4, alpha: 8, dropout: 0.1}"] {
        let exact = trained("no", adapter);
        for format in ["int8", "nf4", "int4"] {
            let found = trained(format, adapter);
            let most = if format == "int8" { 0.02 } else { 0.25 };
            assert_eq!(found.len(), exact.len());
            for (found, exact) in found.iter().zip(&exact) {
                assert!(
                    found != exact && (found - exact).abs() < most * exact,
                    "{format}, {adapter}: {found}, {exact}"
                );
            }
        }
    }
    let plan = rankine(here, &["plan", "recipe.yaml", "--set", "quantize=nf4"]);
    plan.ends(0);
    assert!(plan.stdout.contains("linear layers in nf4, the rest in"), "{}", plan.stdout);
    let sets = ["--set", "quantize=int4", "--set", "output_dir=run-nf4", "--set", "max_steps=6"];
    rankine(here, &[&["train", "recipe.yaml", "--resume"], &sets[..]].concat()).ends(2).says("quantize");
    let sets = ["--set", "quantize=nf4", "--set", "base_compute=int8", "--set", "adapter=full"];
    let refused = rankine(here, &[&["plan", "recipe.yaml"], &sets[..]].concat());
    refused.ends(2).says("keeps integers of every weight").says("`adapter: full`");
    rankine(here, &["plan", "recipe.yaml", "--set", "quantize=fp4"]).ends(2).says("nf4");
}

/// Activations that are computed again are the same: the adapter and every loss, to the bit.
#[test]
fn gradient_checkpointing_changes_no_bit() {
    let folder = workshop();
    let here = folder.path();
    let trained = |way: &str, adapter: &str| {
        let sets = [format!("gradient_checkpointing={way}"), "output_dir=run".to_owned(), adapter.to_owned()];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        rankine(here, &[&["train", "recipe.yaml", "--overwrite"], &sets[..]].concat()).ends(0);
        let adapter = std::fs::read(here.join("run/adapter/adapter_model.safetensors")).expect("an adapter");
        // As bits, in which no two losses are taken for one.
        (adapter, losses(&here.join("run"), "step").into_iter().map(f64::to_bits).collect::<Vec<_>>())
    };
    for adapter in ["adapter=lora", "adapter=dora"] {
        let expected = trained("none", adapter);
        for way in ["block", "every 2", "every 1"] {
            assert!(trained(way, adapter) == expected, "{way}, {adapter}");
        }
    }
    let plan = rankine(here, &["plan", "recipe.yaml", "--set", "gradient_checkpointing=every 2"]);
    plan.ends(0);
    assert!(plan.stdout.contains("activations computed again: every 2"), "{}", plan.stdout);
    rankine(here, &["plan", "recipe.yaml", "--set", "gradient_checkpointing=every 0"]).ends(2).says("`every N`");
}

#[test]
fn a_bench_tells_speed_parts_and_memory() {
    let folder = workshop();
    let here = folder.path();
    let run =
        rankine(here, &["bench", "model", "--batch", "2", "--seq", "32", "--steps", "2", "--rank", "2", "--json"]);
    run.ends(0);
    let report = &lines(&run.stdout)[0];
    let number = |value: &Json| value.as_f64().unwrap_or_else(|| panic!("a number in {report}"));
    let parts: f64 = ["forward", "head", "backward", "gradients", "optimizer"]
        .map(|part| number(&report["parts"][part]))
        .iter()
        .sum();
    assert!((parts - number(&report["step_seconds"])).abs() < 1e-9, "the parts are the step: {report}");
    assert!((number(&report["tokens_per_second"]) * parts - 64.0).abs() < 1e-6, "{report}");
    assert!(number(&report["loss"]) > 0.0 && report["machine"]["used"].is_string(), "{report}");
    let portable = ["bench", "recipe.yaml", "--seq", "16", "--steps", "1", "--instruction-set", "portable"];
    let run = rankine(here, &portable);
    run.ends(0).says("step 1 of 1");
    for words in ["tokens/s", "head and loss", "optimizer", "portable", "2 sequences of 16 tokens"] {
        assert!(run.stdout.contains(words), "`{words}` is not in:\n{}", run.stdout);
    }
    rankine(here, &["bench", "model", "--seq", "65"]).ends(2).says("the model's context holds 64 tokens");
    rankine(here, &["bench", "model", "--batch", "0"]).ends(2).says("`--batch` is 0");
    rankine(here, &["bench", "model", "--seq", "8", "--instruction-set", "mmx"]).ends(2).says("avx2");
    rankine(here, &["bench", "nowhere"]).ends(2);
}
