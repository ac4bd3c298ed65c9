//! The Hugging Face cache on disk, in Python's layout, so that each finds what the other fetched.
//!
//! `models--org--name/` holds `refs/<revision>` (a commit), `blobs/<hash>` (files by their content),
//! `snapshots/<commit>/<path>` (links to blobs) and `trees/<commit>.json` (what a commit consists of; commits never
//! change). `.locks/models--org--name/<hash>.lock` keeps two programs from fetching one file at the same time.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::HubError;
use crate::reference::{Kind, Repository, is_commit};

/// A repository's folder in the cache.
#[derive(Debug, Clone)]
pub(crate) struct RepositoryCache {
    cache: PathBuf,
    name: String,
}

impl RepositoryCache {
    pub(crate) fn new(cache: &Path, repository: &Repository) -> Self {
        let name = format!("{}--{}", repository.kind.plural(), repository.name.replace('/', "--"));
        Self { cache: cache.to_owned(), name }
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The commit that a branch, a tag or a commit meant when it was last fetched.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a revision means now.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write_aside(&self.folder().join("refs").join(revision), commit.as_bytes())
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The place of a file's content.
    pub(crate) fn blob(&self, hash: &str) -> PathBuf {
        self.folder().join("blobs").join(hash)
    }

    /// The place of a file's content until it is whole.
    pub(crate) fn incomplete(&self, hash: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{hash}.incomplete"))
    }

    /// The lock of a file's content.
    pub(crate) fn lock(&self, hash: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.name).join(format!("{hash}.lock"))
    }

    /// What a commit consists of.
    pub(crate) fn tree(&self, commit: &str) -> PathBuf {
        self.folder().join("trees").join(format!("{commit}.json"))
    }

    /// Puts a blob under its path in a snapshot.
    pub(crate) fn link(&self, commit: &str, path: &str, hash: &str) -> Result<(), HubError> {
        let (place, blob) = (self.snapshot(commit).join(path), self.blob(hash));
        if place.exists() {
            return Ok(());
        }
        let parent = place.parent().unwrap_or(&place);
        fs::create_dir_all(parent).map_err(HubError::io(parent, "create"))?;
        // A link that leads nowhere is one whose blob was deleted.
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::io(&place, "replace")(error));
            }
            _ => {}
        }
        // From `snapshots/<commit>/<folders>/<file>` up to the repository's folder.
        let up = "../".repeat(path.split('/').count() + 1);
        match symlink(Path::new(&format!("{up}blobs/{hash}")), &place) {
            Ok(()) => Ok(()),
            // Another program was faster.
            Err(_) if place.exists() => Ok(()),
            // A file system without links, as Python does it there.
            Err(_) => fs::hard_link(&blob, &place)
                .or_else(|_| fs::copy(&blob, &place).map(drop))
                .map_err(HubError::io(&place, "link")),
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes beside and renames, so that nobody sees half a file.
pub(crate) fn write_aside(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io(parent, "create"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Two programs or threads may do this at the same time, each with its own part file.
    let thread: String = format!("{:?}", std::thread::current().id()).chars().filter(char::is_ascii_digit).collect();
    let part = path.with_file_name(format!("{name}.{}-{thread}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|error| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&part);
        HubError::io(path, "write")(error)
    })
}

/// A repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CachedRepository {
    /// Which.
    #[serde(flatten)]
    pub repository: Repository,
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of its files on disk, each once.
    pub bytes: u64,
    /// Bytes of transfers that were not finished.
    pub unfinished_bytes: u64,
    /// Its commits, by hash.
    pub commits: Vec<CachedCommit>,
}

/// A commit in the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CachedCommit {
    /// Its hash.
    pub commit: String,
    /// Branches and tags that meant it when they were last fetched.
    pub revisions: Vec<String>,
    /// Its files that are here.
    pub files: usize,
    /// Their bytes; a file that two commits share counts for both.
    pub bytes: u64,
}

/// Everything that is in a cache, by name. What is no repository is left out.
///
/// # Errors
/// A folder that cannot be read.
pub fn list_cache(cache: &Path) -> Result<Vec<CachedRepository>, HubError> {
    let entries = match fs::read_dir(cache) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(HubError::io(cache, "list"))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry.map_err(HubError::io(cache, "list"))?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let repository = [Kind::Model, Kind::Dataset].into_iter().find_map(|kind| {
            let name = name.strip_prefix(kind.plural())?.strip_prefix("--")?;
            Repository::new(kind, &name.replacen("--", "/", 1))
        });
        let Some(repository) = repository.filter(|_| folder.join("snapshots").is_dir()) else { continue };
        found.push(cached_repository(repository, folder).map_err(HubError::io(cache, "list"))?);
    }
    found.sort_by(|a, b| a.repository.cmp(&b.repository));
    Ok(found)
}

