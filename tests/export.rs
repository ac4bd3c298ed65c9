//! `rankine export` and `rankine check`: from a run to every platform's folder, and what a killed or failed export leaves.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{command, ended, folder, rankine, root};
use crate::resume::workplace;

const TARGETS: [&str; 8] = ["peft", "merged", "bedrock", "hf-endpoint", "sagemaker", "vllm", "mlx", "gguf"];

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, std::fs::read(&path).expect("a file"));
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A finished run of a plain LoRA adapter whose ranks and scales differ.
fn finished() -> tempfile::TempDir {
    let place = workplace();
    let lora = "lora={r: 4, alpha: 12, rank_pattern: {k_proj: 2}, alpha_pattern: {up_proj: 40}}";
    let sets = [lora, "max_steps=4", "learning_rate=1e-2", "output_dir=run", "load_best=false"];
    let arguments: Vec<&str> = ["train", "recipe.yaml", "--quiet"]
        .into_iter()
        .chain(sets.into_iter().flat_map(|set| ["--set", set]))
        .collect();
    rankine(place.path(), &arguments).ends(0);
    place
}

#[test]
fn a_run_becomes_every_targets_folder_and_each_is_what_was_trained() {
    let place = finished();
    let here = place.path();
    let before = (contents(&here.join("run")), contents(&here.join("base")));
    let exports: Vec<(String, Vec<&str>)> = TARGETS
        .iter()
        .map(|target| ((*target).to_owned(), vec![*target]))
        .chain([
            ("portable".to_owned(), vec!["peft", "--portable"]),
            ("endpoint-adapter".to_owned(), vec!["hf-endpoint", "--weights", "adapter"]),
            ("sagemaker-adapter".to_owned(), vec!["sagemaker", "--weights", "adapter", "--name", "tickets"]),
            ("half".to_owned(), vec!["bedrock", "--dtype", "bf16"]),
        ])
        .collect();
    for (out, arguments) in &exports {
        let out = format!("out/{out}");
        let given = [&["export", "--run", "run", "--out", &out, "--json", "--target"], arguments.as_slice()].concat();
        let run = rankine(here, &given);
        run.ends(0);
        let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let drift = &report["drift"];
        let (apart, largest) = (drift["max_abs"].as_f64().unwrap(), drift["max_logit"].as_f64().unwrap());
        let bound = if out == "out/half" { 0.05 } else { 2e-5 };
        assert!(apart <= bound * largest && largest > 0.1, "{out}: {drift}");
        assert!(drift["positions"].as_u64().unwrap() > 50, "{out}: {drift}");
        let stored = json(&here.join(&out).join("export.json"));
        assert_eq!(stored["drift"], *drift);
        let card = std::fs::read_to_string(here.join(&out).join("README.md")).expect("a card");
        assert!(
            card.contains("compared with base and adapter in f32") && card.contains("Held-out loss after"),
            "{card}"
        );
        rankine(here, &["check", &out, "--target", arguments[0]]).ends(0);
    }
    assert_eq!((contents(&here.join("run")), contents(&here.join("base"))), before, "an export changes neither");
    // Again over itself: the same bytes.
    let once = contents(&here.join("out/bedrock"));
    rankine(here, &["export", "--run", "run", "--out", "out/bedrock", "--target", "bedrock"]).ends(0);
    assert!(contents(&here.join("out/bedrock")) == once);
    // By the folders, and by the old short command, the same weights.
    let words = ["export", "--base", "base", "--adapter", "run", "--target", "merged", "--out", "by-hand"];
    rankine(here, &words).ends(0);
    rankine(here, &["merge", "base", "run", "--out", "merged"]).ends(0);
    let weights = |folder: &str| std::fs::read(here.join(folder).join("model.safetensors")).expect("weights");
    assert!(weights("by-hand") == weights("out/merged") && weights("merged") == weights("out/merged"));
}

