//! What a dataset's card says of its files: the `configs` of its front matter.
//!
//! ```yaml
//! configs:
//! - config_name: default
//!   data_files:
//!   - split: train
//!     path: ["data/train-*", "more/*.jsonl"]
//! ```
//! as the Hub documents it ("Manual Configuration") and `datasets.utils.metadata.MetadataConfigs` reads it.

use serde::Deserialize;
use serde_json::Value;

/// One entry of `configs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CardConfig {
    pub(crate) name: String,
    /// Chosen where no name is asked for.
    pub(crate) default: bool,
    /// The folder that patterns and conventions start from, without a slash at its end; empty for the root.
    pub(crate) folder: String,
    /// Splits and their patterns, in the card's order; nothing where the conventions of names decide.
    pub(crate) splits: Vec<(String, Vec<String>)>,
}

#[derive(Deserialize)]
struct FrontMatter {
    #[serde(default)]
    configs: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    config_name: Option<Value>,
    #[serde(default)]
    default: Option<bool>,
    #[serde(default)]
    data_dir: Option<String>,
    #[serde(default)]
    data_files: Option<Value>,
}

/// The `configs` of a card, in order; none where it has no front matter or says nothing of files.
pub(crate) fn configs(card: &str) -> Result<Vec<CardConfig>, String> {
    let Some(text) = front_matter(card) else {
        return Ok(Vec::new());
    };
    let matter: Option<FrontMatter> =
        serde_saphyr::from_str(text).map_err(|error| format!("the card's front matter cannot be read: {error}"))?;
    let entries = matter.and_then(|matter| matter.configs).unwrap_or_default();
    entries.into_iter().enumerate().map(|(index, entry)| config(index, entry)).collect()
}

/// The YAML between the first two lines of three dashes.
fn front_matter(card: &str) -> Option<&str> {
    let rest = card.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let (line, rest) = rest.split_once('\n')?;
    if !line.trim().is_empty() {
        return None;
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..at]);
        }
        at += line.len();
    }
    None
}

fn config(index: usize, entry: Entry) -> Result<CardConfig, String> {
    let Some(name) = entry.config_name.as_ref().and_then(scalar) else {
        return Err(format!("`configs`[{index}] of the card has no `config_name`"));
    };
    let splits = match &entry.data_files {
        None | Some(Value::Null) => Vec::new(),
        Some(files) => data_files(files).ok_or_else(|| {
            format!(
                "`data_files` of the card's config `{name}`: expected a pattern, a list of patterns, or a list of \
                 `split` and `path`"
            )
        })?,
    };
    let folder = entry.data_dir.unwrap_or_default();
    let folder = folder.trim_start_matches("./").trim_matches('/');
    Ok(CardConfig {
        name,
        default: entry.default.unwrap_or(false),
        folder: if folder == "." { String::new() } else { folder.to_owned() },
        splits,
    })
}

/// A pattern, a list of patterns (both are the training part), or patterns by split, as a list or a mapping.
fn data_files(value: &Value) -> Option<Vec<(String, Vec<String>)>> {
    let train = |patterns| vec![("train".to_owned(), patterns)];
    match value {
        Value::String(_) => Some(train(patterns(value)?)),
        Value::Array(list) if list.iter().all(Value::is_string) => Some(train(patterns(value)?)),
        Value::Array(list) => list
            .iter()
            .map(|entry| Some((scalar(entry.get("split")?)?, patterns(entry.get("path")?)?)))
            .collect::<Option<Vec<_>>>(),
        Value::Object(map) => map.iter().map(|(split, path)| Some((split.clone(), patterns(path)?))).collect(),
        _ => None,
    }
}

fn patterns(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(pattern) => Some(vec![pattern.clone()]),
        Value::Array(list) => list.iter().map(|pattern| pattern.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A name, which YAML may have read as a number: `config_name: 2024`.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(data_files: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        let card = format!("---\nlicense: mit\nconfigs:\n- config_name: a\n  data_files: {data_files}\n---\n# A\n");
        configs(&card).map(|mut configs| configs.remove(0).splits)
    }

    fn owned(splits: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        splits
            .iter()
            .map(|(split, patterns)| ((*split).to_owned(), patterns.iter().map(|text| (*text).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn every_form_of_data_files_is_read() {
        for (text, expected) in [
            ("\"*.csv\"", owned(&[("train", &["*.csv"])])),
            ("[a.csv, b/**]", owned(&[("train", &["a.csv", "b/**"])])),
            (
                "[{split: train, path: data/train-*}, {split: test_gen, path: [x.csv, y.csv]}]",
                owned(&[("train", &["data/train-*"]), ("test_gen", &["x.csv", "y.csv"])]),
            ),
            ("{train: a.csv, test: [b.csv]}", owned(&[("train", &["a.csv"]), ("test", &["b.csv"])])),
            ("null", Vec::new()),
        ] {
            assert_eq!(splits(text), Ok(expected), "{text}");
        }
        for wrong in ["7", "[{path: a.csv}]", "[{split: train, path: 3}]"] {
            assert!(splits(wrong).unwrap_err().contains("expected a pattern"), "{wrong}");
        }
    }

    #[test]
    fn a_card_may_say_nothing() {
        for card in ["", "# Title\n", "---\nlicense: mit\n---\n", "---\nno end", "----\na: b\n---\n", "---\n---\n"] {
            assert_eq!(configs(card), Ok(Vec::new()), "{card:?}");
        }
        assert!(configs("---\nconfigs: [{default: true}]\n---\n").unwrap_err().contains("no `config_name`"));
        assert!(configs("---\na: [\n---\n").unwrap_err().contains("front matter"));
    }

    #[test]
    fn names_folders_and_defaults_are_kept() {
        let card = "---\r\nconfigs:\r\n- config_name: 2024\r\n  data_dir: ./y/2024/\r\n  default: true\r\n---\r\n";
        let expected =
            CardConfig { name: "2024".to_owned(), default: true, folder: "y/2024".to_owned(), splits: Vec::new() };
        assert_eq!(configs(card), Ok(vec![expected]));
    }
}
