//! Plans: every default decided, and everything that cannot be, at once.

use std::path::Path;

use super::{Run, folder, rankine, root};

const RECORDS: &str = "{\"prompt\": \"one plus one is\", \"completion\": \" two\"}\n{\"prompt\": \"two plus two is\", \"completion\": \" four\"}\n\
                       {\"prompt\": \"three plus three is\", \"completion\": \" six\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n";

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

/// A folder with a tiny untrained model, four records and a recipe.
fn workshop(recipe: &str) -> tempfile::TempDir {
    let folder = folder(&[("config.json", CONFIG), ("data/x.jsonl", RECORDS), ("my/recipe.yaml", recipe)]);
    let init = ["init", "config.json", "--out", "model", "--train-tokenizer", "data/x.jsonl"];
    rankine(folder.path(), &init).ends(0);
    folder
}

fn plan(folder: &Path, sets: &[&str]) -> Run {
    let mut arguments = vec!["plan", "my/recipe.yaml", "--json"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    rankine(folder, &arguments)
}

fn json(run: &Run) -> serde_json::Value {
    run.ends(0);
    serde_json::from_str(&run.stdout).expect("JSON")
}

#[test]
fn a_minimal_recipe_has_every_default_decided() {
    let folder = workshop("base_model: ../model\ndatasets:\n  - path: ../data/x.jsonl\n");
    let found = json(&plan(folder.path(), &[]));
    let (plan, forecast) = (&found["plan"], &found["forecast"]);
    assert_eq!(plan["model"]["folder"], "model");
    assert_eq!((&plan["model"]["dtype"], &plan["model"]["device"]["backend"]), (&"f32".into(), &"cpu".into()));
    assert_eq!(plan["adapter"]["kind"], "lora");
    assert_eq!((&plan["adapter"]["lora"]["r"], &plan["adapter"]["lora"]["alpha"]), (&16.into(), &32.0.into()));
    assert_eq!(plan["data"]["max_seq_len"], 64, "the model's context");
    assert_eq!(plan["data"]["datasets"][0]["path"], "data/x.jsonl");
    assert_eq!(plan["training"]["learning_rate"], 2e-4);
    assert_eq!(plan["output"]["output_dir"], "runs/recipe");
    assert_eq!(
        (&forecast["datasets"][0]["record_type"], &forecast["datasets"][0]["detected"]),
        (&"prompt-completion".into(), &true.into())
    );
    assert_eq!(
        (&forecast["train_examples"], &forecast["steps_per_epoch"], &forecast["total_steps"]),
        (&4.into(), &1.into(), &1.into())
    );
    // 7 modules of 2 layers with r 16: 16 (in + out) each.
    let features = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 32), (16, 32), (32, 16)];
    let expected: usize = features.iter().map(|(input, output)| 2 * 16 * (input + output)).sum();
    assert_eq!(plan["adapter"]["trained_parameters"], expected);
    let trained = found["trained"].as_array().expect("a list");
    let total: u64 = trained.iter().filter_map(|group| group["parameters"].as_u64()).sum();
    assert_eq!(total, expected as u64);
    assert!(!folder.path().join("runs").exists(), "a plan writes nothing");
}

#[test]
fn a_plan_in_words_names_what_was_found() {
    let folder = workshop(
        "base_model: ../model\ndatasets: [{path: ../data/x.jsonl}]\nval_size: 1\nlora: {target_modules: [q_proj]}\n",
    );
    let run = rankine(folder.path(), &["plan", "my/recipe.yaml"]);
    run.ends(0);
    for words in [
        "4 records, prompt-completion (detected)",
        "model.layers.*.self_attn.q_proj",
        "lora_A",
        "[16, 16]",
        "adamw",
        "1 example of these",
        "of the model's",
    ] {
        assert!(run.stdout.contains(words), "`{words}` is not in:\n{}", run.stdout);
    }
}

#[test]
fn steps_follow_from_epochs_batches_and_max_steps() {
    let folder = workshop("base_model: ../model\ndatasets: [{path: ../data/x.jsonl}]\n");
    let steps = |sets: &[&str]| json(&plan(folder.path(), sets))["forecast"]["total_steps"].as_u64();
    let one_by_one = ["micro_batch_size=1", "gradient_accumulation_steps=1"];
    let with = |more: &'static str| steps(&[one_by_one[0], one_by_one[1], more]);
    assert_eq!(with("epochs=2"), Some(8));
    assert_eq!(with("epochs=0.5"), Some(2));
    assert_eq!(with("epochs=1.25"), Some(5));
    assert_eq!(with("max_steps=7"), Some(7));
    assert_eq!(steps(&["micro_batch_size=3", "gradient_accumulation_steps=1"]), Some(2));
    assert_eq!(with("datasets[0].weight=2"), Some(8));
    assert_eq!(with("val_size=1"), Some(3));
}