#[test]
fn a_recipe_takes_the_settings_of_the_command() {
    let place = workplace();
    let here = place.path();
    let export =
        "export=[{target: vllm, name: tickets}, {target: peft, portable: true}, {target: bedrock, dtype: bf16}]";
    let arguments = [
        "train",
        "recipe.yaml",
        "--set",
        "lora={r: 4}",
        "--set",
        export,
        "--set",
        "max_steps=2",
        "--set",
        "output_dir=run",
    ];
    let run = rankine(here, &arguments);
    run.ends(0);
    assert_eq!(run.stdout.matches("largest difference of a logit from base and adapter").count(), 3, "{}", run.stdout);
    assert!(std::fs::read_to_string(here.join("run/vllm/deploy/serve.sh")).unwrap().contains("tickets=\"$here\""));
    assert_eq!(json(&here.join("run/peft/adapter_config.json"))["lora_alpha"], 4);
    assert_eq!(json(&here.join("run/bedrock/config.json"))["torch_dtype"], "bfloat16");
    // What the training found stands in later exports' cards.
    rankine(here, &["export", "--run", "run", "--target", "merged", "--out", "later"]).ends(0);
    assert!(std::fs::read_to_string(here.join("later/README.md")).unwrap().contains("| Steps | 2 |"));
    let bad = "export=[{target: merged, portable: true}, {target: vllm, dtype: bf16, handler: true}]";
    rankine(here, &["plan", "recipe.yaml", "--set", bad])
        .ends(2)
        .says("`export[0].portable` means nothing here: it is for the target `peft`")
        .says("`export[1].dtype` means nothing here")
        .says("`export[1].handler` means nothing here");
}

#[test]
fn what_cannot_be_exported_is_told_before_anything_is_written() {
    let place = finished();
    let here = place.path();
    let export = |arguments: &[&str]| rankine(here, &[&["export", "--out", "out"], arguments].concat());
    export(&["--target", "merged"]).ends(2).says("there is nothing to export");
    export(&["--target", "merged", "--run", "base"]).ends(2).says("base is not the folder of a run");
    export(&["--target", "merged", "--run", "run", "--portable"])
        .ends(2)
        .says("`--portable` does not apply to `merged`");
    export(&["--target", "onnx", "--run", "run"]).ends(2).says("expected one of peft, merged, bedrock");
    export(&["--target", "peft", "--base", "base"]).ends(2).says("there is no adapter to export");
    export(&["--target", "merged", "--run", "run", "--out", "base"]).ends(2);
    std::fs::remove_dir_all(here.join("run/adapter")).expect("an adapter");
    export(&["--target", "merged", "--run", "run"]).ends(2).says("neither an adapter nor a model").says("--resume");
    assert!(!here.join("out").exists());
    assert!(names(here).iter().all(|name| !name.contains(".part")), "{:?}", names(here));
}

#[test]
fn a_folder_that_breaks_rules_is_told_all_of_them() {
    let place = finished();
    let here = place.path();
    rankine(here, &["check", "base", "--target", "merged"]).ends(0);
    let check = rankine(here, &["check", "base", "--target", "bedrock"]);
    check.ends(2).says("generation-config-missing").says("tokenizer-config-missing").says("help: write");
    let check = rankine(here, &["check", "run/adapter", "--target", "vllm", "--json"]);
    check.ends(2);
    let report: Value = serde_json::from_str(&check.stdout).expect("JSON");
    assert_eq!(report["accepted"], false);
    let codes: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["one-scale", "one-scale"]);
    let first = &report["findings"][0];
    assert_eq!((&first["level"], &first["file"]), (&"error".into(), &"adapter_config.json".into()));
    assert!(first["rule"].as_str().unwrap().contains("one rank and one scale"), "{first}");
    assert!(first["fix"].as_str().unwrap().contains("--target vllm"), "{first}");
    rankine(here, &["check", "nowhere", "--target", "merged"]).ends(2).says("nowhere: cannot list");
}

