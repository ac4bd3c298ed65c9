//! Which files of a dataset repository hold a config's split, from names and the card alone.
//!
//! The order is that of `datasets.load_dataset`: the card's `configs`, then `data/train-00000-of-00003.parquet`,
//! then splits named by folders, then splits named by files, then everything as the training part. A repository
//! without a readable file (a loading script, archives) has the Hub's own conversion at another revision,
//! [`CONVERTED_REVISION`]. Nothing is opened here, so the answer is the same for a listing of the Hub and for a
//! folder.

use crate::card::{self, CardConfig};
use crate::dataset::quoted;
use crate::glob;
use crate::reader::Format;

/// The revision at which the Hub keeps each public dataset converted to Parquet.
pub const CONVERTED_REVISION: &str = "refs/convert/parquet";

/// Files that describe a dataset and hold no records.
const METADATA: [&str; 6] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"];

/// What a listing says of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryData {
    /// Names of the listing, in the order in which they are to be read.
    Files(Vec<String>),
    /// Nothing here can be read: list [`CONVERTED_REVISION`] and ask again with that listing.
    Converted,
}

/// The files of `split` in config `name` (the default one where it is not named) among `names`, paths with `/`
/// between their parts. `card` is the text of the repository's `README.md`, if there is one.
///
/// The listing of [`CONVERTED_REVISION`] (`config/split/0000.parquet`) is recognised.
///
/// # Errors
/// A config or split that is not there, with those that are; a card that cannot be read; several configs and
/// none asked for; a split that is there in several formats.
pub fn repository_data(
    names: &[String],
    card: Option<&str>,
    name: Option<&str>,
    split: &str,
) -> Result<RepositoryData, String> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let readable: Vec<&str> = names.iter().copied().filter(|name| is_data(name)).collect();
    let configs = card.map(card::configs).transpose()?.unwrap_or_default();
    if configs.is_empty() {
        if let Some(converted) = converted(&readable) {
            return converted_files(&converted, name, split).map(RepositoryData::Files);
        }
        return match name {
            None | Some("default") if readable.is_empty() => Ok(RepositoryData::Converted),
            None | Some("default") => by_convention(&readable, "", split),
            Some(name) => match within(&readable, name) {
                found if found.is_empty() => Ok(RepositoryData::Converted),
                found => by_convention(&found, name, split),
            },
        };
    }
    let config = chosen_config(&configs, name)?;
    if config.splits.is_empty() {
        return match within(&readable, &config.folder) {
            found if found.is_empty() => Ok(RepositoryData::Converted),
            found => by_convention(&found, &config.folder, split),
        };
    }
    let Some((_, patterns)) = config.splits.iter().find(|(known, _)| same_split(known, split)) else {
        let known: Vec<&str> = config.splits.iter().map(|(split, _)| split.as_str()).collect();
        return Err(format!("the config `{}` has no split `{split}`, but {}", config.name, quoted(&known)));
    };
    let matched = by_patterns(&names, &config.folder, patterns);
    if matched.is_empty() {
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        return Err(format!(
            "the card says that the split `{split}` is {}, and no file fits that; give the files themselves as `path`",
            quoted(&patterns)
        ));
    }
    let found: Vec<&str> = matched.into_iter().filter(|name| is_data(name)).collect();
    if found.is_empty() {
        return Ok(RepositoryData::Converted);
    }
    one_format(found, split).map(RepositoryData::Files)
}

/// Whether the name is that of a file with records.
pub(crate) fn is_data(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    let special = name.split('/').any(|part| part.starts_with('.') || part.starts_with("__"));
    Format::of(std::path::Path::new(base)).is_some() && !METADATA.contains(&base) && !special
}

fn chosen_config<'a>(configs: &'a [CardConfig], name: Option<&str>) -> Result<&'a CardConfig, String> {
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    match (name, configs) {
        (Some(name), _) => configs
            .iter()
            .find(|config| config.name == name)
            .ok_or_else(|| format!("there is no config `{name}`, but {}", quoted(&names))),
        (None, [only]) => Ok(only),
        (None, _) => configs
            .iter()
            .find(|config| config.default || config.name == "default")
            .ok_or_else(|| format!("there are several configs; choose one: `name:` one of {}", quoted(&names))),
    }
}

