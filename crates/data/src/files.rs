//! From a dataset's `path` to the files that hold it.

use std::path::{Path, PathBuf};

use crate::dataset::DatasetConfig;
use crate::error::DataError;
use crate::glob;
use crate::repository::{RepositoryData, is_data, repository_data};

/// How deep a folder is searched: `data/train/part.jsonl` and one more.
const DEPTH: usize = 6;

/// The files of a split of `config.path`, in the order in which they are read. The split is a bare name.
pub(crate) fn find_files(config: &DatasetConfig, split: Option<&str>, root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let path = root.join(&config.path);
    if path.is_file() {
        return one_file(config, split, path);
    }
    if path.is_dir() {
        return folder(config, split, &path);
    }
    if glob::is_pattern(&config.path) {
        return pattern(config, split, root);
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

fn one_file(config: &DatasetConfig, split: Option<&str>, path: PathBuf) -> Result<Vec<PathBuf>, DataError> {
    if let Some(split) = split {
        // A file without a split in its name is the training part, as it is for Hugging Face.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if split != "train" && repository_data(&[name], None, None, split).is_err() {
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

fn pattern(config: &DatasetConfig, split: Option<&str>, root: &Path) -> Result<Vec<PathBuf>, DataError> {
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
    match split {
        None => Ok(files),
        Some(split) => chosen(config, root, files, None, split),
    }
}

fn folder(config: &DatasetConfig, split: Option<&str>, path: &Path) -> Result<Vec<PathBuf>, DataError> {
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
    let card = std::fs::read_to_string(path.join("README.md")).ok();
    chosen(config, path, files, card.as_deref(), split.unwrap_or("train"))
}

/// The files of one split, as [`repository_data`] reads their names and the folder's card.
fn chosen(
    config: &DatasetConfig,
    base: &Path,
    files: Vec<PathBuf>,
    card: Option<&str>,
    split: &str,
) -> Result<Vec<PathBuf>, DataError> {
    let name = |file: &PathBuf| {
        let parts: Vec<_> = file.strip_prefix(base).unwrap_or(file).iter().map(|part| part.to_string_lossy()).collect();
        parts.join("/")
    };
    let names: Vec<String> = files.iter().map(name).collect();
    let not_found = |expected: String, help: &str| DataError::NotFound {
        path: root_of(config, base),
        expected,
        help: help.to_owned(),
    };
    match repository_data(&names, card, config.name.as_deref(), split) {
        Ok(RepositoryData::Files(chosen)) => {
            let place = |chosen: &String| names.iter().position(|name| name == chosen).map(|at| files[at].clone());
            Ok(chosen.iter().filter_map(place).collect())
        }
        Ok(RepositoryData::Converted) => Err(not_found(
            "the folder holds no data file".to_owned(),
            "expected .jsonl, .ndjson, .json, .parquet or .csv, also .jsonl.gz and .jsonl.zst",
        )),
        Err(message) if message.contains("several formats") => Err(DataError::Config {
            path: config.path.clone(),
            message: format!(
                "{message}; give a pattern like `{}/*.jsonl` as `path`",
                config.path.trim_end_matches('/')
            ),
        }),
        Err(message) => Err(not_found(
            message,
            "the split is looked for in the card's `configs` and in file and folder names, as in train.jsonl or \
             validation-00000.parquet; otherwise give the file itself as `path`",
        )),
    }
}

fn root_of(config: &DatasetConfig, base: &Path) -> PathBuf {
    if base.ends_with(&config.path) { base.to_path_buf() } else { base.join(&config.path) }
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
        } else if is_data(&name) {
            files.push(path);
        }
    }
    Ok(())
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
        find_files(config, config.split.as_deref(), folder)
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
        let error = find_files(&config("d", None), Some("test"), folder.path()).unwrap_err().to_string();
        assert!(error.contains("no file of the split `test` among `a.jsonl`, `b.jsonl.gz`"), "{error}");
        assert!(error.contains("give the file itself"), "{error}");
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
            let error = find_files(&config, config.split.as_deref(), folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(found(folder.path(), &config("one.jsonl", Some("train"))), ["one.jsonl"]);
    }
}
