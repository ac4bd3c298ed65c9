//! From a dataset's `path` to the files that hold it.

use std::path::{Path, PathBuf};

use crate::dataset::{DatasetConfig, quoted};
use crate::error::DataError;
use crate::glob;
use crate::reader::Format;

/// How deep a folder is searched: `data/train/part.jsonl` and one more.
const DEPTH: usize = 4;

/// Files of a dataset folder that describe it and hold no records.
const METADATA: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"];

/// The files of `config.path`, in the order in which they are read.
pub(crate) fn find_files(config: &DatasetConfig, root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let path = root.join(&config.path);
    if path.is_file() {
        return one_file(config, path);
    }
    if path.is_dir() {
        return folder(config, &path);
    }
    if glob::is_pattern(&config.path) {
        return pattern(config, root);
    }
    Err(DataError::NotFound {
        expected: "there is no such file or folder".to_owned(),
        help: format!(
            "`path` is relative to the folder of the recipe, {}; give a file, a folder or a pattern like `data/*.jsonl`",
            root.display()
        ),
        path,
    })
}

fn one_file(config: &DatasetConfig, path: PathBuf) -> Result<Vec<PathBuf>, DataError> {
    if let Some(split) = &config.split {
        let named = Split::new(split);
        // A file without a split in its name is the training part, as it is for Hugging Face.
        if !named.names(Path::new(path.file_name().unwrap_or_default())) && named != Split::Train {
            return Err(DataError::Config {
                path: config.path.clone(),
                message: format!(
                    "`split: {split}` chooses files of a folder, but the path is one file whose name does not say \
                     `{split}`; leave `split` out"
                ),
            });
        }
    }
    Ok(vec![path])
}

fn pattern(config: &DatasetConfig, root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let files: Vec<PathBuf> = glob::matches(root, &config.path)
        .map_err(|source| DataError::Io { path: root.join(&config.path), action: "search", source })?
        .into_iter()
        .filter(|file| file.is_file())
        .collect();
    if files.is_empty() {
        return Err(DataError::NotFound {
            path: root.join(&config.path),
            expected: "no file matches the pattern".to_owned(),
            help: format!(
                "`*` and `?` stay within one name, `**` crosses folders; the pattern starts from {}",
                root.display()
            ),
        });
    }
    match &config.split {
        None => Ok(files),
        Some(split) => chosen(config, root, files, split),
    }
}

fn folder(config: &DatasetConfig, path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    walk(path, DEPTH, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(DataError::NotFound {
            path: path.to_path_buf(),
            expected: "the folder holds no data file".to_owned(),
            help: "expected .jsonl, .ndjson, .json, .parquet or .csv, also .jsonl.gz and .jsonl.zst".to_owned(),
        });
    }
    chosen(config, path, files, config.split.as_deref().unwrap_or("train"))
}

/// The files of one split. Where no name says any split at all, everything is the training part.
fn chosen(config: &DatasetConfig, root: &Path, files: Vec<PathBuf>, split: &str) -> Result<Vec<PathBuf>, DataError> {
    let relative = |file: &Path| file.strip_prefix(root).unwrap_or(file).to_path_buf();
    let wanted = Split::new(split);
    let mut chosen: Vec<PathBuf> = files.iter().filter(|file| wanted.names(&relative(file))).cloned().collect();
    let unnamed = || {
        files.iter().all(|file| {
            let file = relative(file);
            ![Split::Train, Split::Validation, Split::Test].iter().any(|split| split.names(&file))
        })
    };
    if chosen.is_empty() && wanted == Split::Train && unnamed() {
        chosen = files.clone();
    }
    if chosen.is_empty() {
        let names: Vec<String> = files.iter().map(|file| relative(file).display().to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return Err(DataError::NotFound {
            path: root.to_path_buf(),
            expected: format!("no file of the split `{split}` among {}", quoted(&names)),
            help: "the split is looked for in file and folder names, as in train.jsonl or validation-00000.parquet; \
                   otherwise give the file itself as `path`"
                .to_owned(),
        });
    }
    // The same records are often there in two formats: reading both would train on each twice.
    let mut formats: Vec<Format> = chosen.iter().filter_map(|file| Format::of(file)).collect();
    formats.dedup();
    formats.sort();
    formats.dedup();
    if formats.len() > 1 {
        let names: Vec<&str> = formats.iter().map(|format| format.name()).collect();
        return Err(DataError::Config {
            path: config.path.clone(),
            message: format!(
                "the split `{split}` is there in several formats ({}), which may be the same records twice; \
                 give a pattern like `{}/*.jsonl` as `path`",
                names.join(", "),
                config.path.trim_end_matches('/')
            ),
        });
    }
    Ok(chosen)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.to_path_buf(), action: "list", source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth > 1 {
                walk(&path, depth - 1, files)?;
            }
        } else if Format::of(&path).is_some() && !METADATA.contains(&name.as_str()) {
            files.push(path);
        }
    }
    Ok(())
}