#[test]
fn every_contradiction_is_reported_at_once() {
    let folder = workshop(
        "base_model: ../model\nadapter: full\nlora: {r: 4}\nloraplus_lr_ratio: 16\ndatasets:\n  - path: ../data/x.jsonl\n\
         val_size: 1\nval_datasets: [{path: ../data/y.jsonl}]\nwarmup_ratio: 0.1\nwarmup_steps: 5\nlearning_rate: 0\n\
         betas: [0.9, 1]\noptimizer: lion\neps: 1e-8\nmax_seq_len: 65\nepochs: -1\nresume: true\ndevice: cpu:1\n\
         sample_prompts: ['']\nexport: [{target: peft}, {target: merged, out: model}]\nmax_grad_norm: -1\n",
    );
    let run = plan(folder.path(), &[]);
    run.ends(2);
    for words in [
        "`lora` means nothing here",
        "`loraplus_lr_ratio` means nothing here",
        "`val_size` and `val_datasets` both",
        "`val_datasets[0].path`: there is no `data/y.jsonl`",
        "`warmup_ratio` and `warmup_steps` both",
        "`learning_rate` is 0; expected a number above 0",
        "`betas[1]` is 1",
        "`eps` means nothing here",
        "`max_seq_len` is 65, and the model was made for 64",
        "`epochs` is -1",
        "there is no run in runs/recipe",
        "`device`: `cpu:1` is no device",
        "`sample_prompts[0]` is empty",
        "`export[0]`: `adapter: full` has no adapter",
        "`max_grad_norm` is -1",
    ] {
        run.says(words);
    }
    assert!(run.stdout.is_empty());
}

#[test]
fn modules_that_the_model_does_not_have_are_refused_with_those_it_has() {
    let folder = workshop(
        "base_model: ../model\ndatasets: [{path: ../data/x.jsonl}]\nlora:\n  r: 0\n  dropout: 1\n  alpha: -1\n  target_modules: [q_proj, c_attn]\n",
    );
    let run = plan(folder.path(), &[]);
    run.ends(2).says("rank 0").says("`lora.dropout` is 1").says("`lora.alpha` is -1");
    let run = plan(
        folder.path(),
        &[
            "lora.r=4",
            "lora.dropout=0",
            "lora.alpha=8",
            "lora.exclude_modules=[w9]",
            "lora.modules_to_save=[score]",
            "lora.layers_to_transform=[0, 7]",
            "lora.rank_pattern={fc1: 2}",
        ],
    );
    run.ends(2);
    for words in
        ["`c_attn` matches no module", "q_proj, k_proj, v_proj", "`w9`", "`score`", "layer 7 does not exist", "`fc1`"]
    {
        run.says(words);
    }
    run.says("recipe.yaml:7:28");
    plan(folder.path(), &["lora={target_modules: q_proj}"]).ends(2).says("`target_modules: [q_proj]`");
    plan(folder.path(), &["lora={target_modules: '(q_proj'}"]).ends(2).says("not a usable regular expression");
}

#[test]
fn what_watches_the_validation_needs_one() {
    let folder = workshop(
        "base_model: ../model\ndatasets: [{path: ../data/x.jsonl}]\nearly_stopping_patience: 2\nload_best: true\neval_steps: 5\n",
    );
    let run = plan(folder.path(), &[]);
    run.ends(2)
        .says("`early_stopping_patience` watches")
        .says("`load_best` keeps")
        .says("`eval_steps` says")
        .says("val_size: 0.05");
    let found = json(&plan(folder.path(), &["val_size=1"]));
    assert_eq!((&found["forecast"]["eval_steps"], &found["plan"]["training"]["load_best"]), (&5.into(), &true.into()));
}

#[test]
fn a_model_that_is_not_there_says_where_was_looked() {
    let folder = workshop("base_model: org/model\ndatasets: [{path: ../data/x.jsonl}]\n");
    plan(folder.path(), &[]).ends(2).says("`my/org/model` and `org/model`").says("rankine pull org/model");
    plan(folder.path(), &["base_model=../config.json"]).ends(2).says("is a file");
    plan(folder.path(), &["base_model=../data"]).ends(2).says("is not a model folder");
    std::fs::remove_file(folder.path().join("model/tokenizer.json")).expect("removed");
    plan(folder.path(), &["base_model=model"]).ends(2).says("has no tokenizer.json");
    std::fs::remove_file(folder.path().join("model/model.safetensors")).expect("removed");
    plan(folder.path(), &["base_model=model"]).ends(2).says("has no tokenizer.json").says("no model.safetensors");
}

