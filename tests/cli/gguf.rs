//! A `.gguf` file, or a folder with one, wherever a base model is named.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::{folder, rankine, root};

const RECIPE: &str = "base_model: tiny.gguf\nlora: {r: 4, alpha: 8}\ndatasets: [{path: x.jsonl}]\nmax_steps: 6\n\
    micro_batch_size: 2\ngradient_accumulation_steps: 1\nlearning_rate: 1e-2\n\
    export: [{target: merged}, {target: merged, dtype: bf16, out: half}, {target: peft}]\n";

/// A folder with a tiny GGUF model, sums to learn and a recipe.
fn workshop() -> tempfile::TempDir {
    let records: String =
        (0..8).map(|n| format!("{{\"prompt\": \"{n} + 1 =\", \"completion\": \" {}\"}}\n", n + 1)).collect();
    let folder = folder(&[("x.jsonl", &records), ("recipe.yaml", RECIPE)]);
    fs::copy(root().join("tests/golden/gguf/tiny.gguf"), folder.path().join("tiny.gguf")).expect("the golden file");
    folder
}

fn json(file: &Path) -> Json {
    serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON")
}

#[test]
fn a_gguf_file_is_trained_on_and_merged_like_a_folder() {
    let folder = workshop();
    let here = folder.path();
    let plan = rankine(here, &["plan", "recipe.yaml"]);
    plan.ends(0);
    for words in ["tiny.gguf (llama, ", "KiB quantised, read as f32", "vocabulary 502, context 64"] {
        assert!(plan.stdout.contains(words), "`{words}` is not in:\n{}", plan.stdout);
    }
    rankine(here, &["train", "recipe.yaml"]).ends(0);
    let run = here.join("runs/recipe");
    assert_eq!(json(&run.join("adapter/adapter_config.json"))["base_model_name_or_path"], "tiny.gguf");
    for name in ["adapter", "peft", "merged"] {
        assert!(run.join(name).join("tokenizer.json").is_file(), "{name}");
    }
    let config = json(&run.join("merged/config.json"));
    assert_eq!((&config["model_type"], &config["torch_dtype"]), (&"llama".into(), &"float32".into()));
    assert_eq!(json(&here.join("half/config.json"))["torch_dtype"], "bfloat16");
    assert_eq!(json(&run.join("merged/generation_config.json"))["eos_token_id"][0], 4);

    // The same numbers by every way to the same weights.
    let loss = |arguments: &[&str]| {
        let run = rankine(here, &[&["eval"], arguments, &["--data", "x.jsonl", "--json"]].concat());
        run.ends(0);
        serde_json::from_str::<Json>(&run.stdout).expect("JSON")["loss"].as_f64().expect("a loss")
    };
    let adapted = loss(&["tiny.gguf", "--adapter", "runs/recipe"]);
    assert!(loss(&["tiny.gguf"]) > adapted + 0.1, "training changed something");
    let merged = loss(&["runs/recipe/merged"]);
    assert!((merged - adapted).abs() < 1e-5, "{merged} and {adapted}");
    fs::create_dir(here.join("in-folder")).expect("a folder");
    fs::copy(here.join("tiny.gguf"), here.join("in-folder/model.gguf")).expect("a file");
    assert!((loss(&["in-folder", "--adapter", "runs/recipe"]) - adapted).abs() < 1e-9);

    rankine(here, &["merge", "in-folder", "runs/recipe", "--out", "by-hand"]).ends(0);
    let bytes = |name: &str| fs::read(here.join(name)).expect("a file");
    assert!(bytes("by-hand/model.safetensors") == bytes("runs/recipe/merged/model.safetensors"));
    let say = |model: &[&str]| {
        let prompt = ["--prompt", "3 + 1 =", "--max-new-tokens", "8", "--temperature", "0"];
        let run = rankine(here, &[&["generate"], model, &prompt].concat());
        run.ends(0);
        run.stdout
    };
    assert_eq!(say(&["tiny.gguf", "--adapter", "runs/recipe"]), say(&["by-hand"]));
}

#[test]
fn a_whole_model_is_trained_from_a_gguf_file_and_a_run_resumes_on_the_same_one() {
    let folder = workshop();
    let here = folder.path();
    let recipe = RECIPE.replace("lora: {r: 4, alpha: 8}", "adapter: full\noutput_dir: full");
    let (recipe, _) = recipe.split_once("export:").expect("exports");
    fs::write(here.join("full.yaml"), recipe).expect("a file");
    rankine(here, &["train", "full.yaml"]).ends(0);
    rankine(here, &["eval", "full", "--data", "x.jsonl"]).ends(0);
    rankine(here, &["train", "recipe.yaml", "--set", "max_steps=2"]).ends(0);
    let mut bytes = fs::read(here.join("tiny.gguf")).expect("a file");
    if let Some(last) = bytes.last_mut() {
        *last ^= 0x40;
    }
    fs::write(here.join("tiny.gguf"), bytes).expect("a file");
    rankine(here, &["train", "recipe.yaml", "--set", "max_steps=2", "--resume"]).ends(2).says("base weights");
}

#[test]
fn what_is_wrong_with_a_gguf_file_is_said() {
    let folder = workshop();
    let here = folder.path();
    let whole = fs::read(here.join("tiny.gguf")).expect("a file");
    fs::write(here.join("tiny.gguf"), &whole[..whole.len() - 4096]).expect("a file");
    rankine(here, &["plan", "recipe.yaml"]).ends(2).says("tiny.gguf").says("the file is truncated: download it again");
    rankine(here, &["generate", "tiny.gguf", "--prompt", "a"]).ends(2).says("the file is truncated");
    fs::write(here.join("tiny.gguf"), "version https://git-lfs.github.com/spec/v1").expect("a file");
    rankine(here, &["plan", "recipe.yaml"]).ends(2).says("not a GGUF file: it begins with \"vers\"");
    fs::write(here.join("other.gguf"), &whole).expect("a file");
    rankine(here, &["generate", ".", "--prompt", "a"])
        .ends(2)
        .says("several GGUF files (other.gguf, tiny.gguf); give the path of one of them");
    rankine(here, &["plan", "recipe.yaml", "--set", "base_model=missing.gguf"]).ends(2).says("missing.gguf");
}
