//! Which files of a repository are fetched.

use crate::error::HubError;
use crate::tree::Tree;

/// What is needed of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPart {
    /// Everything but the weights: enough to know whether the model can be used at all.
    Description,
    /// All of it.
    Whole,
}

/// Files beside the weights, by name: configuration, tokenizer, templates.
const BESIDE: [&str; 16] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "README.md",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];
/// Whole models, in the order in which they are looked for.
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: &str = "adapter_model.safetensors";
/// Endings of weights that are not read: pickles, and those of other frameworks.
const OTHER_WEIGHTS: [&str; 8] = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"];
/// Endings of files that run code when they are read. These are never fetched, whoever asks.
const PICKLES: [&str; 7] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"];
/// Endings of data files.
const DATA: [&str; 4] = ["parquet", "jsonl", "json", "csv"];

/// The files of a model: at the top of the repository, safetensors only.
///
/// # Errors
/// A repository whose weights are in other formats, or that has none.
pub fn model_files(tree: &Tree, part: ModelPart) -> Result<Vec<String>, HubError> {
    let beside = |path: &&str| {
        let license = path.to_ascii_uppercase().starts_with("LICENSE") && !path.contains('/');
        BESIDE.contains(path)
            || license
            || path.strip_prefix("additional_chat_templates/").is_some_and(|name| name.ends_with(".jinja"))
    };
    let mut files: Vec<String> = tree.paths().filter(beside).map(str::to_owned).collect();
    let has = |name: &str| tree.files.contains_key(name);
    // One file goes before shards, as in transformers; `consolidated.safetensors` and other variants are copies.
    let mut weights: Vec<String> = [WEIGHTS, ADAPTER].into_iter().filter(|name| has(name)).map(str::to_owned).collect();
    if has(INDEX) && !has(WEIGHTS) {
        weights.extend(tree.paths().filter(|path| is_shard(path)).map(str::to_owned));
    } else if !has(INDEX) {
        files.retain(|path| path != INDEX);
    }
    if weights.is_empty() && tree.whole {
        let other =
            |path: &&str| OTHER_WEIGHTS.iter().any(|ending| path.ends_with(ending)) || path.ends_with(".safetensors");
        let mut found: Vec<String> = tree.paths().filter(other).map(str::to_owned).collect();
        if found.is_empty() {
            found = tree.paths().map(str::to_owned).collect();
        }
        return Err(HubError::NoWeights { repository: tree.repository.clone(), found });
    }
    if part == ModelPart::Whole {
        files.extend(weights);
    }
    files.sort();
    Ok(files)
}

/// Every data file of a dataset that can be read, and its card.
pub fn dataset_files(tree: &Tree) -> Vec<String> {
    let wanted = |path: &&str| {
        let name = path.strip_suffix(".gz").or_else(|| path.strip_suffix(".zst")).unwrap_or(path);
        // Descriptions that Python's `datasets` leaves beside the data.
        let about = name.rsplit('/').next().is_some_and(|name| {
            matches!(name, "dataset_infos.json" | "dataset_info.json" | "state.json" | "dataset_dict.json")
        });
        let data = name.rsplit_once('.').is_some_and(|(_, ending)| DATA.contains(&ending)) && !about;
        (data || *path == "README.md") && !path.split('/').any(|part| part.starts_with('.'))
    };
    tree.paths().filter(wanted).map(str::to_owned).collect()
}

/// Whether there is more than a card.
pub fn has_data(files: &[String]) -> bool {
    files.iter().any(|path| path != "README.md")
}