#[test]
fn an_adapter_to_go_on_from_brings_its_own_shape() {
    let folder =
        workshop("base_model: ../model\ndatasets: [{path: ../data/x.jsonl}]\nmax_steps: 1\nlora: {r: 3, alpha: 5}\n");
    rankine(folder.path(), &["train", "my/recipe.yaml", "--quiet"]).ends(0);
    let on = ["lora=", "adapter_path=runs/recipe/adapter", "output_dir=second"];
    let found = json(&plan(folder.path(), &on));
    assert_eq!(
        (&found["plan"]["adapter"]["lora"]["r"], &found["plan"]["adapter"]["lora"]["alpha"]),
        (&3.into(), &5.0.into())
    );
    plan(folder.path(), &[&on[1..], &["adapter=dora"]].concat())
        .ends(2)
        .says("`lora` means nothing here")
        .says("`adapter` is dora");
    plan(folder.path(), &["lora=", "adapter_path=data"]).ends(2).says("no adapter_config.json");
    plan(folder.path(), &["lora=", "adapter_path=nowhere"]).ends(2).says("there is no `my/nowhere`");
    let sets: Vec<&str> = on.iter().flat_map(|set| ["--set", set]).collect();
    rankine(folder.path(), &[&["train", "my/recipe.yaml", "--quiet"], &sets[..]].concat()).ends(0);
}

#[test]
fn a_model_in_the_hub_cache_is_found_by_name() {
    let folder = workshop("base_model: org/model\ndatasets: [{path: ../data/x.jsonl}]\n");
    let repository = folder.path().join(".huggingface/hub/models--org--model");
    std::fs::create_dir_all(repository.join("snapshots")).expect("a folder");
    std::fs::create_dir_all(repository.join("refs")).expect("a folder");
    let commit = "abc1234567".repeat(4);
    std::fs::write(repository.join("refs/main"), &commit).expect("a ref");
    std::fs::rename(folder.path().join("model"), repository.join("snapshots").join(&commit)).expect("moved");
    let found = json(&plan(folder.path(), &[]));
    assert_eq!(
        (&found["plan"]["model"]["reference"], &found["plan"]["model"]["local"]),
        (&"org/model".into(), &false.into())
    );
    plan(folder.path(), &["revision=v2"]).ends(2).says("at revision `v2`");
}

#[test]
fn data_that_cannot_be_used_is_refused_by_file_and_line() {
    let folder = workshop("base_model: ../model\ndatasets: [{path: ../data/x.jsonl}]\n");
    let write = |text: &str| std::fs::write(folder.path().join("data/x.jsonl"), text).expect("written");
    write("");
    plan(folder.path(), &[]).ends(2).says("the dataset is empty");
    write("{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n{\"text\": \"c\"}\n{\"prompt\"\n");
    let run = plan(folder.path(), &[]);
    run.ends(2).says("data/x.jsonl:2").says("data/x.jsonl:4");
    write("{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n");
    plan(folder.path(), &[]).ends(2).says("data/x.jsonl:1: no answer to train on");
    plan(folder.path(), &["waive=[nothing-trained]"]).ends(2).says("none of the 1 records has a token to train on");
}

#[test]
fn every_shipped_recipe_plans() {
    let folder = workshop("");
    let long = CONFIG.replace("\"max_position_embeddings\": 64", "\"max_position_embeddings\": 512");
    std::fs::write(folder.path().join("config.json"), long).expect("written");
    rankine(folder.path(), &["init", "config.json", "--out", "long", "--tokenizer", "model/tokenizer.json"]).ends(0);
    let model = format!("base_model={}", folder.path().join("long").display());
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("recipes")).expect("recipes/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        // Any base will do here, on whatever this machine has; the corpus is long.
        let sets = [&model, "device=cpu", "max_seq_len=512", "datasets.0.max_records=40"];
        let sets = sets.into_iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = ["plan", path.to_str().expect("UTF-8"), "--json"].into_iter().chain(sets).collect();
        let found = json(&rankine(folder.path(), &arguments));
        assert!(found["forecast"]["total_steps"].as_u64() > Some(0), "{}", path.display());
        count += 1;
    }
    assert!(count >= 5, "{count} recipes");
}
