//! Rules of the architecture that the compiler does not hold.

use std::path::{Path, PathBuf};

/// Every source file of a crate.
fn sources(name: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates").join(name).join("src"), &mut found);
    assert!(!found.is_empty(), "no sources of {name}");
    found
}

#[track_caller]
fn never(crates: &[&str], words: &[&str]) {
    for name in crates {
        for (path, text) in sources(name) {
            for (number, line) in text.lines().enumerate() {
                let found = words.iter().find(|word| line.contains(**word) && !line.trim_start().starts_with("//"));
                assert!(found.is_none(), "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

const LIBRARIES: [&str; 7] = ["data", "hub", "ops", "nn", "models", "train", "export"];

#[test]
fn no_library_reads_the_environment() {
    never(&LIBRARIES, &["env::var", "env::args", "env::vars", "env::current_dir", "env::temp_dir"]);
}

#[test]
fn only_the_hub_opens_a_connection() {
    let others: Vec<&str> = LIBRARIES.into_iter().filter(|name| *name != "hub").chain(["rankine"]).collect();
    let clients = ["std::net", "TcpStream", "reqwest", "ureq::", "hf_hub", "object_store::", "aws_config", "aws_sdk"];
    never(&others, &clients);
}

#[test]
fn data_knows_no_tensors_and_export_no_device() {
    never(&["data"], &["burn::", "rankine_models", "rankine_nn"]);
    never(&["export"], &["burn::", "rankine_train"]);
}

#[test]
fn no_crate_knows_those_above_it() {
    never(&["ops"], &["rankine_nn", "rankine_models", "rankine_train"]);
    never(&["nn"], &["rankine_models", "rankine_train", "llama", "qwen", "mistral"]);
    never(&["models"], &["rankine_train", "rankine_export", "rankine_data"]);
    never(&["train"], &["rankine_export", "serde_saphyr", "rankine_hub"]);
}
