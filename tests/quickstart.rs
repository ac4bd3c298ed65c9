//! The README's first command: the tiny model that ships learns the task, and the adapter works on its own.

use serde_json::Value;

use crate::cli::{folder, rankine, root};

#[test]
fn the_quickstart_learns_what_the_base_cannot_do() {
    let place = folder(&[]);
    let recipe = root().join("recipes/quickstart.yaml");
    let output = place.path().join("run");
    let set = format!("output_dir={}", output.display());
    let run = rankine(place.path(), &["train", recipe.to_str().expect("UTF-8"), "--set", &set]);
    run.ends(0);
    assert!(run.stdout.contains("before") && run.stdout.contains("exact match"), "{}", run.stdout);

    // Measured again from what was left on disk, by another command.
    let (base, data) = (root().join("recipes/tiny"), root().join("datasets/support/heldout.jsonl"));
    let (base, data) = (base.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let adapter = output.join("adapter");
    let exact = |arguments: &[&str]| -> (u64, u64) {
        let run = rankine(place.path(), &[&["eval", base], arguments, &["--data", data, "--json"]].concat());
        run.ends(0);
        let value: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let count = |field: &str| value["exact_match"][field].as_u64().expect("a count");
        (count("matched"), count("records"))
    };
    let (before, records) = exact(&[]);
    let (after, _) = exact(&["--adapter", adapter.to_str().expect("UTF-8")]);
    assert_eq!(records, 84);
    assert_eq!(before, 0, "the base already knows the task");
    assert!(after * 10 >= records * 7, "{after} of {records} after training");
    for file in ["adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"] {
        assert!(adapter.join(file).is_file(), "{file}");
    }
}
