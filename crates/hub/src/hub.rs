//! A repository at a revision becomes a folder: from the cache where it is whole, else from the Hub.

use std::path::{Path, PathBuf};

use crate::cache::RepositoryCache;
use crate::config::HubConfig;
use crate::error::{HubError, NoConnection};
use crate::progress::{Event, Telling};
use crate::reference::Repository;
use crate::tree::Tree;

/// The cache, and the Hub behind it.
#[derive(Debug)]
pub struct Hub {
    pub(crate) config: HubConfig,
    #[cfg(feature = "hub")]
    pub(crate) http: crate::http::Http,
}

impl Hub {
    /// With these settings; nothing is connected yet.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        Ok(Self {
            #[cfg(feature = "hub")]
            http: crate::http::Http::new(&config)?,
            config,
        })
    }

    /// The settings.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// The files of a repository at a revision. A commit that was listed before is not asked for again; without a
    /// connection, or where the Hub cannot answer, the cache says what it has.
    ///
    /// # Errors
    /// A repository or revision that is not there or not for this account; without a connection, one that is not in
    /// the cache.
    pub fn tree(&self, repository: &Repository, revision: &str, telling: &Telling<'_>) -> Result<Tree, HubError> {
        crate::reference::check_revision(revision)?;
        if crate::reference::is_commit(revision)
            && let Some(tree) = self.cached_tree(repository, revision).filter(|tree| tree.whole)
        {
            return Ok(tree);
        }
        if let Some(why) = self.no_connection() {
            return self.cached_tree(repository, revision).ok_or_else(|| HubError::NotCached {
                repository: repository.clone(),
                revision: revision.to_owned(),
                cache: self.config.cache.clone(),
                looked_at: Vec::new(),
                why,
            });
        }
        match self.live_tree(repository, revision, telling) {
            Err(error) if error.is_outage() => match self.cached_tree(repository, revision) {
                Some(tree) => {
                    telling(Event::FromCache { reason: &error.to_string(), commit: &tree.commit });
                    Ok(tree)
                }
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Makes these files of a commit be in the cache; the commit's folder. Files that are there cost no request.
    ///
    /// # Errors
    /// Files that the commit does not have or that cannot be fetched. What is there already is kept.
    pub fn fetch(&self, tree: &Tree, files: &[String], telling: &Telling<'_>) -> Result<PathBuf, HubError> {
        let cache = self.cache(&tree.repository)?;
        let folder = cache.snapshot(&tree.commit);
        let unknown: Vec<String> = files.iter().filter(|path| !tree.files.contains_key(*path)).cloned().collect();
        if !unknown.is_empty() {
            return Err(HubError::NoFile {
                repository: tree.repository.clone(),
                revision: tree.revision.clone(),
                missing: unknown,
            });
        }
        let missing: Vec<String> = files.iter().filter(|path| !folder.join(path).is_file()).cloned().collect();
        if missing.is_empty() {
            // Also noted where nothing is fetched: a branch may have moved back.
            if self.no_connection().is_none() {
                note_revision(&cache, tree, telling);
            }
            return Ok(folder);
        }
        if let Some(why) = self.no_connection() {
            return Err(HubError::Incomplete {
                repository: tree.repository.clone(),
                commit: tree.commit.clone(),
                missing,
                why,
            });
        }
        self.download(&cache, tree, &missing, telling)?;
        cache.set_commit(&tree.revision, &tree.commit)?;
        Ok(folder)
    }

    /// What the cache knows of a revision: a listing of the commit, else the files that are there.
    pub fn cached_tree(&self, repository: &Repository, revision: &str) -> Option<Tree> {
        let cache = self.cache(repository).ok()?;
        let commit = cache.commit(revision)?;
        Tree::cached(&cache, repository, revision, &commit)
            .or_else(|| Tree::of_snapshot(&cache, repository, revision, &commit))
    }

    /// Why nothing can be asked, if so.
    pub(crate) fn no_connection(&self) -> Option<NoConnection> {
        match (self.config.offline, cfg!(feature = "hub")) {
            (true, _) => Some(NoConnection::Offline),
            (false, false) => Some(NoConnection::NotBuilt),
            (false, true) => None,
        }
    }

    pub(crate) fn cache(&self, repository: &Repository) -> Result<RepositoryCache, HubError> {
        let folder: &Path = self.config.cache.as_deref().ok_or(HubError::NoCache)?;
        Ok(RepositoryCache::new(folder, repository))
    }

    #[cfg(not(feature = "hub"))]
    fn live_tree(&self, _: &Repository, _: &str, _: &Telling<'_>) -> Result<Tree, HubError> {
        unreachable!("asked for only where there is a connection")
    }

    #[cfg(not(feature = "hub"))]
    fn download(&self, _: &RepositoryCache, _: &Tree, _: &[String], _: &Telling<'_>) -> Result<(), HubError> {
        unreachable!("asked for only where there is a connection")
    }
}

/// A cache that may only be read is as good here.
fn note_revision(cache: &RepositoryCache, tree: &Tree, _: &Telling<'_>) {
    let _ = cache.set_commit(&tree.revision, &tree.commit);
}