/// The names that a card's patterns mean, in the order of the patterns.
fn by_patterns<'a>(names: &[&'a str], folder: &str, patterns: &[String]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for pattern in patterns {
        // `hf://` and `https://` belong to other places; a pattern never leaves its repository.
        let pattern = pattern.trim_start_matches("./").trim_start_matches('/');
        let pattern = if folder.is_empty() { pattern.to_owned() } else { format!("{folder}/{pattern}") };
        let special = pattern.split('/').any(|part| part.starts_with("__"));
        let literal: Vec<&str> = names.iter().copied().filter(|name| *name == pattern).collect();
        let fits = |name: &&str| {
            let hidden = name.split('/').any(|part| part.starts_with("__"));
            let base = name.rsplit('/').next().unwrap_or(name);
            glob::path_fits(&pattern, name) && (special || !hidden) && base != "README.md" && !METADATA.contains(&base)
        };
        let matched = match literal.is_empty() {
            false => literal,
            true => names.iter().copied().filter(fits).collect(),
        };
        // A folder stands for what is in it.
        let matched = if matched.is_empty() { within(names, pattern.trim_end_matches('/')) } else { matched };
        for name in matched {
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found
}

fn within<'a>(names: &[&'a str], folder: &str) -> Vec<&'a str> {
    if folder.is_empty() {
        return names.to_vec();
    }
    names.iter().copied().filter(|name| below(name, folder).is_some()).collect()
}

/// The part of a name below a folder.
fn below<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() { Some(name) } else { name.strip_prefix(folder)?.strip_prefix('/') }
}

/// A split by the names of files and folders.
fn by_convention(names: &[&str], folder: &str, split: &str) -> Result<RepositoryData, String> {
    let relative = |name: &str| below(name, folder).unwrap_or(name).to_ascii_lowercase();
    let sharded: Vec<(&str, &str)> = names.iter().filter_map(|name| Some((*name, sharded_split(name)?))).collect();
    let exact: Vec<&str> =
        sharded.iter().filter(|(_, known)| same_split(known, split)).map(|(name, _)| *name).collect();
    if !exact.is_empty() {
        return one_format(exact, split).map(RepositoryData::Files);
    }
    if sharded.iter().any(|(_, known)| Split::named_as(known) == Some(Split::new(split))) {
        // `train` would be a word of both `train_sft` and `train_gen`.
        let mut known: Vec<&str> = sharded.iter().map(|(_, known)| *known).collect();
        known.dedup();
        return Err(format!("there is no split `{split}`, but {}", quoted(&known)));
    }
    let wanted = Split::new(split);
    let folders = |name: &str| relative(name).rsplit_once('/').map(|(folders, _)| folders.to_owned());
    let by_folder = |name: &&&str, split: &Split| folders(name).is_some_and(|folders| split.names(&folders));
    let splits = [Split::Train, Split::Validation, Split::Test];
    let mut chosen: Vec<&str> = names.iter().filter(|name| by_folder(name, &wanted)).copied().collect();
    if chosen.is_empty() {
        // What a folder gives to one split, a word in the file's name does not give to another.
        chosen = names
            .iter()
            .filter(|name| !splits.iter().any(|split| by_folder(name, split)))
            .filter(|name| wanted.names(relative(name).rsplit('/').next().unwrap_or_default()))
            .copied()
            .collect();
    }
    if chosen.is_empty() && wanted == Split::Train {
        let named = |name: &&&str| {
            let name = relative(name);
            splits.iter().any(|split| split.names(&name))
        };
        if !names.iter().any(|name| named(&name)) {
            chosen = names.to_vec();
        }
    }
    if chosen.is_empty() && wanted == Split::Validation {
        // datasets takes `eval.jsonl` as the test part; who asks for validation and has only that means it.
        chosen = names.iter().filter(|name| Split::Other("eval".to_owned()).names(&relative(name))).copied().collect();
    }
    if chosen.is_empty() {
        return Err(format!("no file of the split `{split}` among {}", quoted(names)));
    }
    one_format(chosen, split).map(RepositoryData::Files)
}

