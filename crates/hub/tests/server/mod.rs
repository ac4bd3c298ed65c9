//! A Hub of its own for tests: enough of the HTTP API of huggingface.co that `huggingface_hub` works with it, and the
//! faults of networks on demand. Repositories are in memory; what is pushed stays there until the process ends.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test server that panics has failed")]

mod answers;
mod uploads;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use wire::accept;

/// A token that may see and write everything.
pub(crate) const TOKEN: &str = "hf_test";
/// A token of an account that was not let in anywhere.
pub(crate) const STRANGER: &str = "hf_stranger";

/// A server that runs until it is dropped.
pub(crate) struct Server {
    shared: Arc<Shared>,
    port: u16,
}

/// What the threads share.
pub(crate) struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    pub(crate) port: u16,
}

/// Repositories, faults, and what was asked for.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) repositories: BTreeMap<String, Repository>,
    /// Contents of large files, by SHA-256.
    pub(crate) objects: BTreeMap<String, Arc<Vec<u8>>>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<Seen>,
    /// Files of so many bytes are large, as are all safetensors.
    pub(crate) large: usize,
    /// Entries on a page of a listing.
    pub(crate) page: usize,
    /// Every body of a file ends after so many bytes.
    pub(crate) cut_every: Option<usize>,
    /// Bytes a second of a file's body.
    pub(crate) speed: Option<usize>,
    /// Bytes of a part of a large upload; whole files where absent.
    pub(crate) part: Option<usize>,
    pub(crate) parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
}

/// A repository, by `models/org/name` or `datasets/org/name`.
#[derive(Default, Clone)]
pub(crate) struct Repository {
    pub(crate) private: bool,
    pub(crate) gated: bool,
    /// Branches, tags and other refs.
    pub(crate) refs: BTreeMap<String, String>,
    pub(crate) commits: BTreeMap<String, BTreeMap<String, Arc<Vec<u8>>>>,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

/// Something that goes wrong a number of times, for paths that contain a text.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) times: usize,
    pub(crate) what: What,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// This status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The body stops for so long after so many bytes.
    Silent(usize, Duration),
    /// One byte of the body is another.
    Corrupt,
    /// Ranges are not known.
    NoRange,
    /// The connection ends before an answer.
    Hang,
}

impl Server {
    /// Starts on a free port.
    pub(crate) fn start() -> Self {
        Self::on(0)
    }

    /// Starts on this port.
    pub(crate) fn on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let port = listener.local_addr().unwrap().port();
        let state = State { large: 1 << 20, page: 1000, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), stop: AtomicBool::new(false), port });
        let (stop, serving) = (Arc::clone(&shared), Arc::clone(&shared));
        accept(listener, move || stop.stop.load(Ordering::Relaxed), move |stream| answers::serve(stream, &serving));
        Self { shared, port }
    }

    /// What `HF_ENDPOINT` is set to.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// A new commit on `main` of `models/org/name`, of these files alone; its hash.
    pub(crate) fn commit(&self, repository: &str, files: &[(&str, &[u8])]) -> String {
        self.commit_on(repository, "main", files)
    }

    /// The same on a branch, a tag or another ref.
    pub(crate) fn commit_on(&self, repository: &str, revision: &str, files: &[(&str, &[u8])]) -> String {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), Arc::new(bytes.to_vec()))).collect();
        self.state().commit(repository, revision, files)
    }

    /// Every folder `models/org/name` and `datasets/org/name` of `root`, as a commit each.
    pub(crate) fn load(&self, root: &Path) {
        for kind in ["models", "datasets"] {
            for org in folders(&root.join(kind)) {
                for folder in folders(&org) {
                    let mut files = BTreeMap::new();
                    read(&folder, &folder, &mut files);
                    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
                    self.state().commit(&format!("{kind}/{}/{}", name(&org), name(&folder)), "main", files);
                }
            }
        }
    }

    /// Something goes wrong, so many times.
    pub(crate) fn fault(&self, path: &str, times: usize, what: What) {
        self.state().faults.push(Fault { path: path.to_owned(), times, what });
    }

    /// The requests whose path contains a text, since they were last forgotten.
    pub(crate) fn requests(&self, path: &str) -> Vec<Seen> {
        self.state().requests.iter().filter(|seen| seen.path.contains(path)).cloned().collect()
    }

    pub(crate) fn forget_requests(&self) {
        self.state().requests.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// A commit of these files; the ref moves to it.
    pub(crate) fn commit(&mut self, name: &str, revision: &str, files: BTreeMap<String, Arc<Vec<u8>>>) -> String {
        let mut hash = Sha1::new();
        for (path, bytes) in &files {
            hash.update(format!("{name} {path} {}", git_hash(bytes)));
            if is_large(path, bytes, self.large) {
                self.objects.insert(sha256(bytes), Arc::clone(bytes));
            }
        }
        let commit = hex(&hash.finalize());
        let repository = self.repositories.entry(name.to_owned()).or_default();
        repository.commits.insert(commit.clone(), files);
        repository.refs.insert(revision.to_owned(), commit.clone());
        commit
    }
}

pub(crate) fn is_large(path: &str, bytes: &[u8], large: usize) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".parquet") || bytes.len() >= large
}

pub(crate) fn git_hash(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn folders(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn read(root: &Path, folder: &Path, files: &mut BTreeMap<String, Arc<Vec<u8>>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.insert(name, Arc::new(std::fs::read(&path).unwrap()));
        }
    }
}
