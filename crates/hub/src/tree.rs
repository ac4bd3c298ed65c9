//! What a repository consists of at one commit.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::cache::{RepositoryCache, walk, write_aside};
use crate::error::HubError;
use crate::reference::Repository;

/// The files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Of which repository.
    pub repository: Repository,
    /// As it was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit.
    pub commit: String,
    /// Every file by its path.
    pub files: BTreeMap<String, RemoteFile>,
    /// Whether these are all files of the commit, rather than those that happen to be in the cache.
    pub whole: bool,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Bytes.
    pub size: u64,
    /// The hash of its content, which is its name in the cache; `None` for a file that is only known to be there.
    pub hash: Option<ContentHash>,
}

/// The hash of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentHash {
    /// SHA-256 of the content: a large file.
    Sha256(String),
    /// SHA-1 of git's header and the content: a file that is in git itself.
    Git(String),
}

impl ContentHash {
    /// The digits.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }
}

impl Tree {
    /// The paths in it.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether a path can be one in a snapshot: it must stay inside.
    pub(crate) fn is_inside(path: &str) -> bool {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        plain && !path.is_empty() && !path.contains(['\\', '\0', ':']) && !path.contains("//")
    }

    /// What was noted when the commit was listed, by rankine or by Python.
    pub(crate) fn cached(
        cache: &RepositoryCache,
        repository: &Repository,
        revision: &str,
        commit: &str,
    ) -> Option<Self> {
        let listing: Listing = serde_json::from_slice(&std::fs::read(cache.tree(commit)).ok()?).ok()?;
        // Another version of the format is asked for anew.
        if listing.format_version != FORMAT_VERSION {
            return None;
        }
        let file = |(path, entry): (String, Entry)| {
            let (size, hash) = match entry.lfs_sha256 {
                Some(hash) => (entry.lfs_size.unwrap_or(entry.size), ContentHash::Sha256(hash)),
                None => (entry.size, ContentHash::Git(entry.blob_id)),
            };
            Self::is_inside(&path).then_some((path, RemoteFile { size, hash: Some(hash) }))
        };
        let files = listing.files.into_iter().filter_map(file).collect();
        Some(Self {
            repository: repository.clone(),
            revision: revision.to_owned(),
            commit: commit.to_owned(),
            files,
            whole: true,
        })
    }

    /// The files of a commit that are in the cache, where nothing more is known of it.
    pub(crate) fn of_snapshot(
        cache: &RepositoryCache,
        repository: &Repository,
        revision: &str,
        commit: &str,
    ) -> Option<Self> {
        let folder = cache.snapshot(commit);
        let mut files = BTreeMap::new();
        walk(&folder, &mut |path, size| {
            if let Ok(path) = path.strip_prefix(&folder) {
                files.insert(path.to_string_lossy().replace('\\', "/"), RemoteFile { size, hash: None });
            }
        })
        .ok()?;
        let tree = Self {
            repository: repository.clone(),
            revision: revision.to_owned(),
            commit: commit.to_owned(),
            files,
            whole: false,
        };
        (!tree.files.is_empty()).then_some(tree)
    }

    /// Notes it in Python's format: a commit never changes.
    pub(crate) fn write(&self, cache: &RepositoryCache) -> Result<(), HubError> {
        let entry = |file: &RemoteFile| {
            Some(match file.hash.as_ref()? {
                ContentHash::Sha256(hash) => Entry {
                    size: file.size,
                    // Python keeps git's hash of the pointer here, and reads it only where there is no other.
                    blob_id: hash.clone(),
                    lfs_sha256: Some(hash.clone()),
                    lfs_size: Some(file.size),
                },
                ContentHash::Git(hash) => {
                    Entry { size: file.size, blob_id: hash.clone(), lfs_sha256: None, lfs_size: None }
                }
            })
        };
        let files: Option<BTreeMap<String, Entry>> =
            self.files.iter().map(|(path, file)| Some((path.clone(), entry(file)?))).collect();
        let Some(files) = files else { return Ok(()) };
        let listing = Listing { format_version: FORMAT_VERSION, files };
        // Plain texts and numbers: this cannot fail.
        let text = serde_json::to_vec_pretty(&listing).unwrap_or_default();
        write_aside(&cache.tree(&self.commit), &text)
    }
}

const FORMAT_VERSION: u32 = 1;

/// `trees/<commit>.json`, as huggingface_hub writes it.
#[derive(Serialize, Deserialize)]
struct Listing {
    format_version: u32,
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Kind;

    #[test]
    fn a_listing_is_written_and_read_as_python_does() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::new(Kind::Model, "org/m").unwrap();
        let cache = RepositoryCache::new(dir.path(), &repository);
        let commit = "4".repeat(40);
        let python = r#"{"format_version": 1, "files": {
            "config.json": {"size": 5, "blob_id": "aa"},
            "../out": {"size": 5, "blob_id": "aa"},
            "sub/model.safetensors": {"size": 130, "blob_id": "bb", "lfs_sha256": "cc", "lfs_size": 9, "xet_hash": "dd"}}}"#;
        write_aside(&cache.tree(&commit), python.as_bytes()).unwrap();
        let tree = Tree::cached(&cache, &repository, "main", &commit).unwrap();
        let file = |size, hash| RemoteFile { size, hash: Some(hash) };
        let expected = [
            ("config.json".to_owned(), file(5, ContentHash::Git("aa".into()))),
            ("sub/model.safetensors".to_owned(), file(9, ContentHash::Sha256("cc".into()))),
        ];
        assert_eq!(tree.files, BTreeMap::from(expected));
        tree.write(&cache).unwrap();
        assert_eq!(Tree::cached(&cache, &repository, "main", &commit).unwrap(), tree);
        write_aside(&cache.tree(&commit), br#"{"format_version": 2, "files": {}}"#).unwrap();
        assert_eq!(Tree::cached(&cache, &repository, "main", &commit), None);
    }

    #[test]
    fn a_path_stays_inside() {
        for path in ["", "/a", "../a", "a/../b", "a//b", "a\\b", "c:a", "./a"] {
            assert!(!Tree::is_inside(path), "{path}");
        }
        assert!(Tree::is_inside("a") && Tree::is_inside("a/b.c/..d"));
    }
}