/// The files that match any of the patterns (`*` and `?`), pickles aside.
///
/// # Errors
/// Patterns that match nothing.
pub fn matching_files(tree: &Tree, patterns: &[String]) -> Result<Vec<String>, HubError> {
    let is_pickle = |path: &str| PICKLES.iter().any(|ending| path.to_ascii_lowercase().ends_with(ending));
    let of = |pattern: &str| {
        tree.paths().filter(|path| !is_pickle(path) && matches(pattern, path)).map(str::to_owned).collect::<Vec<_>>()
    };
    let missing: Vec<String> = patterns.iter().filter(|pattern| of(pattern).is_empty()).cloned().collect();
    if !missing.is_empty() {
        return Err(HubError::NoFile { repository: tree.repository.clone(), revision: tree.revision.clone(), missing });
    }
    let mut files: Vec<String> = patterns.iter().flat_map(|pattern| of(pattern)).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// `model-00001-of-00002.safetensors`.
fn is_shard(path: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = path.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    numbers.and_then(|numbers| numbers.split_once("-of-")).is_some_and(|(one, of)| digits(one) && digits(of))
}

/// `*` is any text, `?` any character; as in Python's fnmatch, both cross folders.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Which prefixes of the text the pattern so far can be.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for &wanted in &pattern {
        if wanted == '*' {
            let first = reached.iter().position(|&yes| yes).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for end in (1..reached.len()).rev() {
                reached[end] = reached[end - 1] && (wanted == '?' || wanted == text[end - 1]);
            }
            reached[0] = false;
        }
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Kind, Repository};
    use crate::tree::RemoteFile;

    fn tree(paths: &[&str]) -> Tree {
        let files = paths.iter().map(|path| ((*path).to_owned(), RemoteFile { size: 1, hash: None })).collect();
        let repository = Repository::new(Kind::Model, "org/m").unwrap();
        Tree { repository, revision: "main".into(), commit: "5".repeat(40), files, whole: true }
    }

    #[test]
    fn only_what_a_model_needs() {
        let single = tree(&[
            ".gitattributes",
            "LICENSE",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "model.fp16.safetensors",
            "onnx/model.onnx",
            "original/params.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "additional_chat_templates/tool_use.jinja",
            "training_args.bin",
            "optimizer.pt",
            "modeling_x.py",
        ]);
        let beside = ["LICENSE", "README.md", "additional_chat_templates/tool_use.jinja", "config.json"];
        let expected: Vec<&str> = beside.into_iter().chain(["model.safetensors", "tokenizer.json"]).collect();
        assert_eq!(model_files(&single, ModelPart::Whole).unwrap(), expected);
        assert!(!model_files(&single, ModelPart::Description).unwrap().contains(&"model.safetensors".to_owned()));
        let shards = tree(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
            "model-extra.safetensors",
            "pytorch_model-00001-of-00002.bin",
        ]);
        assert_eq!(
            model_files(&shards, ModelPart::Whole).unwrap(),
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]
        );
        let adapter = tree(&["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]);
        assert_eq!(
            model_files(&adapter, ModelPart::Whole).unwrap(),
            ["adapter_config.json", "adapter_model.safetensors"]
        );
    }

    #[test]
    fn pickles_are_an_error_that_names_them() {
        for part in [ModelPart::Whole, ModelPart::Description] {
            let error = model_files(&tree(&["config.json", "pytorch_model.bin"]), part).unwrap_err();
            assert!(error.to_string().ends_with("it has `pytorch_model.bin`"), "{error}");
            assert!(error.help().contains("pickle"), "{}", error.help());
        }
        let error = model_files(&tree(&["README.md", "m.Q4_K_M.gguf"]), ModelPart::Whole).unwrap_err();
        assert!(error.help().contains("--include 'm.Q4_K_M.gguf'"), "{}", error.help());
        assert!(matching_files(&tree(&["a.bin", "b.PT"]), &["*".to_owned()]).is_err());
    }

    #[test]
    fn data_files_and_patterns() {
        let data = tree(&[
            ".gitattributes",
            "README.md",
            "data/train-00000-of-00001.parquet",
            "dataset_infos.json",
            "run.py",
            "test.jsonl.gz",
            "train.csv",
            "images/a.png",
            ".cache/x.json",
        ]);
        let expected = ["README.md", "data/train-00000-of-00001.parquet", "test.jsonl.gz", "train.csv"];
        assert_eq!(dataset_files(&data), expected);
        let of =
            |patterns: &[&str]| matching_files(&data, &patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["*.parquet", "train.*"]).unwrap(), ["data/train-00000-of-00001.parquet", "train.csv"]);
        assert_eq!(of(&["tr?in.csv"]).unwrap(), ["train.csv"]);
        assert!(of(&["*.csv", "*.arrow"]).unwrap_err().to_string().contains("no `*.arrow`"));
    }
}
