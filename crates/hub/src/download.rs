//! Files of a commit come into the cache: several at a time, each begun where an earlier try ended, and given its name
//! only when its hash is right.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha1::{Digest, Sha1};
use sha2::Sha256;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::cache::RepositoryCache;
use crate::error::HubError;
use crate::http::{Asked, Trouble, escaped};
use crate::hub::Hub;
use crate::progress::{Event, Telling};
use crate::tree::{ContentHash, RemoteFile, Tree};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 18;
/// Bytes that stay free on the disk.
const SPARE: u64 = 64 << 20;
/// Tries of a file that arrives damaged.
const TRIES_DAMAGED: u32 = 2;

/// A file that is to be fetched.
struct Wanted<'a> {
    tree: &'a Tree,
    path: &'a str,
    file: &'a RemoteFile,
    hash: &'a ContentHash,
}

impl Hub {
    /// Fetches these files of a commit.
    pub(crate) fn download(
        &self,
        cache: &RepositoryCache,
        tree: &Tree,
        paths: &[String],
        telling: &Telling<'_>,
    ) -> Result<(), HubError> {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for path in paths {
            if let Some((path, file)) = tree.files.get_key_value(path)
                && let Some(hash) = &file.hash
            {
                wanted.push(Wanted { tree, path, file, hash });
            }
        }
        let there = |wanted: &Wanted<'_>| {
            let kept = fs::metadata(cache.incomplete(wanted.hash.digits())).map_or(0, |about| about.len());
            if cache.blob(wanted.hash.digits()).is_file() { wanted.file.size } else { kept.min(wanted.file.size) }
        };
        let left: u64 = wanted.iter().map(|wanted| wanted.file.size - there(wanted)).sum();
        let blobs = cache.blob("");
        fs::create_dir_all(&blobs).map_err(HubError::io(&blobs, "create"))?;
        check_space(&blobs, left)?;
        telling(Event::Begin { files: wanted.len(), bytes: wanted.iter().map(|wanted| wanted.file.size).sum() });
        // The largest first, so that none is left alone at the end.
        wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.file.size));
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.http.patience.workers.clamp(1, wanted.len().max(1)) {
                scope.spawn(|| {
                    while let Some(wanted) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(error) = self.fetch_file(cache, wanted, telling, &stop) {
                            stop.store(true, Ordering::Relaxed);
                            // The first one: the others may be of its making.
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        telling(Event::End);
        match failure.into_inner().unwrap_or_default() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// One file, under its lock: Python and other runs keep away meanwhile.
    fn fetch_file(
        &self,
        cache: &RepositoryCache,
        wanted: &Wanted<'_>,
        telling: &Telling<'_>,
        stop: &AtomicBool,
    ) -> Result<(), HubError> {
        let hash = wanted.hash.digits();
        let blob = cache.blob(hash);
        let _lock = lock(&cache.lock(hash), wanted.path, telling)?;
        if blob.is_file() {
            telling(Event::Bytes { count: wanted.file.size, kept: true });
        } else {
            let part = cache.incomplete(hash);
            let mut damaged = 0;
            loop {
                let mut partial = Partial::open(&part, wanted, telling)?;
                self.http.patiently(telling, || {
                    if stop.load(Ordering::Relaxed) {
                        let error = wanted.broken(partial.length, "another file failed".to_owned());
                        return Err(error.into());
                    }
                    self.receive(&mut partial, wanted, telling)
                })?;
                let found = partial.finish(&part)?;
                if found == hash {
                    break;
                }
                fs::remove_file(&part).map_err(HubError::io(&part, "remove"))?;
                damaged += 1;
                if damaged == TRIES_DAMAGED {
                    return Err(HubError::Damaged {
                        repository: wanted.tree.repository.clone(),
                        file: wanted.path.to_owned(),
                        expected: hash.to_owned(),
                        found,
                    });
                }
                telling(Event::Again(wanted.file.size));
            }
            fs::rename(&part, &blob).map_err(HubError::io(&blob, "rename into place"))?;
        }
        cache.link(&wanted.tree.commit, wanted.path, hash)
    }

    /// One request: everything that is missing, or as much of it as arrives.
    fn receive(&self, partial: &mut Partial, wanted: &Wanted<'_>, telling: &Telling<'_>) -> Result<(), Trouble> {
        let size = wanted.file.size;
        if partial.length == size && size > 0 {
            return Ok(());
        }
        let repository = &wanted.tree.repository;
        let path: Vec<String> = wanted.path.split('/').map(escaped).collect();
        let url = format!(
            "{}/{}{}/resolve/{}/{}",
            self.http.endpoint,
            repository.kind.prefix(),
            repository.name,
            wanted.tree.commit,
            path.join("/")
        );
        let mut request = self.http.signed(self.http.agent.get(&url), &url).header("accept-encoding", "identity");
        if partial.length > 0 {
            request = request.header("range", format!("bytes={}-", partial.length));
        }
        let response = request.call();
        let status = response.as_ref().map(Response::status).ok();
        if status == Some(StatusCode::RANGE_NOT_SATISFIABLE) {
            partial.begin_anew(telling)?;
            let error = wanted.broken(0, "the server has no such range".to_owned());
            return Err(Trouble::Passing { error: Box::new(error), wait: None, progress: false });
        }
        let asked = Asked { repository, revision: &wanted.tree.revision, what: wanted.path };
        let response = self.http.accepted(&asked, response)?;
        // A server that does not know ranges sends all of it again; so is one that sends another part of it.
        if partial.length > 0 && !(status == Some(StatusCode::PARTIAL_CONTENT) && starts_at(&response, partial.length))
        {
            if status == Some(StatusCode::PARTIAL_CONTENT) {
                let error = wanted.broken(partial.length, "the server sent another part of it".to_owned());
                partial.begin_anew(telling)?;
                return Err(Trouble::Passing { error: Box::new(error), wait: None, progress: false });
            }
            partial.begin_anew(telling)?;
        }
        let begun = partial.length;
        let cause = partial.append(&mut response.into_body().into_reader(), size, telling)?;
        if partial.length == size {
            return Ok(());
        }
        let error = wanted.broken(partial.length, cause);
        Err(Trouble::Passing { error: Box::new(error), wait: None, progress: partial.length > begun })
    }
}

impl Wanted<'_> {
    fn broken(&self, done: u64, cause: String) -> HubError {
        HubError::Broken {
            repository: self.tree.repository.clone(),
            file: self.path.to_owned(),
            done,
            size: self.file.size,
            cause,
        }
    }
}

/// A file on its way, hashed as it comes.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
    fresh: Hasher,
}

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn new(hash: &ContentHash, size: u64) -> Self {
        match hash {
            ContentHash::Sha256(_) => Self::Sha256(Sha256::new()),
            ContentHash::Git(_) => Self::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    fn digits(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

impl Partial {
    /// What an earlier try left, hashed; nothing where it left more than there is.
    fn open(path: &Path, wanted: &Wanted<'_>, telling: &Telling<'_>) -> Result<Self, HubError> {
        let io = |action| HubError::io(path, action);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io("open"))?;
        let fresh = Hasher::new(wanted.hash, wanted.file.size);
        let mut hasher = fresh.clone();
        let mut length = file.metadata().map_err(io("read"))?.len();
        if length > wanted.file.size {
            file.set_len(0).map_err(io("write"))?;
            length = 0;
        }
        let mut piece = vec![0; PIECE];
        let mut left = length;
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = file.read(&mut piece[..most]).map_err(io("read"))?;
            if count == 0 {
                break;
            }
            hasher.update(&piece[..count]);
            left -= count as u64;
        }
        if length > 0 {
            telling(Event::Bytes { count: length, kept: true });
        }
        Ok(Self { path: path.to_owned(), file, length, hasher, fresh })
    }

    fn begin_anew(&mut self, telling: &Telling<'_>) -> Result<(), HubError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(HubError::io(&self.path, "write"))?;
        telling(Event::Again(self.length));
        self.length = 0;
        self.hasher = self.fresh.clone();
        Ok(())
    }

    /// Appends what comes, up to `size` bytes in all; why it ended.
    fn append(&mut self, body: &mut impl Read, size: u64, telling: &Telling<'_>) -> Result<String, HubError> {
        let mut piece = vec![0; PIECE];
        while self.length < size {
            let most = piece.len().min(usize::try_from(size - self.length).unwrap_or(usize::MAX));
            let count = match body.read(&mut piece[..most]) {
                Ok(0) => return Ok("the connection was closed".to_owned()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(error.to_string()),
            };
            self.file.write_all(&piece[..count]).map_err(HubError::io(&self.path, "write"))?;
            self.hasher.update(&piece[..count]);
            self.length += count as u64;
            telling(Event::Bytes { count: count as u64, kept: false });
        }
        Ok(String::new())
    }

    /// Its hash, once it is on the disk.
    fn finish(self, path: &Path) -> Result<String, HubError> {
        self.file.sync_all().map_err(HubError::io(path, "write"))?;
        Ok(self.hasher.digits())
    }
}

/// Whether a part of a file is the one that was asked for: `Content-Range: bytes 5-9/10`.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok());
    // Some servers leave it out.
    first.is_none_or(|first: u64| first == start)
}

/// Waits for the lock of a file, which other programs take for as long as they fetch it.
fn lock(path: &Path, file: &str, telling: &Telling<'_>) -> Result<File, HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io(parent, "create"))?;
    let lock =
        OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(HubError::io(path, "open"))?;
    let waited = match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            telling(Event::Locked { file });
            lock.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    };
    match waited {
        // A file system without locks: the hash still decides what becomes a file.
        Err(error) if error.kind() != ErrorKind::Unsupported => Err(HubError::io(path, "lock")(error)),
        _ => Ok(lock),
    }
}

/// Refuses a download that the disk has no room for.
fn check_space(folder: &Path, needed: u64) -> Result<(), HubError> {
    match fs4::available_space(folder) {
        Ok(available) if needed > 0 && available < needed.saturating_add(SPARE) => {
            Err(HubError::NoSpace { folder: folder.to_owned(), needed, available })
        }
        Ok(_) => Ok(()),
        // A file system that does not say is tried.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(error) => Err(HubError::io(folder, "read")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_refused_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), 1).unwrap();
        let error = check_space(dir.path(), 1 << 62).unwrap_err();
        assert!(matches!(error, HubError::NoSpace { needed, .. } if needed == 1 << 62), "{error}");
        assert!(error.help().contains("HF_HUB_CACHE"));
    }

    #[test]
    fn hashes_are_those_of_git_and_of_lfs() {
        let of = |hash: ContentHash, text: &str| {
            let mut hasher = Hasher::new(&hash, text.len() as u64);
            hasher.update(text.as_bytes());
            hasher.digits()
        };
        // `printf hello | git hash-object --stdin` and `printf hello | sha256sum`.
        assert_eq!(of(ContentHash::Git(String::new()), "hello"), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
        assert_eq!(
            of(ContentHash::Sha256(String::new()), "hello"),
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
    }
}
