//! A base in fewer bits, from the command line to a merged model.

use std::path::Path;

use rankine_models::weights::WeightFiles;
use rankine_ops::{InstructionSet, QuantFormat, QuantWeight};
use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::{losses, rankine, sums_to_learn};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

const RECIPE: &str = "base_model: model\nlora: {r: 4, alpha: 8}\ndatasets: [{path: x.jsonl}]\n\
    val_datasets: [{path: x.jsonl, max_records: 2}]\nwaive: [validation-in-training]\nmax_steps: 4\nmicro_batch_size: 2\n\
    gradient_accumulation_steps: 1\nlearning_rate: 1e-2\noutput_dir: run\n";

/// A folder with a tiny untrained model, sums to learn and a recipe.
fn workshop() -> tempfile::TempDir {
    sums_to_learn(CONFIG, RECIPE, &[])
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

/// bf16 keeps no copy of the base: where the processor multiplies in it, that is near f32 and not it; elsewhere it is f32.
#[test]
fn a_base_in_fewer_bits_is_multiplied_with_in_bf16() {
    let folder = workshop();
    let here = folder.path();
    let run = |compute: &str| {
        let sets = ["quantize=int8".to_owned(), format!("base_compute={compute}"), format!("output_dir={compute}")];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        rankine(here, &[&["train", "recipe.yaml"], &sets[..]].concat()).ends(0);
        losses(&here.join(compute), "step")
    };
    let (exact, rounded) = (run("f32"), run("bf16"));
    assert_eq!(exact.len(), rounded.len());
    assert_eq!(InstructionSet::Amx.is_available(), exact != rounded);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact / rounded - 1.0).abs() < 0.01, "{rounded}, {exact} in f32");
    }
}

fn weights(folder: &Path) -> WeightFiles {
    WeightFiles::open(folder).expect("weights")
}

fn report(folder: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(folder.join("export.json")).expect("a report")).expect("JSON")
}

