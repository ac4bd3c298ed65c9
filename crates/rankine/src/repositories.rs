//! A reference becomes a folder: local, or fetched from the Hub with its progress on stderr.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rankine_data::{CONVERTED_REVISION, DatasetConfig, RepositoryData};
use rankine_hub::{
    DEFAULT_REVISION, Hub, HubError, Kind, ModelPart, Reference, Repository, Tree, dataset_files, model_files,
};
use serde::{Deserialize, Serialize};

use crate::Environment;
use crate::fault::{Failure, Fault};
use crate::terminal::transfer::Transfer;

/// The repositories of a command.
pub(crate) struct Repositories {
    hub: Hub,
    quiet: bool,
    /// The commits of a lock, where nothing else may be used.
    pins: Option<Vec<UsedRepository>>,
    used: RefCell<Vec<UsedRepository>>,
}

/// A repository that a command used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedRepository {
    /// Which.
    #[serde(flatten)]
    pub repository: Repository,
    /// As it was asked for.
    pub revision: String,
    /// What that meant.
    pub commit: String,
    /// Its files.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// A folder that a reference led to.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) folder: PathBuf,
    /// Where it is a repository's.
    pub(crate) repository: Option<UsedRepository>,
}

/// Why a reference led to none.
#[derive(Debug)]
pub(crate) enum FindError {
    /// What the hub says.
    Hub(HubError),
    /// The dataset has no such config or split.
    NoSuchPart {
        /// Which.
        repository: Repository,
        /// What there is instead.
        what: String,
    },
    /// The lock knows no such repository.
    NotLocked {
        /// Which.
        repository: Repository,
        /// Asked for.
        revision: String,
    },
}

impl Repositories {
    pub(crate) fn new(environment: &Environment, quiet: bool) -> Result<Self, Failure> {
        let hub = Hub::new(environment.hub.clone()).map_err(|error| FindError::Hub(error).failure())?;
        Ok(Self { hub, quiet, pins: None, used: RefCell::default() })
    }