fn cached_repository(repository: Repository, folder: PathBuf) -> io::Result<CachedRepository> {
    let mut refs = Vec::new();
    walk(&folder.join("refs"), &mut |path, _| refs.push(path.to_owned()))?;
    let revisions: Vec<(String, String)> = refs
        .iter()
        .filter_map(|path| {
            let name = path.strip_prefix(folder.join("refs")).ok()?.to_string_lossy().replace('\\', "/");
            Some((fs::read_to_string(path).ok()?.trim().to_owned(), name))
        })
        .collect();
    let (mut bytes, mut unfinished_bytes) = (0, 0);
    walk(&folder.join("blobs"), &mut |path, size| match path.extension() {
        Some(ending) if ending == "incomplete" => unfinished_bytes += size,
        _ => bytes += size,
    })?;
    let mut commits = Vec::new();
    for entry in fs::read_dir(folder.join("snapshots"))? {
        let snapshot = entry?.path();
        let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut at = CachedCommit { revisions: Vec::new(), files: 0, bytes: 0, commit };
        walk(&snapshot, &mut |_, size| {
            at.files += 1;
            at.bytes += size;
        })?;
        at.revisions = revisions.iter().filter(|(of, _)| *of == at.commit).map(|(_, name)| name.clone()).collect();
        at.revisions.sort();
        commits.push(at);
    }
    commits.sort_by(|a, b| a.commit.cmp(&b.commit));
    Ok(CachedRepository { repository, folder, bytes, unfinished_bytes, commits })
}

/// Every file of a folder with its size, links followed; a folder that is not there has none.
pub(crate) fn walk(folder: &Path, found: &mut dyn FnMut(&Path, u64)) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        // A link that leads nowhere is no file.
        let Ok(about) = fs::metadata(&path) else { continue };
        if about.is_dir() {
            walk(&path, found)?;
        } else {
            found(&path, about.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_links_to_blobs_and_is_listed_with_its_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::new(Kind::Dataset, "org/data-set.v1").unwrap();
        let cache = RepositoryCache::new(dir.path(), &repository);
        let (old, new) = ("1".repeat(40), "2".repeat(40));
        for (hash, text) in [("a", "one"), ("b", "three"), ("c.incomplete", "12345678")] {
            write_aside(&cache.blob(hash), text.as_bytes()).unwrap();
        }
        cache.link(&old, "README.md", "a").unwrap();
        cache.link(&new, "README.md", "a").unwrap();
        cache.link(&new, "data/deep/b.txt", "b").unwrap();
        cache.set_commit("main", &old).unwrap();
        cache.set_commit("main", &new).unwrap();
        cache.set_commit("refs/convert/parquet", &new).unwrap();
        assert_eq!(cache.commit("main"), Some(new.clone()));
        assert_eq!(fs::read_to_string(cache.snapshot(&new).join("data/deep/b.txt")).unwrap(), "three");
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(cache.snapshot(&new).join("data/deep/b.txt")).unwrap(),
            Path::new("../../../../blobs/b")
        );
        fs::create_dir(dir.path().join("spaces--org--x")).unwrap();
        fs::create_dir(dir.path().join("models--org--half")).unwrap();
        let listed = list_cache(dir.path()).unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((&listed[0].repository, listed[0].bytes, listed[0].unfinished_bytes), (&repository, 8, 8));
        let commits: Vec<_> = listed[0].commits.iter().map(|c| (c.files, c.bytes, c.revisions.join(" "))).collect();
        assert_eq!(commits, [(1, 3, String::new()), (2, 8, "main refs/convert/parquet".to_owned())]);
        assert_eq!(list_cache(&dir.path().join("nowhere")).unwrap(), []);
    }

    #[test]
    fn a_link_whose_blob_is_gone_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(dir.path(), &Repository::new(Kind::Model, "org/m").unwrap());
        let commit = "3".repeat(40);
        write_aside(&cache.blob("a"), b"old").unwrap();
        cache.link(&commit, "f", "a").unwrap();
        fs::remove_file(cache.blob("a")).unwrap();
        write_aside(&cache.blob("b"), b"new").unwrap();
        cache.link(&commit, "f", "b").unwrap();
        assert_eq!(fs::read_to_string(cache.snapshot(&commit).join("f")).unwrap(), "new");
    }
}
