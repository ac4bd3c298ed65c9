//! A base that stays in its files, and how long a run takes.

use std::path::Path;

use serde_json::Value as Json;

use super::{rankine, sums_to_learn};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

const RECIPE: &str = "base_model: model\nlora: {r: 4, alpha: 8}\ndatasets: [{path: x.jsonl}]\n\
    val_datasets: [{path: x.jsonl, max_records: 2}]\nwaive: [validation-in-training]\nmax_steps: 3\nmicro_batch_size: 2\n\
    gradient_accumulation_steps: 2\nlearning_rate: 1e-2\noutput_dir: run\n";

fn workshop(dtype: &str) -> tempfile::TempDir {
    sums_to_learn(CONFIG, RECIPE, &["--dtype", dtype])
}

fn train(here: &Path, sets: &[&str]) -> crate::cli::Run {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    rankine(here, &[&["train", "recipe.yaml", "--overwrite"], &sets[..]].concat())
}

/// What a run was, but for its clock: the adapter, every loss, norm and evaluation, in their digits.
fn outcome(run: &Path) -> (Vec<u8>, Vec<String>) {
    let adapter = std::fs::read(run.join("adapter/adapter_model.safetensors")).expect("an adapter");
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let lines = metrics.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    let of_numbers = |line: Json| {
        let keys = ["event", "step", "loss", "grad_norm", "perplexity"];
        keys.map(|key| line.get(key).map_or(String::new(), Json::to_string)).join(" ")
    };
    (adapter, lines.map(of_numbers).collect())
}

/// Weights in their files give what weights in memory give, to the bit, whatever they are stored in and whatever is
/// trained; and the files are as they were.
#[test]
fn a_base_in_its_files_trains_to_the_same_bits() {
    for dtype in ["bf16", "f16", "f32"] {
        let folder = workshop(dtype);
        let here = folder.path();
        let files = std::fs::read(here.join("model/model.safetensors")).expect("weights");
        let cases: &[&[&str]] = match dtype {
            "bf16" => &[
                &["adapter=lora"],
                &["adapter=dora"],
                &["lora={r: 4, alpha: 8, dropout: 0.1}", "gradient_checkpointing=block"],
                &["lora={r: 4, alpha: 8, modules_to_save: [down_proj, embed_tokens]}"],
                &["adapter=lora", "gradient_checkpointing=every 2"],
            ],
            _ => &[&["adapter=lora", "gradient_checkpointing=block"]],
        };
        for case in cases {
            train(here, &[case, &["base_residency=memory"][..]].concat()).ends(0);
            let expected = outcome(&here.join("run"));
            train(here, &[case, &["base_residency=stream"][..]].concat()).ends(0);
            assert!(outcome(&here.join("run")) == expected, "{dtype}, {case:?}");
        }
        assert!(std::fs::read(here.join("model/model.safetensors")).expect("weights") == files, "{dtype}");
    }
}

/// A run may go on with its base in memory that began with it in its files; the plan says where it is, and what cannot
/// be is refused.
#[test]
fn where_the_base_is_can_be_chosen_and_seen() {
    let folder = workshop("bf16");
    let here = folder.path();
    let plan = |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        rankine(here, &[&["plan", "recipe.yaml"], &sets[..]].concat())
    };
    let words = "the base's linear layers stay in their files";
    let (auto, streamed) = (plan(&[]), plan(&["base_residency=stream"]));
    auto.ends(0);
    assert!(!auto.stdout.contains(words) && streamed.stdout.contains(words), "{}", streamed.stdout);
    plan(&["base_residency=stream", "quantize=nf4"]).ends(2).says("which are in no file");
    plan(&["base_residency=stream", "base_compute=int16"]).ends(2).says("keeps integers of every weight in memory");
    plan(&["base_residency=stream", "adapter=full"]).ends(2).says("with `adapter: full` every weight is trained");
    plan(&["base_residency=stream", "dtype=f32"]).ends(2).says("is stored in BF16 and would be held in F32");
    train(here, &["base_residency=stream", "save_steps=2"]).ends(0);
    let whole = outcome(&here.join("run")).0;
    std::fs::remove_dir_all(here.join("run/checkpoints/step-000003")).expect("removed");
    let again = ["train", "recipe.yaml", "--resume", "--set", "base_residency=memory", "--set", "save_steps=2"];
    rankine(here, &again).ends(0);
    assert!(outcome(&here.join("run")).0 == whole, "the same run");
}
