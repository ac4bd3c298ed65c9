//! The program on the device: it lists and tests it, trains, resumes and generates as on the CPU.

use burn::tensor::DType;
use serde_json::Value;

use super::{SOFTWARE, Tested, tested};
use crate::cli::{Run, folder, losses, rankine, root};
use crate::resume::{records, workplace};

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).expect("JSON")
}

#[test]
fn a_software_adapter_is_named_as_such_tested_and_never_chosen() {
    let Some(_software) = tested().filter(Tested::is_software) else { return };
    let here = tempfile::tempdir().unwrap();
    let run = rankine(here.path(), &["devices", "--json"]);
    run.ends(0);
    let listed = json(&run);
    assert_ne!(listed["auto"], SOFTWARE, "{listed}");
    let devices = listed["devices"].as_array().expect("a list");
    let software = devices.iter().find(|device| device["device"] == SOFTWARE).expect("the adapter");
    assert_eq!(software["kind"], "software", "{software}");
    assert_eq!(software["api"], "Vulkan", "{software}");
    assert!(software["driver"].as_str().is_some_and(|driver| !driver.is_empty()), "{software}");
    assert!(software["max_tensor_bytes"].as_u64().is_some_and(|most| most >= 1 << 27), "{software}");
    assert!(software["dtypes"].as_array().expect("types").contains(&"f32".into()), "{software}");

    let run = rankine(here.path(), &["devices", SOFTWARE]);
    run.ends(0);
    assert!(run.stdout.contains("software adapter") && !run.stdout.contains("instruction"), "{}", run.stdout);
    rankine(here.path(), &["devices", "wgpu:7"]).ends(2).says("this machine has no `wgpu:7`").says(SOFTWARE);

    let run = rankine(here.path(), &["devices", SOFTWARE, "--self-test", "--json"]);
    run.ends(0);
    let test = &json(&run)["devices"][0]["self_test"];
    assert_eq!(test["right"], true, "{test}");
    assert!(test["largest_difference"].as_f64().expect("a number") < 1e-4, "{test}");
    assert!(test["compared"].as_u64().expect("a number") > 100, "{test}");
}

#[test]
fn what_the_device_lacks_is_refused_before_anything_runs() {
    let Some(Tested { name, device, _turn }) = tested() else { return };
    let place = workplace();
    let asked = format!("device={name}");
    let refused = |set: &str, said: &str| {
        rankine(place.path(), &["plan", "recipe.yaml", "--set", &asked, "--set", set]).ends(2).says(said);
    };
    refused("base_compute=int16", &format!("`base_compute: int16` is for the CPU, and the device is {name}"));
    refused("gradient_checkpointing=block", "`gradient_checkpointing: block` is for the CPU");
    if !device.supports_dtype(DType::BF16) {
        refused("dtype=bf16", "does not calculate in bf16");
    }
    let plan = rankine(place.path(), &["plan", "recipe.yaml", "--set", &asked]);
    plan.ends(0);
    assert!(plan.stdout.contains(&format!("{name}, frozen weights in f32")), "{}", plan.stdout);
    assert!(plan.stdout.contains("residual stream, norms, softmax, loss"), "{}", plan.stdout);
}