/// The same records are often there in two formats: reading both would train on each twice.
fn one_format(names: Vec<&str>, split: &str) -> Result<Vec<String>, String> {
    let mut formats: Vec<Format> = names.iter().filter_map(|name| Format::of(std::path::Path::new(name))).collect();
    formats.sort();
    formats.dedup();
    if formats.len() > 1 {
        let formats: Vec<&str> = formats.iter().map(|format| format.name()).collect();
        return Err(format!(
            "the split `{split}` is there in several formats ({}), which may be the same records twice",
            formats.join(", ")
        ));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// `train` of `data/train-00000-of-00003.parquet`, with anything between the count and the extension.
fn sharded_split(name: &str) -> Option<&str> {
    let base = name.strip_prefix("data/").or_else(|| Some(name.rsplit_once("/data/")?.1))?;
    let at = base.find("-of-")?;
    let five = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (split, number) = base[..at].rsplit_once('-')?;
    let split_is_word = !split.is_empty() && split.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    (five(number) && base.get(at + 4..at + 9).is_some_and(five) && split_is_word && !base.contains('/'))
        .then_some(split)
}

/// (config, split, name) of every file, where the listing is that of the converted revision.
fn converted<'a>(names: &[&'a str]) -> Option<Vec<(&'a str, &'a str, &'a str)>> {
    let parts = |name: &'a str| {
        let mut parts = name.split('/');
        let (config, split, file) = (parts.next()?, parts.next()?, parts.next()?);
        let number = file.strip_suffix(".parquet")?;
        let numbered = number.len() >= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
        // Large datasets are converted in part (`partial-train`) or in several folders (`train-part0`).
        let split = split.strip_prefix("partial-").unwrap_or(split);
        let split = match split.rsplit_once("-part") {
            Some((split, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => split,
            _ => split,
        };
        (numbered && parts.next().is_none()).then_some((config, split, name))
    };
    let found: Vec<_> = names.iter().map(|name| parts(name)).collect::<Option<_>>()?;
    (!found.is_empty()).then_some(found)
}

fn converted_files(files: &[(&str, &str, &str)], name: Option<&str>, split: &str) -> Result<Vec<String>, String> {
    let mut configs: Vec<&str> = files.iter().map(|(config, ..)| *config).collect();
    configs.dedup();
    let config = match (name, configs.as_slice()) {
        (Some(name), _) if configs.contains(&name) => name,
        (Some(name), _) => return Err(format!("there is no config `{name}`, but {}", quoted(&configs))),
        (None, [only]) => *only,
        (None, _) if configs.contains(&"default") => "default",
        (None, _) => {
            return Err(format!("there are several configs; choose one: `name:` one of {}", quoted(&configs)));
        }
    };
    let of_config: Vec<_> = files.iter().filter(|(known, ..)| *known == config).collect();
    let mut splits: Vec<&str> = of_config.iter().map(|(_, split, _)| *split).collect();
    splits.dedup();
    let mut found: Vec<&str> =
        of_config.iter().filter(|(_, known, _)| same_split(known, split)).map(|(.., name)| *name).collect();
    if found.is_empty() {
        return Err(format!("the config `{config}` has no split `{split}`, but {}", quoted(&splits)));
    }
    // `train-part10` comes after `train-part9`, and numbers have as many digits as they need.
    found.sort_by_key(|name| (part_number(name), name.len(), *name));
    Ok(found.into_iter().map(str::to_owned).collect())
}

fn part_number(name: &str) -> usize {
    let folder = name.split('/').nth(1).unwrap_or_default();
    folder.rsplit_once("-part").and_then(|(_, number)| number.parse().ok()).unwrap_or_default()
}

/// The card's and the files' names of splits are exact, but for the several words of the usual ones.
fn same_split(known: &str, asked: &str) -> bool {
    known == asked || Split::named_as(known).is_some_and(|split| split == Split::new(asked) && split.is_exactly(known))
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
            "validation" | "valid" | "val" | "dev" => Self::Validation,
            "test" | "testing" => Self::Test,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The usual split of which the name has a word.
    fn named_as(name: &str) -> Option<Self> {
        [Self::Train, Self::Validation, Self::Test].into_iter().find(|split| split.names(&name.to_ascii_lowercase()))
    }

    fn words(&self) -> Vec<&str> {
        match self {
            Self::Train => vec!["train", "training"],
            Self::Validation => vec!["validation", "valid", "val", "dev"],
            Self::Test => vec!["test", "testing", "eval", "evaluation"],
            Self::Other(word) => vec![word],
        }
    }

    fn is_exactly(&self, name: &str) -> bool {
        self.words().contains(&name.to_ascii_lowercase().as_str())
    }

    /// Whether a part of the lower-case path says this split, as a word of its own:
    /// `train-00000-of-00002.parquet` and `train/a.jsonl` do, `training_wheels.jsonl` and `constraint.jsonl` say
    /// something else.
    fn names(&self, path: &str) -> bool {
        path.split('/').any(|part| self.words().iter().any(|word| is_word_of(word, part)))
    }
}

fn is_word_of(word: &str, name: &str) -> bool {
    let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphabetic());
    name.match_indices(word)
        .any(|(at, _)| apart(name[..at].chars().next_back()) && apart(name[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests;