/// A split and the words that stand for it in file names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Split {
    Train,
    Validation,
    Test,
    Other(String),
}

impl Split {
    fn new(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Self::Train,
            "validation" | "valid" | "val" | "dev" | "eval" => Self::Validation,
            "test" | "testing" => Self::Test,
            other => Self::Other(other.to_owned()),
        }
    }

    fn words(&self) -> Vec<&str> {
        match self {
            Self::Train => vec!["train", "training"],
            Self::Validation => vec!["validation", "valid", "val", "dev", "eval"],
            Self::Test => vec!["test", "testing"],
            Self::Other(word) => vec![word],
        }
    }

    /// Whether a part of the path says this split, as a word of its own: `train-00000-of-00002.parquet` and
    /// `train/a.jsonl` do, `training_wheels.jsonl` and `constraint.jsonl` say something else.
    fn names(&self, relative: &Path) -> bool {
        relative.iter().any(|part| {
            let part = part.to_string_lossy().to_ascii_lowercase();
            self.words().iter().any(|word| is_word_of(word, &part))
        })
    }
}

fn is_word_of(word: &str, name: &str) -> bool {
    let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphabetic());
    name.match_indices(word)
        .any(|(at, _)| apart(name[..at].chars().next_back()) && apart(name[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}\n").unwrap();
        }
    }

    fn found(folder: &Path, config: &DatasetConfig) -> Vec<String> {
        find_files(config, folder)
            .unwrap()
            .iter()
            .map(|file| file.strip_prefix(folder).unwrap().display().to_string())
            .collect()
    }

    fn config(path: &str, split: Option<&str>) -> DatasetConfig {
        DatasetConfig { split: split.map(str::to_owned), ..DatasetConfig::new(path) }
    }

    #[test]
    fn a_folder_is_split_by_the_words_of_its_file_names() {
        let folder = tempfile::tempdir().unwrap();
        touch(
            folder.path(),
            &[
                "d/data/train-00001-of-00002.parquet",
                "d/data/train-00000-of-00002.parquet",
                "d/data/validation-00000.parquet",
                "d/test/a.parquet",
                "d/README.md",
                "d/dataset_infos.json",
                "d/.cache/train.jsonl",
            ],
        );
        let train = ["d/data/train-00000-of-00002.parquet", "d/data/train-00001-of-00002.parquet"];
        assert_eq!(found(folder.path(), &config("d", None)), train);
        assert_eq!(found(folder.path(), &config("d", Some("train"))), train);
        assert_eq!(found(folder.path(), &config("d", Some("val"))), ["d/data/validation-00000.parquet"]);
        assert_eq!(found(folder.path(), &config("d", Some("test"))), ["d/test/a.parquet"]);
        assert_eq!(found(folder.path(), &config("d/**/*.parquet", Some("dev"))), ["d/data/validation-00000.parquet"]);
    }

    #[test]
    fn a_folder_without_split_names_is_all_training_data() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["d/b.jsonl.gz", "d/a.jsonl"]);
        assert_eq!(found(folder.path(), &config("d", None)), ["d/a.jsonl", "d/b.jsonl.gz"]);
        let error = find_files(&config("d", Some("test")), folder.path()).unwrap_err().to_string();
        assert!(error.contains("no file of the split `test` among `a.jsonl`, `b.jsonl.gz`"), "{error}");
        assert!(error.contains("give the file itself"), "{error}");
    }

    #[test]
    fn words_stand_apart() {
        for (name, yes) in [
            ("train.jsonl", true),
            ("my_train-2.jsonl", true),
            ("train_sft-00000.parquet", true),
            ("constraint.jsonl", false),
            ("trainer.jsonl", false),
        ] {
            assert_eq!(is_word_of("train", name), yes, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_says_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["d/train.jsonl", "d/train.parquet", "notes/a.txt", "one.jsonl"]);
        for (config, expected) in [
            (config("gone.jsonl", None), "no such file or folder"),
            (config("gone/*.jsonl", None), "no file matches the pattern"),
            (config("notes", None), "holds no data file"),
            (config("d", None), "several formats (JSON Lines, Parquet)"),
            (config("one.jsonl", Some("test")), "leave `split` out"),
        ] {
            let error = find_files(&config, folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(found(folder.path(), &config("one.jsonl", Some("train"))), ["one.jsonl"]);
    }
}