    /// The same, with nothing but these commits.
    #[must_use]
    pub(crate) fn pinned(mut self, pins: Vec<UsedRepository>) -> Self {
        self.pins = Some(pins);
        self
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What was used so far, each once.
    pub(crate) fn used(&self) -> Vec<UsedRepository> {
        self.used.borrow().clone()
    }

    /// The folder of a model, or as much of it as is asked for.
    pub(crate) fn model(
        &self,
        reference: &str,
        revision: Option<&str>,
        roots: &[PathBuf],
        part: ModelPart,
    ) -> Result<Found, FindError> {
        self.find(reference, revision, Kind::Model, roots, |tree| Ok((None, model_files(tree, part)?)))
    }

    /// The folder of a dataset: the files of its config and split at its revision, as its card or their names say,
    /// else those of the Parquet copies that the Hub makes.
    pub(crate) fn dataset(&self, dataset: &DatasetConfig, roots: &[PathBuf]) -> Result<Found, FindError> {
        const CARD: &str = "README.md";
        self.find(&dataset.path, None, Kind::Dataset, roots, |tree| {
            let card = match tree.files.contains_key(CARD) {
                false => None,
                true => {
                    let folder = self.fetch(tree, &[CARD.to_owned()])?;
                    std::fs::read_to_string(folder.join(CARD)).ok()
                }
            };
            let chosen = |tree: &Tree, card: Option<&str>| {
                let names: Vec<String> = tree.files.keys().cloned().collect();
                dataset
                    .repository_files(&names, card)
                    .map_err(|what| FindError::NoSuchPart { repository: tree.repository.clone(), what })
            };
            match chosen(tree, card.as_deref())? {
                RepositoryData::Files(mut files) => {
                    files.extend(card.map(|_| CARD.to_owned()));
                    Ok((None, files))
                }
                RepositoryData::Converted if tree.revision != DEFAULT_REVISION => Ok((None, dataset_files(tree))),
                RepositoryData::Converted => {
                    let copies = Transfer::new(&tree.repository.name, self.quiet)
                        .run(|telling| self.hub.tree(&tree.repository, CONVERTED_REVISION, telling))?;
                    match chosen(&copies, None)? {
                        RepositoryData::Files(files) => Ok((Some(copies), files)),
                        RepositoryData::Converted => Ok((Some(copies), Vec::new())),
                    }
                }
            }
        })
    }

    /// These files of a repository.
    pub(crate) fn fetch(&self, tree: &Tree, files: &[String]) -> Result<PathBuf, HubError> {
        Transfer::new(&tree.repository.name, self.quiet).run(|telling| self.hub.fetch(tree, files, telling))
    }

    /// The files of a repository at a revision.
    pub(crate) fn tree(&self, repository: &Repository, revision: &str) -> Result<Tree, HubError> {
        Transfer::new(&repository.name, self.quiet).run(|telling| self.hub.tree(repository, revision, telling))
    }

    fn find(
        &self,
        reference: &str,
        revision: Option<&str>,
        kind: Kind,
        roots: &[PathBuf],
        choose: impl Fn(&Tree) -> Result<(Option<Tree>, Vec<String>), FindError>,
    ) -> Result<Found, FindError> {
        let (repository, revision, looked_at) = match Reference::parse(reference, revision, kind, roots)? {
            Reference::Folder(folder) => return Ok(Found { folder, repository: None }),
            Reference::Repository { repository, revision, looked_at } => (repository, revision, looked_at),
        };
        let at = match &self.pins {
            None => revision.clone(),
            Some(pins) => {
                let pin = pins.iter().find(|pin| pin.repository == repository && pin.revision == revision);
                let missing = || FindError::NotLocked { repository: repository.clone(), revision: revision.clone() };
                pin.ok_or_else(missing)?.commit.clone()
            }
        };
        // A reference that may have been meant as a folder says so.
        let said = |error| match error {
            HubError::NotCached { repository, revision, cache, why, .. } => {
                HubError::NotCached { repository, revision, cache, why, looked_at: looked_at.clone() }
            }
            HubError::NoRepository { repository, endpoint, has_token, other_kind, .. } => {
                HubError::NoRepository { repository, endpoint, has_token, other_kind, looked_at: looked_at.clone() }
            }
            error => error,
        };
        let mut tree = self.tree(&repository, &at).map_err(said)?;
        let (other, files) = choose(&tree)?;
        tree = other.unwrap_or(tree);
        let folder = self.fetch(&tree, &files)?;
        let used = UsedRepository { repository, revision, commit: tree.commit, folder: folder.clone() };
        let mut all = self.used.borrow_mut();
        if !all.contains(&used) {
            all.push(used.clone());
        }
        Ok(Found { folder, repository: Some(used) })
    }
}

impl From<HubError> for FindError {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

impl FindError {
    /// What is wrong.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Hub(error) => error.to_string(),
            Self::NoSuchPart { repository, what } => format!("{repository}: {what}"),
            Self::NotLocked { repository, revision } => {
                format!("rankine.lock has no {repository} at revision `{revision}`")
            }
        }
    }

    /// What to do.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Hub(error) => error.help(),
            Self::NoSuchPart { .. } => {
                "`name` chooses a config of the dataset's card and `split` one of its splits".to_owned()
            }
            Self::NotLocked { .. } => "run once without `--locked`, which writes the lock anew".to_owned(),
        }
    }

    /// Whether a recipe's `revision` is at fault, rather than the reference itself.
    pub(crate) fn is_about_revision(&self) -> bool {
        matches!(
            self,
            Self::Hub(HubError::BadRevision { .. } | HubError::NoRevision { .. } | HubError::TwoRevisions { .. })
        )
    }

    /// Whether the input is right and only the surroundings are not.
    pub(crate) fn is_outside(&self) -> bool {
        matches!(self, Self::Hub(error) if error.is_outside())
    }

    /// As the end of a command.
    pub(crate) fn failure(&self) -> Failure {
        let fault = Fault::new(self.what()).help(self.help());
        if self.is_outside() { Failure::Failed(fault) } else { Failure::bad_input(fault) }
    }
}

/// Whether a dataset's path may be a repository: `org/name`, not the path of a file that is not there.
pub(crate) fn may_be_dataset(path: &str) -> bool {
    const FILES: [&str; 8] = ["jsonl", "json", "csv", "parquet", "gz", "zst", "txt", "arrow"];
    let (name, _) = rankine_hub::split_revision(path);
    let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    name.split('/').count() == 2
        && Repository::new(Kind::Dataset, name).is_some()
        && ending.is_none_or(|ending| !FILES.contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_no_repository() {
        for path in ["data/x.jsonl", "data/x.jsonl.gz", "data/x.parquet", "x", "a/b/c", "./data/x", "data/*", "../a/b"]
        {
            assert!(!may_be_dataset(path), "{path}");
        }
        for path in ["org/data", "org/data-v1.5", "org/data@v2", "org/data@refs/pr/1"] {
            assert!(may_be_dataset(path), "{path}");
        }
    }
}
