//! What a person writes for a model or a dataset: a path, or the name of a repository at a revision.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::HubError;

/// The revision of a repository where none is named.
pub const DEFAULT_REVISION: &str = "main";

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A model or an adapter.
    Model,
    /// A dataset.
    Dataset,
}

impl Kind {
    /// `model` or `dataset`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// The folder of the Hub's API and the beginning of a folder of the cache.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What stands before the name in the address of a page or a file.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// A repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Repository {
    /// What it holds.
    pub kind: Kind,
    /// `org/name`, or `name` for some of the oldest.
    pub name: String,
}

impl Repository {
    /// A repository of this name, where it can be one.
    pub fn new(kind: Kind, name: &str) -> Option<Self> {
        is_repository_name(name).then(|| Self { kind, name: name.to_owned() })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.word(), self.name)
    }
}

/// Where a reference leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// An existing folder.
    Folder(PathBuf),
    /// A repository at a branch, a tag or a commit.
    Repository {
        /// Which.
        repository: Repository,
        /// As it was given, or `main`.
        revision: String,
        /// The paths that were tried before.
        looked_at: Vec<PathBuf>,
    },
}

impl Reference {
    /// An existing folder under one of `roots`, else `org/name` or `org/name@revision`. A `revision` beside the
    /// reference must be the one in it.
    ///
    /// # Errors
    /// A reference that is neither, with every place that was looked at; a revision that cannot be one.
    pub fn parse(text: &str, revision: Option<&str>, kind: Kind, roots: &[PathBuf]) -> Result<Self, HubError> {
        let looked_at = match find_folder(text, roots)? {
            Ok(folder) => return Ok(Self::Folder(folder)),
            Err(looked_at) => looked_at,
        };
        let (name, inside) = split_revision(text);
        let Some(repository) = Repository::new(kind, name) else {
            return Err(HubError::NotFound { reference: text.to_owned(), kind, looked_at });
        };
        let revision = match (inside, revision) {
            (Some(one), Some(other)) if one != other => {
                return Err(HubError::TwoRevisions { one: one.to_owned(), other: other.to_owned() });
            }
            (Some(revision), _) | (None, Some(revision)) => revision,
            (None, None) => DEFAULT_REVISION,
        };
        check_revision(revision)?;
        Ok(Self::Repository { repository, revision: revision.to_owned(), looked_at })
    }
}

/// `name@revision`, apart.
pub fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (text, None),
    }
}

/// Whether this is the full hash of a commit, which never means anything else.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A revision is a path in the cache: it must stay inside.
pub(crate) fn check_revision(revision: &str) -> Result<(), HubError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte);
    let plain = Path::new(revision).components().all(|part| matches!(part, Component::Normal(_)));
    if revision.is_empty() || !plain || !revision.bytes().all(allowed) {
        return Err(HubError::BadRevision { revision: revision.to_owned() });
    }
    Ok(())
}

/// The first existing folder of that path, or every place that was looked at.
fn find_folder(text: &str, roots: &[PathBuf]) -> Result<Result<PathBuf, Vec<PathBuf>>, HubError> {
    let mut looked_at = Vec::new();
    let path = Path::new(text);
    let candidates: Vec<PathBuf> = if path.is_absolute() || roots.is_empty() {
        vec![path.to_owned()]
    } else {
        roots.iter().map(|root| clean(&root.join(path))).collect()
    };
    for candidate in candidates {
        if candidate.is_dir() {
            return Ok(Ok(candidate));
        }
        if candidate.is_file() {
            // A model in one file.
            if candidate.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
                return Ok(Ok(candidate));
            }
            return Err(HubError::NotAFolder { path: candidate });
        }
        if !looked_at.contains(&candidate) {
            looked_at.push(candidate);
        }
    }
    Ok(Err(looked_at))
}

/// `name` or `org/name`, as the Hub allows them.
fn is_repository_name(text: &str) -> bool {
    let part = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !text.is_empty() && !text.starts_with(['.', '-']) && text.bytes().all(allowed)
    };
    let parts: Vec<&str> = text.split('/').collect();
    // `--` stands for the slash in the cache.
    (1..=2).contains(&parts.len()) && parts.into_iter().all(part) && !text.contains("--") && !text.contains("..")
}

/// Without `./`, so that a message shows what the person would type.
fn clean(path: &Path) -> PathBuf {
    let kept: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    if kept.as_os_str().is_empty() { PathBuf::from(".") } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, revision: Option<&str>, roots: &[PathBuf]) -> Result<Reference, HubError> {
        Reference::parse(text, revision, Kind::Model, roots)
    }

    #[test]
    fn the_first_root_that_has_it_wins() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for root in ["a", "b"] {
            std::fs::create_dir_all(folder.join(root).join("tiny")).unwrap();
        }
        let roots = [folder.join("a"), folder.join("b")];
        assert_eq!(parse("tiny", None, &roots).unwrap(), Reference::Folder(folder.join("a/tiny")));
        let missing = parse("./nothing", None, &roots).unwrap_err();
        assert!(matches!(&missing, HubError::NotFound { looked_at, .. } if looked_at.len() == 2), "{missing}");
        std::fs::write(folder.join("a/file"), "").unwrap();
        assert!(matches!(parse("file", None, &roots), Err(HubError::NotAFolder { .. })));
    }

    #[test]
    fn a_name_may_carry_its_revision() {
        let revision = |text: &str, beside: Option<&str>| match parse(text, beside, &[]) {
            Ok(Reference::Repository { repository, revision, .. }) => Ok(format!("{} {revision}", repository.name)),
            Ok(Reference::Folder(folder)) => panic!("{folder:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(revision("org/model", None).unwrap(), "org/model main");
        assert_eq!(revision("org/model@v1.0", None).unwrap(), "org/model v1.0");
        assert_eq!(revision("org/model@refs/pr/3", None).unwrap(), "org/model refs/pr/3");
        assert_eq!(revision("org/model", Some("v2")).unwrap(), "org/model v2");
        assert_eq!(revision("org/model@v2", Some("v2")).unwrap(), "org/model v2");
        assert!(revision("org/model@v1", Some("v2")).unwrap_err().contains("`v1` and `v2`"));
        for bad in ["", "../main", "/main", "a b", "a?b"] {
            assert!(revision("org/model", Some(bad)).unwrap_err().contains("is no revision"), "{bad}");
        }
        for bad in ["a/b/c", "a--b/c", "org/..", "-a/b", "org/na me", ""] {
            assert!(matches!(parse(bad, None, &[]), Err(HubError::NotFound { .. })), "{bad}");
        }
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567") && !is_commit("main") && !is_commit(""));
    }
}
