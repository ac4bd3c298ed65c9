//! What the Hub says of a repository: its commit at a revision, its files, its branches and tags.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::HubError;
use crate::http::{Asked, escaped};
use crate::hub::Hub;
use crate::progress::Telling;
use crate::reference::{Kind, Repository, is_commit};
use crate::tree::{ContentHash, RemoteFile, Tree};

#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
enum Entry {
    File {
        path: String,
        size: u64,
        oid: String,
        lfs: Option<Lfs>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "sha256")]
    oid: String,
    size: u64,
}

#[derive(Deserialize)]
struct Refs {
    #[serde(default)]
    branches: Vec<Ref>,
    #[serde(default)]
    tags: Vec<Ref>,
    #[serde(default)]
    converts: Vec<Ref>,
}

#[derive(Deserialize)]
struct Ref {
    name: String,
}

impl Hub {
    /// The files of a revision as the Hub has them now.
    pub(crate) fn live_tree(
        &self,
        repository: &Repository,
        revision: &str,
        telling: &Telling<'_>,
    ) -> Result<Tree, HubError> {
        let commit = self.commit(repository, revision, telling)?;
        let cache = self.cache(repository)?;
        if let Some(tree) = Tree::cached(&cache, repository, revision, &commit) {
            return Ok(tree);
        }
        let asked = Asked { repository, revision, what: "the list of its files" };
        let mut files = BTreeMap::new();
        let mut page = Some(format!("{}/tree/{commit}?recursive=true&expand=false", self.api(repository)));
        while let Some(url) = page {
            let (entries, next): (Vec<Entry>, _) = self.http.get(&asked, &url, telling)?;
            for entry in entries {
                if let Entry::File { path, size, oid, lfs } = entry {
                    let (path, file) = self.remote_file(path, size, oid, lfs)?;
                    files.insert(path, file);
                }
            }
            page = next;
        }
        let tree = Tree { repository: repository.clone(), revision: revision.to_owned(), commit, files, whole: true };
        tree.write(&cache)?;
        Ok(tree)
    }

    /// The commit that a revision means now.
    fn commit(&self, repository: &Repository, revision: &str, telling: &Telling<'_>) -> Result<String, HubError> {
        let asked = Asked { repository, revision, what: "its description" };
        let url = format!("{}/revision/{}", self.api(repository), escaped(revision));
        let answer = self.http.get::<Info>(&asked, &url, telling).map_err(|error| match error {
            // An endpoint that says no more than 404.
            HubError::NoFile { repository, .. } => HubError::NoRepository {
                repository,
                endpoint: self.http.endpoint.clone(),
                has_token: self.http.token.is_some(),
                other_kind: None,
                looked_at: Vec::new(),
            },
            error => error,
        });
        match answer {
            Ok((Info { sha: Some(commit) }, _)) if is_commit(&commit) => Ok(commit),
            Ok((Info { sha }, _)) => Err(HubError::BadAnswer {
                endpoint: self.http.endpoint.clone(),
                what: asked.what.to_owned(),
                found: format!("`sha` is {sha:?}, expected the hash of a commit"),
            }),
            Err(HubError::NoRevision { repository, revision, .. }) => {
                let available = self.revisions(&repository, telling);
                Err(HubError::NoRevision { repository, revision, available })
            }
            Err(HubError::NoRepository { repository, endpoint, has_token, looked_at, .. }) => {
                let other_kind = self.is_other_kind(&repository, telling);
                Err(HubError::NoRepository { repository, endpoint, has_token, other_kind, looked_at })
            }
            Err(error) => Err(error),
        }
    }

    /// Branches and tags, for a message: none where they cannot be listed.
    fn revisions(&self, repository: &Repository, telling: &Telling<'_>) -> Vec<String> {
        let asked = Asked { repository, revision: "", what: "its branches and tags" };
        let url = format!("{}/refs", self.api(repository));
        let Ok((refs, _)) = self.http.get::<Refs>(&asked, &url, telling) else { return Vec::new() };
        let converts = refs.converts.into_iter().map(|entry| format!("refs/convert/{}", entry.name));
        refs.branches.into_iter().chain(refs.tags).map(|entry| entry.name).chain(converts).collect()
    }

    /// The other kind, where there is one of that name.
    fn is_other_kind(&self, repository: &Repository, telling: &Telling<'_>) -> Option<Kind> {
        let kind = match repository.kind {
            Kind::Model => Kind::Dataset,
            Kind::Dataset => Kind::Model,
        };
        let other = Repository { kind, name: repository.name.clone() };
        let asked = Asked { repository: &other, revision: "main", what: "its description" };
        self.http.get::<Info>(&asked, &self.api(&other), telling).ok().map(|_| kind)
    }

    fn remote_file(
        &self,
        path: String,
        size: u64,
        oid: String,
        lfs: Option<Lfs>,
    ) -> Result<(String, RemoteFile), HubError> {
        let (size, hash, digits) = match lfs {
            Some(lfs) => (lfs.size, ContentHash::Sha256(lfs.oid), 64),
            None => (size, ContentHash::Git(oid), 40),
        };
        // Both become paths in the cache.
        let is_hash = hash.digits().len() == digits && hash.digits().bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash || !Tree::is_inside(&path) {
            return Err(HubError::BadAnswer {
                endpoint: self.http.endpoint.clone(),
                what: "the list of its files".to_owned(),
                found: format!("file `{path}` with hash `{}`", hash.digits()),
            });
        }
        Ok((path, RemoteFile { size, hash: Some(hash) }))
    }

    pub(crate) fn api(&self, repository: &Repository) -> String {
        format!("{}/api/{}/{}", self.http.endpoint, repository.kind.plural(), repository.name)
    }
}