/// Accumulation, packing, a tied table trained in full. Without dropout and noise, which are drawn for the rows of a
/// device and for the documents of the CPU.
#[test]
fn a_run_is_the_cpus_resumes_and_generates() {
    let Some(Tested { name, _turn, .. }) = tested() else { return };
    let place = workplace();
    let here = place.path();
    let train = |sets: &[&str], flags: &[&str]| {
        let common = ["max_steps=6", "eval_steps=3", "save_steps=3", "load_best=false", "early_stopping_patience=null"];
        let common = common.into_iter().chain(["lora.dropout=0", "neftune_alpha=null"]);
        let sets: Vec<&str> = common.chain(sets.iter().copied()).flat_map(|set| ["--set", set]).collect();
        rankine(here, &[&["train", "recipe.yaml"], &sets[..], flags].concat())
    };
    let asked = format!("device={name}");
    train(&["device=cpu", "output_dir=cpu"], &[]).ends(0);
    let run = train(&[&asked, "output_dir=gpu"], &[]);
    run.ends(0).says(&format!("{name} computes what the CPU computes"));
    for event in ["step", "eval"] {
        let (expected, found) = (losses(&here.join("cpu"), event), losses(&here.join("gpu"), event));
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found / expected - 1.0).abs() < 1e-4, "{event} {index}: {found}, {expected} on the CPU");
        }
    }
    let steps = losses(&here.join("gpu"), "step");

    // The second half once more, from the checkpoint.
    std::fs::remove_dir_all(here.join("gpu/checkpoints/step-000006")).expect("the last checkpoint");
    std::fs::remove_dir_all(here.join("gpu/adapter")).expect("the adapter");
    train(&[&asked, "output_dir=gpu"], &["--resume"]).ends(0);
    let resumed = losses(&here.join("gpu"), "step");
    assert_eq!(resumed.len(), 6);
    for (index, (found, expected)) in resumed.iter().zip(&steps).enumerate() {
        assert!((found / expected - 1.0).abs() < 1e-6, "step {}: {found}, {expected} uninterrupted", index + 1);
    }

    let answer = |device: &str| {
        let prompt = ["generate", "base", "--adapter", "cpu/adapter", "--prompt", "What is 7919 and then 1?\n"];
        let run = rankine(here, &[&prompt[..], &["--max-new-tokens", "12", "--json", "--device", device]].concat());
        run.ends(0);
        json(&run)["text"].as_str().expect("a text").to_owned()
    };
    assert_eq!(answer(name), answer("cpu"));
}

/// An embedding that is the head, too, and has more bytes than a tensor of the device: it is there in parts. Trained in
/// full it would be one tensor, which is refused.
#[test]
fn a_table_larger_than_a_tensor_is_in_parts() {
    let Some(Tested { name, device, _turn }) = tested() else { return };
    let Some(most) = rankine_ops::max_tensor_bytes(&device).filter(|most| *most <= 1 << 28) else {
        eprintln!("skipped: a tensor of {name} may be too large for this test");
        return;
    };
    let width = 256;
    let config = format!(
        r#"{{"model_type": "llama", "hidden_size": {width}, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": {},
        "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}}"#,
        most / (4 * width) + 100
    );
    let recipe = "base_model: model\nlora: {r: 4, alpha: 8}\ndatasets: [{path: x.jsonl}]\nmax_steps: 2\n\
        waive: [stop-not-trained]\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\nlearning_rate: 1e-2\n";
    let place = folder(&[("config.json", &config), ("x.jsonl", &records(8, 0)), ("recipe.yaml", recipe)]);
    let here = place.path();
    // As large a table as the config asks for, whatever the tokenizer has.
    let tokenizer = root().join("tests/golden/templates/tokenizer.json");
    let made = ["init", "config.json", "--out", "model", "--dtype", "f32", "--tokenizer"];
    rankine(here, &[&made[..], &[tokenizer.to_str().expect("UTF-8")]].concat()).ends(0);
    assert!(std::fs::metadata(here.join("model/model.safetensors")).expect("weights").len() > most);
    let train = |device: &str, out: &str, set: &str| {
        let (device, out) = (format!("device={device}"), format!("output_dir={out}"));
        rankine(here, &["train", "recipe.yaml", "--set", &device, "--set", &out, "--set", set])
    };
    train("cpu", "cpu", "seed=1").ends(0);
    train(name, "gpu", "seed=1").ends(0);
    let (expected, found) = (losses(&here.join("cpu"), "step"), losses(&here.join("gpu"), "step"));
    assert_eq!((found.len(), expected.len()), (2, 2));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found / expected - 1.0).abs() < 1e-4, "{found}, {expected} on the CPU");
    }
    let refused = train(name, "full", "lora={r: 4, alpha: 8, modules_to_save: [embed_tokens]}");
    refused.ends(2).says("model.embed_tokens.weight").says(&format!("the largest tensor of {name}"));
}