#[test]
fn the_rules_of_a_target_are_listed() {
    let here = tempfile::tempdir().expect("a folder");
    let all = rankine(here.path(), &["check", "--rules"]);
    all.ends(0);
    let scale = all.stdout.lines().find(|line| line.starts_with("one-scale ")).expect("the rule");
    assert!(
        scale.ends_with(
            "  The reader has one rank and one scale: patterns would be passed over in silence. \
                             (hf-endpoint, sagemaker, vllm)"
        ),
        "{scale}"
    );
    let of = |target: &str| {
        let run = rankine(here.path(), &["check", "--rules", "--json", "--target", target]);
        run.ends(0);
        let rules: Vec<Value> = serde_json::from_str(&run.stdout).expect("JSON");
        assert!(rules.iter().all(|rule| rule["targets"].as_array().unwrap().contains(&target.into())), "{rules:?}");
        rules.iter().map(|rule| rule["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("peft"), ["adapter-missing", "adapter-unreadable", "adapter-base"]);
    assert!(of("bedrock").contains(&"rope-override".to_owned()) && !of("merged").contains(&"rope-override".to_owned()));
    let lines = TARGETS.into_iter().chain(["ollama"]).map(|target| of(target).len());
    assert!(lines.clone().all(|count| count >= 3) && lines.max() < Some(all.stdout.lines().count()));
    rankine(here.path(), &["check", "--rules", "folder"]).ends(2).says("cannot be used with");
    rankine(here.path(), &["check", "folder"]).ends(2).says("--target <TARGET>");
    rankine(here.path(), &["check", "--target", "peft"]).ends(2).says("<DIR>");
}

const LARGE: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512,
    "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "vocab_size": 500, "tie_word_embeddings": true, "hidden_act": "silu",
    "rms_norm_eps": 1e-5}"#;

/// A model large enough that its export takes a moment, with an adapter of three steps.
fn large() -> tempfile::TempDir {
    let records: String =
        (0..4).map(|n| format!("{{\"prompt\": \"{n} + 1 =\", \"completion\": \" {}\"}}\n", n + 1)).collect();
    let recipe = "base_model: base\nlora: {r: 2}\ndatasets: [{path: x.jsonl}]\nmax_steps: 1\nmicro_batch_size: 2\n\
                  gradient_accumulation_steps: 1\nwaive: [stop-not-trained]\noutput_dir: run\n";
    let place = folder(&[("config.json", LARGE), ("x.jsonl", &records), ("recipe.yaml", recipe)]);
    let tokenizer = root().join("tests/golden/templates/tokenizer.json");
    rankine(place.path(), &["init", "config.json", "--out", "base", "--tokenizer", tokenizer.to_str().unwrap()])
        .ends(0);
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    std::fs::write(place.path().join("base/chat_template.jinja"), template).expect("a file");
    rankine(place.path(), &["train", "recipe.yaml", "--quiet"]).ends(0);
    place
}

#[test]
fn a_killed_export_leaves_nothing_under_its_name_and_changes_nothing() {
    let place = large();
    let here = place.path();
    let before = (contents(&here.join("run")), contents(&here.join("base")));
    let arguments = ["export", "--run", "run", "--target", "merged", "--out", "out"];
    let part = here.join(".out.part");
    let bytes_written = || {
        let files = std::fs::read_dir(&part).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>()
    };
    // As it begins, among its weights, when they are whole, and while it is compared.
    let mut killed = 0;
    for (bytes, delay) in [(0, 0), (1, 0), (10_000_000, 0), (38_000_000, 0), (38_000_000, 100)] {
        let mut child = command(here, &arguments);
        let mut child =
            child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let begun = Instant::now();
        while !(part.exists() && bytes_written() >= bytes) && child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no export within a minute");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(delay));
        // Nothing is asked of the program before it is gone.
        child.kill().expect("a signal");
        let ended = child.wait().expect("its end");
        if !ended.success() {
            killed += 1;
            assert!(!here.join("out").exists(), "killed after {bytes} bytes");
        } else {
            std::fs::remove_dir_all(here.join("out")).expect("an export");
        }
    }
    assert!(killed >= 4, "{killed} of 5 were killed before their end");
    assert!((contents(&here.join("run")), contents(&here.join("base"))) == before, "run or base changed");
    rankine(here, &arguments).ends(0);
    assert!(!part.exists(), "what was left of the killed ones is gone");
    // Over an earlier export: that one stays whole until the new one is.
    let whole = contents(&here.join("out"));
    let mut child = command(here, &arguments);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let begun = Instant::now();
    while bytes_written() < 10_000_000 && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().expect("a signal");
    child.wait().expect("its end");
    assert!(contents(&here.join("out")) == whole);
}

/// Every kind of folder that can be made, as the command line asks for it, and whether a model is in it.
const FORMS: [(&[&str], bool); 14] = [
    (&["peft"], false),
    (&["peft", "--portable"], false),
    (&["merged"], true),
    (&["bedrock"], true),
    (&["hf-endpoint", "--handler"], true),
    (&["hf-endpoint", "--weights", "adapter"], false),
    (&["sagemaker"], true),
    (&["sagemaker", "--weights", "adapter"], false),
    (&["vllm"], false),
    (&["mlx"], false),
    (&["gguf"], true),
    (&["gguf", "--quantize", "q8_0"], true),
    (&["gguf", "--weights", "adapter"], false),
    (&["ollama"], true),
];

#[test]
fn no_form_of_an_export_leaves_anything_when_it_is_killed() {
    let place = large();
    let here = place.path();
    let before = (contents(&here.join("run")), contents(&here.join("base")));
    let (out, part) = (here.join("out"), here.join(".out.part"));
    let mut killed = 0;
    for (form, _) in FORMS {
        let arguments = [&["export", "--run", "run", "--out", "out", "--target"], form].concat();
        let mut child = command(here, &arguments);
        let child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().expect("it starts");
        let begun = Instant::now();
        while !part.exists() && child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{form:?}: no export within a minute");
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().expect("a signal");
        if !child.wait().expect("its end").success() {
            killed += 1;
            assert!(!out.exists(), "{form:?}");
        }
        // The next one clears it away, and is whole.
        rankine(here, &arguments).ends(0);
        rankine(here, &["check", "out", "--target", form[0]]).ends(0);
        assert!(!part.exists(), "{form:?}");
        std::fs::remove_dir_all(&out).expect("an export");
    }
    assert!(killed >= FORMS.len() - 2, "{killed} of {} were killed before their end", FORMS.len());
    assert!((contents(&here.join("run")), contents(&here.join("base"))) == before, "run or base changed");
}

/// A file may not grow beyond so many KiB, which is how a quota or a full disk ends an export: at the first file, among the
/// small ones, and among the weights.
#[cfg(target_os = "linux")]
#[test]
fn no_form_of_an_export_leaves_anything_when_it_finds_no_room() {
    let place = large();
    let here = place.path();
    let before = (contents(&here.join("run")), contents(&here.join("base")));
    let program = command(here, &[]).get_program().to_owned();
    for (form, is_model) in FORMS {
        for kib in [0, 64, 8192].into_iter().take(if is_model { 3 } else { 2 }) {
            let script = format!(
                "trap '' XFSZ; ulimit -f {kib}; exec \"$0\" export --run run --out out --target {}",
                form.join(" ")
            );
            let mut bash = std::process::Command::new("bash");
            bash.args(["-c", &script]).arg(&program).current_dir(here);
            for (name, value) in command(here, &[]).get_envs() {
                match value {
                    Some(value) => bash.env(name, value),
                    None => bash.env_remove(name),
                };
            }
            let run = ended(bash, "");
            run.ends(1).says("cannot write").says("File too large");
            assert!(!here.join("out").exists() && !here.join(".out.part").exists(), "{form:?}: {:?}", names(here));
        }
    }
    assert!((contents(&here.join("run")), contents(&here.join("base"))) == before, "run or base changed");
}