/// What a model says on the records: every logit.
fn logits(here: &Path, arguments: &[&str]) -> Vec<f32> {
    let out = here.join("logits.safetensors");
    let all = [&["eval"], arguments, &["--data", "x.jsonl", "--logits", "logits.safetensors"]].concat();
    rankine(here, &all).ends(0);
    let bytes = std::fs::read(&out).expect("logits");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut names: Vec<&str> = file.names().into_iter().filter(|name| name.ends_with(".logits")).collect();
    names.sort_unstable();
    let values = names.iter().flat_map(|name| file.tensor(name).expect("a tensor").data().to_vec());
    values.collect::<Vec<u8>>().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Onto the rounded base an adapter is what was trained; onto the base itself it is the base with the adapter, and how
/// far that is from what was trained is measured, told and written down.
#[test]
fn an_adapter_of_a_base_in_fewer_bits_is_merged_onto_either_base() {
    let folder = workshop();
    let here = folder.path();
    let base = weights(&here.join("model"));
    let exports = "export=[{target: merged}, {target: merged, onto: quantised, out: onto}, {target: peft, out: copy}]";
    for (format, adapter) in [
        (QuantFormat::Nf4, "lora={r: 4, alpha: 8, target_modules: [q_proj, down_proj]}"),
        (QuantFormat::Int4, "adapter=dora"),
        (QuantFormat::Int8, "adapter=lora"),
    ] {
        let name = format.name();
        let quantize = format!("quantize={name}");
        let run = rankine(
            here,
            &["train", "recipe.yaml", "--overwrite", "--set", exports, "--set", &quantize, "--set", adapter],
        );
        run.ends(0);
        for words in
            [format!("in {name} and is merged onto the base as it is"), format!("in {name} and is merged onto those")]
        {
            assert!(run.stdout.contains(&words), "`{words}` is not in:\n{}", run.stdout);
        }
        let (full, onto, copy) =
            (report(&here.join("run/merged")), report(&here.join("onto")), report(&here.join("copy")));
        let far = |report: &Json, which: &[&str]| {
            let drift = which.iter().fold(report, |report, key| &report[key]);
            drift["max_abs"].as_f64().expect("a difference") / drift["max_logit"].as_f64().expect("a logit")
        };
        // Each export is its own base with the adapter, to rounding in f32; only the one onto the stored base differs
        // from what was trained.
        let trained = ["quantisation", "from_trained"];
        for report in [&full, &onto, &copy] {
            assert_eq!(report["quantisation"]["trained_on"], name);
            assert!(far(report, &["drift"]) < 2e-4, "{name}: {report:#}");
        }
        assert!(far(&onto, &trained) < 2e-4 && far(&copy, &trained) < 2e-4, "{name}");
        assert!(far(&full, &trained) > 1e-3, "{name}: {full:#}");
        let kinds = [&full, &onto, &copy].map(|report| report["quantisation"]["onto"].clone());
        assert_eq!(kinds, [Json::from("full"), Json::from("quantised"), Json::Null], "{name}");
        let tensors = full["quantisation"]["tensors"].as_object().expect("tensors");
        assert_eq!(tensors.len(), 14, "{name}");
        let bounds = if format == QuantFormat::Int8 { 1e-3..0.02 } else { 0.03..0.2 };
        for (tensor, apart) in tensors {
            let relative = apart["relative"].as_f64().expect("a share");
            assert!(bounds.contains(&relative) && apart["max_abs"].as_f64() > Some(0.0), "{name}, {tensor}: {apart}");
        }
        // The same by another way: the logits of the program.
        let expected = logits(here, &["model", "--adapter", "run/adapter", "--quantize", name]);
        let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let apart = |found: &[f32]| {
            assert_eq!(found.len(), expected.len());
            found.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
        };
        assert!(apart(&logits(here, &["onto"])) < 2e-4, "{name}");
        assert!(apart(&logits(here, &["run/merged"])) > 1e-3, "{name}");
        // What neither the adapter nor the rounding touches is the base's to the byte.
        let (merged, rounded) = (weights(&here.join("run/merged")), weights(&here.join("onto")));
        for tensor in base.names() {
            let stored = base.get(tensor).expect("a tensor");
            let found = [&merged, &rounded].map(|files| files.get(tensor).expect("a tensor").bytes().into_owned());
            let adapted = tensor.ends_with("_proj.weight")
                && (format != QuantFormat::Nf4 || tensor.contains("q_proj") || tensor.contains("down_proj"));
            assert_eq!(found[0] == *stored.bytes(), !adapted, "{name}, {tensor}");
            if !tensor.ends_with("_proj.weight") {
                assert!(found[1] == *stored.bytes(), "{name}, {tensor}");
            } else if !adapted {
                let shape = [stored.shape[0], stored.shape[1]];
                let values = QuantWeight::quantise(format, &stored.to_f32(), shape).dequantise();
                let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                assert!(found[1] == expected, "{name}, {tensor}: the rounded base's own values");
            }
        }
        for out in ["run/merged", "onto", "copy"] {
            std::fs::remove_dir_all(here.join(out)).expect("removed");
        }
    }
}

/// An adapter says itself how its base was held; another's is told.
#[test]
fn merging_knows_how_the_base_was_held() {
    let folder = workshop();
    let here = folder.path();
    rankine(here, &["train", "recipe.yaml", "--set", "quantize=nf4"]).ends(0);
    let merged = rankine(here, &["merge", "model", "run/adapter", "--out", "full"]);
    merged.ends(0);
    assert!(
        merged.stdout.contains("From the base in nf4 with the adapter no logit differs by more than"),
        "{}",
        merged.stdout
    );
    assert_eq!(report(&here.join("full"))["quantisation"]["onto"], "full");
    rankine(here, &["export", "--run", "run", "--target", "merged", "--onto", "quantised", "--out", "onto"]).ends(0);
    assert_eq!(report(&here.join("onto"))["quantisation"]["onto"], "quantised");
    let card = std::fs::read_to_string(here.join("onto/README.md")).expect("a card");
    assert!(card.contains("in nf4 and is merged onto those values"), "{card}");
    // Trained on the stored base, and on one that nothing is said of.
    rankine(here, &["train", "recipe.yaml", "--set", "output_dir=plain"]).ends(0);
    let refused = rankine(here, &["merge", "model", "plain/adapter", "--out", "no", "--onto", "quantised"]);
    refused.ends(2).says("nothing says that the base was held in fewer bits").says("--trained-on nf4");
    let told = ["merge", "model", "plain/adapter", "--out", "told", "--onto", "quantised", "--trained-on", "int8"];
    rankine(here, &told).ends(0);
    assert_eq!(report(&here.join("told"))["quantisation"]["trained_on"], "int8");
    let plain = rankine(here, &["merge", "model", "plain/adapter", "--out", "plain-merged"]);
    plain.ends(0);
    assert!(report(&here.join("plain-merged")).get("quantisation").is_none());
    let recipe = rankine(here, &["plan", "recipe.yaml", "--set", "export=[{target: merged, onto: quantised}]"]);
    recipe.ends(2).says("the base is not held in fewer bits");
}
