//! A model or dataset reference becomes local files at one revision.
//!
//! Nothing is downloaded yet: a reference is a local folder, or the name of a repository that another program has
//! already put into the Hugging Face cache.

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// The revision of a repository where none is named.
pub const DEFAULT_REVISION: &str = "main";

/// Where references are looked up.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Folders that a relative path may start from, in this order.
    pub roots: Vec<PathBuf>,
    /// The Hugging Face cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`), where there is one.
    pub cache: Option<PathBuf>,
}

/// A reference that led to no files.
#[derive(Debug, Error)]
pub enum HubError {
    /// The path is a file.
    #[error("`{}` is a file; a model is the folder that holds it, or a .gguf file", path.display())]
    NotAFolder {
        /// What was found.
        path: PathBuf,
    },
    /// The reference can only be a path, and there is nothing.
    #[error("there is no folder `{reference}` (looked at {})", listed(looked_at))]
    NotFound {
        /// As it was given.
        reference: String,
        /// Every path that was tried.
        looked_at: Vec<PathBuf>,
    },
    /// The reference may be a repository, which is not in the cache.
    #[error(
        "there is no folder `{reference}` (looked at {}), and no repository of that name at revision `{revision}` in {}",
        listed(looked_at),
        cache.as_ref().map_or_else(|| "a Hugging Face cache (none was found)".to_owned(), |cache| format!("the Hugging Face cache `{}`", cache.display()))
    )]
    NotCached {
        /// As it was given.
        reference: String,
        /// As it was given, or `main`.
        revision: String,
        /// Every path that was tried.
        looked_at: Vec<PathBuf>,
        /// The cache that was looked into.
        cache: Option<PathBuf>,
    },
    /// A revision that names no file of a cache.
    #[error("`{revision}` is no revision: expected a branch, a tag or a commit")]
    BadRevision {
        /// As it was given.
        revision: String,
    },
}

impl HubError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotAFolder { .. } | Self::NotFound { .. } => {
                "give the folder that holds config.json, tokenizer.json and the safetensors files, or a .gguf file"
            }
            Self::NotCached { .. } => {
                "downloading is not supported yet: fetch it once with `hf download`, or give a local folder"
            }
            Self::BadRevision { .. } => "leave `revision` out for the newest commit",
        }
    }
}

/// The local files of a model: an existing folder or `.gguf` file, else a snapshot in the Hugging Face cache.
///
/// # Errors
/// A reference that leads to no folder, with every place that was looked at.
pub fn resolve_model(reference: &str, revision: Option<&str>, places: &Places) -> Result<PathBuf, HubError> {
    let mut looked_at = Vec::new();
    let path = Path::new(reference);
    let candidates: Vec<PathBuf> = if path.is_absolute() || places.roots.is_empty() {
        vec![path.to_owned()]
    } else {
        places.roots.iter().map(|root| clean(&root.join(path))).collect()
    };
    for candidate in candidates {
        if candidate.is_dir() {
            return Ok(candidate);
        }
        if candidate.is_file() {
            // A model in one file.
            if candidate.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
                return Ok(candidate);
            }
            return Err(HubError::NotAFolder { path: candidate });
        }
        if !looked_at.contains(&candidate) {
            looked_at.push(candidate);
        }
    }
    if !is_repository_name(reference) {
        return Err(HubError::NotFound { reference: reference.to_owned(), looked_at });
    }
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    let plain = Path::new(revision).components().all(|part| matches!(part, Component::Normal(_)));
    if revision.is_empty() || !plain {
        return Err(HubError::BadRevision { revision: revision.to_owned() });
    }
    let snapshot = places.cache.as_deref().and_then(|cache| cached_snapshot(cache, reference, revision));
    snapshot.ok_or_else(|| HubError::NotCached {
        reference: reference.to_owned(),
        revision: revision.to_owned(),
        looked_at,
        cache: places.cache.clone(),
    })
}

/// `models--org--name/refs/<revision>` holds the commit whose files are in `snapshots/<commit>`.
fn cached_snapshot(cache: &Path, name: &str, revision: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs").join(revision));
    // A commit names its snapshot itself.
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let plain = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let snapshot = repository.join("snapshots").join(&commit);
    (plain && snapshot.is_dir()).then_some(snapshot)
}

/// `name` or `org/name`, as the Hub allows them.
fn is_repository_name(reference: &str) -> bool {
    let part = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !text.is_empty() && !text.starts_with(['.', '-']) && text.bytes().all(allowed)
    };
    let parts: Vec<&str> = reference.split('/').collect();
    (1..=2).contains(&parts.len()) && parts.into_iter().all(part)
}

/// Without `./`, so that a message shows what the person would type.
fn clean(path: &Path) -> PathBuf {
    let kept: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    if kept.as_os_str().is_empty() { PathBuf::from(".") } else { kept }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_root_that_has_it_wins() {
        let folder = tempfile::tempdir().expect("done");
        let folder = folder.path();
        for root in ["a", "b"] {
            std::fs::create_dir_all(folder.join(root).join("tiny")).expect("done");
        }
        let places = Places { roots: vec![folder.join("a"), folder.join("b")], cache: None };
        assert_eq!(resolve_model("tiny", None, &places).expect("done"), folder.join("a/tiny"));
        let missing = resolve_model("./nothing", None, &places).expect_err("nothing");
        assert!(matches!(&missing, HubError::NotFound { looked_at, .. } if looked_at.len() == 2), "{missing}");
        std::fs::write(folder.join("a/file"), "").expect("done");
        assert!(matches!(resolve_model("file", None, &places), Err(HubError::NotAFolder { .. })));
        std::fs::write(folder.join("b/tiny.Q4_0.gguf"), "").expect("done");
        assert_eq!(resolve_model("tiny.Q4_0.gguf", None, &places).expect("done"), folder.join("b/tiny.Q4_0.gguf"));
    }

    #[test]
    fn a_repository_is_found_in_the_cache_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().expect("done");
        let cache = cache.path();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repository = cache.join("models--org--model");
        std::fs::create_dir_all(repository.join("snapshots").join(commit)).expect("done");
        std::fs::create_dir_all(repository.join("refs")).expect("done");
        std::fs::write(repository.join("refs/main"), commit).expect("done");
        let places = Places { roots: vec![cache.join("nowhere")], cache: Some(cache.to_owned()) };
        let snapshot = repository.join("snapshots").join(commit);
        assert_eq!(resolve_model("org/model", None, &places).expect("done"), snapshot);
        assert_eq!(resolve_model("org/model", Some(commit), &places).expect("done"), snapshot);
        assert!(matches!(resolve_model("org/model", Some("v2"), &places), Err(HubError::NotCached { .. })));
        assert!(matches!(resolve_model("org/model", Some("../main"), &places), Err(HubError::BadRevision { .. })));
        assert!(matches!(resolve_model("org/other", None, &places), Err(HubError::NotCached { .. })));
    }
}
