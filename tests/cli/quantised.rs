//! A base in fewer bits, from the command line to a merged model.

use super::{folder, rankine};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

const RECIPE: &str = "base_model: model\nlora: {r: 4, alpha: 8}\ndatasets: [{path: x.jsonl}]\n\
    val_datasets: [{path: x.jsonl, max_records: 2}]\nwaive: [validation-in-training]\nmax_steps: 4\nmicro_batch_size: 2\n\
    gradient_accumulation_steps: 1\nlearning_rate: 1e-2\noutput_dir: run\n";

/// A folder with a tiny untrained model, sums to learn and a recipe.
fn workshop() -> tempfile::TempDir {
    let records: String =
        (0..8).map(|n| format!("{{\"prompt\": \"{n} + 1 =\", \"completion\": \" {}\"}}\n", n + 1)).collect();
    let folder = folder(&[("config.json", CONFIG), ("x.jsonl", &records), ("recipe.yaml", RECIPE)]);
    rankine(folder.path(), &["init", "config.json", "--out", "model", "--train-tokenizer", "x.jsonl"]).ends(0);
    folder
}

/// A recipe and every command refuse integers of a base in fewer bits, in the same words.
#[test]
fn integers_of_a_base_in_fewer_bits_are_refused_wherever_they_are_asked_for() {
    let folder = workshop();
    let here = folder.path();
    let both = ["--quantize", "nf4", "--base-compute", "int8"];
    let set = ["--set", "quantize=nf4"];
    let commands: [Vec<&str>; 6] = [
        [&["plan", "recipe.yaml", "--set", "base_compute=int8"], &set[..]].concat(),
        [&["bench", "recipe.yaml", "--base-compute", "int8"], &set[..]].concat(),
        [&["bench", "model"], &both[..]].concat(),
        [&["generate", "model", "--prompt", "1"], &both[..]].concat(),
        [&["chat", "model"], &both[..]].concat(),
        [&["eval", "model", "--data", "x.jsonl"], &both[..]].concat(),
    ];
    for command in commands {
        let run = rankine(here, &command);
        run.ends(2).says("`base_compute: int8` keeps integers of every weight, which `quantize` is to save");
        run.says("leave one of the two out");
    }
    let ignored = rankine(here, &["bench", "recipe.yaml", "--quantize", "nf4"]);
    ignored.ends(2).says("`--quantize` is for a model without a recipe").says("--set quantize=nf4");
}
