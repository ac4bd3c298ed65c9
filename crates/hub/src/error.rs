//! Why there are no files, for the person who asked for them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::reference::{Kind, Repository};

/// A reference that led to no files, or files that could not be sent.
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
        /// What was looked for.
        kind: Kind,
        /// Every path that was tried.
        looked_at: Vec<PathBuf>,
    },
    /// A revision that names no file of a cache.
    #[error("`{revision}` is no revision: expected a branch, a tag or a commit")]
    BadRevision {
        /// As it was given.
        revision: String,
    },
    /// Two revisions for one reference.
    #[error("two revisions are asked for, `{one}` and `{other}`")]
    TwoRevisions {
        /// In the reference.
        one: String,
        /// Beside it.
        other: String,
    },
    /// The cache has nothing of it, and there is no connection.
    #[error(
        "{repository} at revision `{revision}` is not in {}{}, and {why}",
        cache.as_ref().map_or_else(|| "a Hugging Face cache (none was found)".to_owned(), |cache| format!("the Hugging Face cache `{}`", cache.display())),
        beside(looked_at)
    )]
    NotCached {
        /// Which.
        repository: Repository,
        /// Asked for.
        revision: String,
        /// The cache that was looked into.
        cache: Option<PathBuf>,
        /// Local paths that were tried before.
        looked_at: Vec<PathBuf>,
        /// Why it is not fetched.
        why: NoConnection,
    },
    /// The cache has a part of it, and there is no connection.
    #[error("{repository}: the cache has no {} of commit {commit}, and {why}", names(missing))]
    Incomplete {
        /// Which.
        repository: Repository,
        /// The commit.
        commit: String,
        /// The files.
        missing: Vec<String>,
        /// Why they are not fetched.
        why: NoConnection,
    },
    /// There is no such repository, or it is private.
    #[error("there is no {repository} on {endpoint}{}{}", if *has_token { ", or your token may not see it" } else { ", or it is private" }, beside(looked_at))]
    NoRepository {
        /// Which.
        repository: Repository,
        /// The Hub that was asked.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
        /// What there is of that name, if it is of the other kind.
        other_kind: Option<Kind>,
        /// Local paths that were tried before.
        looked_at: Vec<PathBuf>,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no revision `{revision}`; it has {}", if available.is_empty() { "none that can be listed".to_owned() } else { names(available) })]
    NoRevision {
        /// Which.
        repository: Repository,
        /// Asked for.
        revision: String,
        /// Its branches and tags.
        available: Vec<String>,
    },
    /// The repository's files are given out after a licence was accepted.
    #[error("{repository} is gated: its files are given to accounts that its authors let in")]
    Gated {
        /// Which.
        repository: Repository,
        /// Where access is asked for.
        page: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The token was refused.
    #[error("{endpoint} refuses the token from {origin}: {message}")]
    Unauthorised {
        /// The Hub that was asked.
        endpoint: String,
        /// Where the token came from.
        origin: String,
        /// What the Hub says.
        message: String,
    },
    /// It needs a token, and there is none.
    #[error("{repository}: {endpoint} wants to know who asks ({message})")]
    NeedsToken {
        /// Which.
        repository: Repository,
        /// The Hub that was asked.
        endpoint: String,
        /// What the Hub says.
        message: String,
    },
    /// The account may not do it.
    #[error("{repository}: not allowed: {message}")]
    Forbidden {
        /// Which.
        repository: Repository,
        /// What the Hub says.
        message: String,
    },
    /// Too many requests, also after waiting.
    #[error("{endpoint} answers that there were too many requests{}", wait.map_or(String::new(), |wait| format!("; it asks to wait {} s", wait.as_secs())))]
    RateLimited {
        /// The Hub that was asked.
        endpoint: String,
        /// How long the Hub asks to wait.
        wait: Option<Duration>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// No answer.
    #[error("{endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// The Hub that was asked.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// An answer that is none of the above.
    #[error("{endpoint} answers {status} to {what}: {message}")]
    Server {
        /// The Hub that was asked.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What it says.
        message: String,
    },
    /// An answer that cannot be understood.
    #[error("{endpoint} answers something unexpected to {what}: {found}")]
    BadAnswer {
        /// The Hub that was asked.
        endpoint: String,
        /// What was asked for.
        what: String,
        /// What was found.
        found: String,
    },
    /// A transfer that broke too often.
    #[error("{repository}: `{file}` broke off at {done} of {size} bytes: {cause}")]
    Broken {
        /// Which.
        repository: Repository,
        /// The file.
        file: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes of the whole.
        size: u64,
        /// Why.
        cause: String,
    },
    /// What arrived is not what the repository says it has.
    #[error("{repository}: `{file}` arrived damaged twice: its hash is {found}, expected {expected}")]
    Damaged {
        /// Which.
        repository: Repository,
        /// The file.
        file: String,
        /// The repository's hash.
        expected: String,
        /// The hash of what arrived.
        found: String,
    },
    /// The disk has no room.
    #[error("{} has {} MB free and {} MB are to be fetched", folder.display(), available / 1_000_000, needed.div_ceil(1_000_000))]
    NoSpace {
        /// The cache.
        folder: PathBuf,
        /// Bytes to fetch.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The repository has no weights that are read.
    #[error("{repository} has no safetensors weights; it has {}", names(found))]
    NoWeights {
        /// Which.
        repository: Repository,
        /// The weights in other formats, or the first files.
        found: Vec<String>,
    },
    /// A file that the repository does not have.
    #[error("{repository} has no {} at revision `{revision}`", names(missing))]
    NoFile {
        /// Which.
        repository: Repository,
        /// Asked for.
        revision: String,
        /// The files or patterns.
        missing: Vec<String>,
    },
    /// There is no place for downloads.
    #[error("there is no folder for downloads: neither HF_HUB_CACHE, HF_HOME nor a home folder is set")]
    NoCache,
    /// A setting that cannot be used.
    #[error("{what} is {value}; {expected}")]
    Setting {
        /// Which.
        what: &'static str,
        /// As it is.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// A file or folder.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why nothing is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoConnection {
    /// The person wants none.
    Offline,
    /// The program was built without.
    NotBuilt,
}

impl std::fmt::Display for NoConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Offline => "HF_HUB_OFFLINE is set",
            Self::NotBuilt => "this rankine was built without the feature `hub`",
        })
    }
}

