//! From what the person gave to the files of a GGUF model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::fault::GgufError;
use crate::weights::{INDEX_FILE, SINGLE_FILE};

/// The files of one model. The first has the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufFiles {
    /// One, or the parts of a split model in order.
    pub files: Vec<PathBuf>,
}

impl GgufFiles {
    /// The file with the metadata.
    pub fn first(&self) -> &Path {
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

/// The GGUF files that `model` means: itself, where it is one, or the only one of a folder without safetensors.
/// `None` where the model is a folder of another kind.
///
/// # Errors
/// A folder with several, or a split model that is not complete.
pub fn find(model: &Path) -> Result<Option<GgufFiles>, GgufError> {
    if model.is_file() {
        return if is_gguf(model) { complete(model).map(Some) } else { Ok(None) };
    }
    if !model.is_dir() || [SINGLE_FILE, INDEX_FILE].iter().any(|name| model.join(name).exists()) {
        return Ok(None);
    }
    let unreadable = |source| GgufError::Unreadable { file: model.to_owned(), source };
    let mut models: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(model).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Vision towers lie beside the models that they belong to.
        if !is_gguf(&path) || !path.is_file() || name.starts_with("mmproj") {
            continue;
        }
        let stem = part_of(name).map_or(name, |part| part.stem).to_owned();
        let first = models.entry(stem).or_insert_with(|| path.clone());
        if path < *first {
            *first = path;
        }
    }
    if models.len() > 1 {
        return Err(GgufError::Several { folder: model.to_owned(), files: models.into_keys().collect() });
    }
    models.into_values().next().map(|file| complete(&file)).transpose()
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// All the parts, where `file` is one of several.
fn complete(file: &Path) -> Result<GgufFiles, GgufError> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(Part { stem, count }) = part_of(name) else { return Ok(GgufFiles { files: vec![file.to_owned()] }) };
    let names: Vec<String> = (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.gguf")).collect();
    let missing: Vec<String> = names.iter().filter(|name| !file.with_file_name(name).is_file()).cloned().collect();
    if !missing.is_empty() {
        return Err(GgufError::MissingParts { file: file.to_owned(), count, missing });
    }
    Ok(GgufFiles { files: names.into_iter().map(|name| file.with_file_name(name)).collect() })
}

struct Part<'a> {
    stem: &'a str,
    count: usize,
}

/// `STEM-00002-of-00003.gguf`, as llama.cpp names the parts of a split model.
fn part_of(name: &str) -> Option<Part<'_>> {
    let digits =
        |text: &str| (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok());
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number): (&str, &str) = rest.rsplit_once('-')?;
    let count: usize = digits(count)??;
    let number: usize = digits(number)??;
    (1..=count).contains(&number).then_some(Part { stem, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), "GGUF").unwrap());
        folder
    }

    fn found(folder: &Path) -> Option<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        find(folder).unwrap().map(|found| found.files.iter().map(name).collect())
    }

    #[test]
    fn a_file_or_the_only_one_of_a_folder() {
        let one = folder(&["README.md", "m.Q4_0.gguf", "mmproj-m.gguf", "config.json"]);
        assert_eq!(found(one.path()).unwrap(), ["m.Q4_0.gguf"]);
        assert_eq!(found(&one.path().join("m.Q4_0.gguf")).unwrap(), ["m.Q4_0.gguf"]);
        assert_eq!(found(&one.path().join("README.md")), None);
        assert_eq!(found(&one.path().join("nothing.gguf")), None);
        assert_eq!(found(folder(&["m.gguf", SINGLE_FILE]).path()), None, "safetensors go first");
        let two = folder(&["b.gguf", "a.gguf"]);
        assert!(find(two.path()).unwrap_err().to_string().contains("(a.gguf, b.gguf); give the path of one"));
    }

    #[test]
    fn split_models_are_one() {
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        let whole = folder(&parts);
        assert_eq!(found(whole.path()).unwrap(), parts);
        assert_eq!(found(&whole.path().join(parts[1])).unwrap(), parts);
        let half = folder(&parts[1..]);
        let text = find(half.path()).unwrap_err().to_string();
        assert!(text.contains("not there: m-00001-of-00002.gguf"), "{text}");
    }
}