impl HubError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// Whether the cache may answer instead: nothing is wrong with what was asked for.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::RateLimited { .. } | Self::Broken { .. } => true,
            Self::Server { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether the person's input is right and only the surroundings are not: a connection, a disk.
    pub fn is_outside(&self) -> bool {
        self.is_outage()
            || matches!(self, Self::BadAnswer { .. } | Self::Damaged { .. } | Self::NoSpace { .. } | Self::Io { .. })
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        let token =
            "create one at https://huggingface.co/settings/tokens, then `export HF_TOKEN=...`, or run `hf auth login`";
        match self {
            Self::NotAFolder { .. } => "give the folder that holds config.json, tokenizer.json and the safetensors files, or a .gguf file".to_owned(),
            Self::NotFound { kind: Kind::Model, .. } => {
                "give the folder that holds config.json, tokenizer.json and the safetensors files, or a name on the Hub (`org/name`)".to_owned()
            }
            Self::NotFound { kind: Kind::Dataset, .. } => "give a file, a folder, a pattern, or a name on the Hub (`org/name`)".to_owned(),
            Self::BadRevision { .. } => "leave `revision` out for the newest commit".to_owned(),
            Self::TwoRevisions { .. } => "leave one of the two out".to_owned(),
            Self::NotCached { repository, revision, why, .. } => match why {
                NoConnection::Offline => format!("fetch it once with a connection: `HF_HUB_OFFLINE=0 rankine pull {}`", pull(repository, revision)),
                NoConnection::NotBuilt => format!("fetch it once with `hf download {}{}`, or build rankine with its default features", type_flag(repository.kind), repository.name),
            },
            Self::Incomplete { repository, commit, why, .. } => match why {
                NoConnection::Offline => format!("fetch the rest once with a connection: `HF_HUB_OFFLINE=0 rankine pull {}`", pull(repository, commit)),
                NoConnection::NotBuilt => format!("fetch the rest once with `hf download {}{} --revision {commit}`", type_flag(repository.kind), repository.name),
            },
            Self::NoRepository { repository, other_kind: Some(kind), .. } => {
                format!("there is a {} of that name: `{}` belongs where a {} is named", kind.word(), repository.name, kind.word())
            }
            Self::NoRepository { has_token: true, .. } => "look for a misspelling; a private repository needs a token of an account that may read it".to_owned(),
            Self::NoRepository { has_token: false, .. } => format!("look for a misspelling; a private repository needs a token: {token}"),
            Self::NoRevision { available, .. } => match available.first() {
                Some(first) => format!("give one of these, for example `{first}`, or leave the revision out for `main`"),
                None => "leave the revision out for `main`".to_owned(),
            },
            Self::Gated { page, has_token: true, .. } => format!("accept the licence at {page} with the account of your token; a fine-grained token also needs read access to gated repositories"),
            Self::Gated { page, has_token: false, .. } => format!("accept the licence at {page}, then set a token of that account: {token}"),
            Self::Unauthorised { .. } => format!("it may have expired: {token}; public repositories need none"),
            Self::NeedsToken { .. } => format!("set a token: {token}"),
            Self::Forbidden { .. } => "use a token whose account and permissions allow it (https://huggingface.co/settings/tokens)".to_owned(),
            Self::RateLimited { has_token: false, .. } => format!("wait a few minutes, or set a token, which allows more requests: {token}"),
            Self::RateLimited { has_token: true, .. } => "wait a few minutes and run the same command again; what is there already is kept".to_owned(),
            Self::Unreachable { .. } => "check the connection, HF_ENDPOINT and HTTPS_PROXY; `HF_HUB_OFFLINE=1` works from the cache alone".to_owned(),
            Self::Server { .. } | Self::BadAnswer { .. } => "try again later; if HF_ENDPOINT is set, check that it is a Hub".to_owned(),
            Self::Broken { .. } => "run the same command again: it goes on where this one ended".to_owned(),
            Self::Damaged { .. } => "run the same command again; if it stays so, something between here and the Hub changes files".to_owned(),
            Self::NoSpace { .. } => "make room, or set HF_HUB_CACHE to a folder on a larger disk; `rankine cache` lists what is there".to_owned(),
            Self::NoWeights { repository, found } if found.iter().any(|name| name.ends_with(".gguf")) => {
                format!("choose one file and give its path: `rankine pull {} --include '{}'`", repository.name, found[0])
            }
            Self::NoWeights { .. } => "pickle files can run code when they are read, so rankine never does; look for a conversion to safetensors among the repository's revisions (`@refs/pr/N`)".to_owned(),
            Self::NoFile { .. } => "look at the repository's page for its files".to_owned(),
            Self::NoCache => "set HF_HOME to a folder".to_owned(),
            Self::Setting { .. } => "correct it or unset it".to_owned(),
            Self::Io { .. } => "check that the folder may be written, or set HF_HUB_CACHE to another one".to_owned(),
        }
    }
}

fn pull(repository: &Repository, revision: &str) -> String {
    let at = if revision == crate::DEFAULT_REVISION { String::new() } else { format!("@{revision}") };
    format!("{}{}{at}", repository.kind.prefix(), repository.name)
}

fn type_flag(kind: Kind) -> &'static str {
    match kind {
        Kind::Model => "",
        Kind::Dataset => "--repo-type dataset ",
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" and ")
}

fn beside(looked_at: &[PathBuf]) -> String {
    if looked_at.is_empty() { String::new() } else { format!(" (and there is no folder {})", listed(looked_at)) }
}

/// The first few names.
fn names(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
