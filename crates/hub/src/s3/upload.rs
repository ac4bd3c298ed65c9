//! The upload itself: what is there, what is sent, and whether it arrived.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use object_store::MultipartId;
use object_store::multipart::PartId;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use super::address::S3Address;
use super::local::{LocalFile, hex};
use super::marker::{MARKER, Marker, State};
use super::store::{Listed, Store};
use crate::aws::{Aws, AwsError, runtime};
use crate::progress::{Event, Telling};

/// Bytes of a part. S3 wants 5 MiB at least; each part that is under way is in memory.
pub const PART_SIZE: u64 = 16 << 20;
/// How often the display is told.
const TICK: Duration = Duration::from_millis(20);

/// What is sent where.
#[derive(Debug, Clone, Copy)]
pub struct S3Upload<'a> {
    /// Where the files are.
    pub folder: &'a Path,
    /// Their names in it, `/` between folders.
    pub files: &'a [String],
    /// Where they go.
    pub to: &'a S3Address,
    /// What becomes of other objects of the same names.
    pub existing: Existing,
    /// Bytes of a part: [`PART_SIZE`].
    pub part_size: u64,
}

/// What becomes of other objects of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They stay, and nothing is sent.
    Refuse,
    /// They are written over.
    Replace,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Uploaded {
    /// Files that are there now.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already, the same.
    pub kept: usize,
    /// Other objects directly in the folder, which do not belong to the upload; they were left alone.
    pub others: Vec<String>,
    /// Files that were read back whole, because S3's own hash of them is none that can be computed here.
    pub read_back: Vec<String>,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadState {
    /// It ended, and all that it sent is there.
    Whole {
        /// Files.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// Nothing here says so: other tools wrote it.
    Unmarked,
}

impl Aws {
    /// Sends files, compares what arrived, and says at the end that all is there. Files that are there already are
    /// not sent again, so that the same call goes on where another ended.
    ///
    /// # Errors
    /// Files that cannot be read, other objects of the same names, every refusal of S3, a connection that stays away.
    pub fn upload(&self, upload: &S3Upload<'_>, telling: &Telling<'_>) -> Result<S3Uploaded, AwsError> {
        let runtime = runtime()?;
        let store = Store::new(self, upload.to, self.credentials(&runtime)?)?;
        let workers = self.config.patience.workers.max(1);
        // What is there is asked first: it costs one request, and who may not ask need not read gigabytes.
        let listed = store.list(&runtime)?;
        let files = local_files(upload, workers)?;
        let marker = match listed.get(MARKER) {
            Some(object) if object.size > 0 => Marker::parse(&store.get(&runtime, MARKER, 0..object.size)?),
            _ => None,
        };
        let mut missing = Vec::new();
        let mut different = Vec::new();
        for file in &files {
            let Some(object) = listed.get(&file.name) else {
                missing.push(file);
                continue;
            };
            if is_same(&store, &runtime, file, object)? {
                continue;
            }
            // What a try that did not end has sent is ours to replace.
            let leftover = marker.as_ref().is_some_and(|marker| {
                let sent = marker.files.get(&file.name);
                marker.state == State::Sending && sent.is_some_and(|sent| sent.etag == object.etag)
            });
            if upload.existing == Existing::Refuse && !leftover {
                different.push(file.name.clone());
            }
            missing.push(file);
        }
        if !different.is_empty() {
            return Err(AwsError::Different { address: upload.to.to_string(), files: different });
        }
        let whole = Marker::new(State::Whole, &files);
        let others =
            listed.keys().filter(|name| !name.contains('/') && *name != MARKER && !whole.files.contains_key(*name));
        let mut uploaded = S3Uploaded {
            files: files.len(),
            bytes: files.iter().map(|file| file.content.size).sum(),
            kept: files.len() - missing.len(),
            others: others.cloned().collect(),
            read_back: Vec::new(),
        };
        if missing.is_empty() && marker.as_ref() == Some(&whole) {
            return Ok(uploaded);
        }
        store.put(&runtime, MARKER, Marker::new(State::Sending, &files).bytes())?;
        store.told();
        telling(Event::Begin { files: files.len(), bytes: uploaded.bytes });
        let kept = uploaded.bytes - missing.iter().map(|file| file.content.size).sum::<u64>();
        if kept > 0 {
            telling(Event::Bytes { count: kept, kept: true });
        }
        send(&store, &runtime, &missing, workers, telling)?;
        let arrived = store.list(&runtime)?;
        for file in &missing {
            if compare(&store, &runtime, file, arrived.get(&file.name))? == Compared::ByContent {
                uploaded.read_back.push(file.name.clone());
            }
        }
        store.put(&runtime, MARKER, whole.bytes())?;
        telling(Event::End);
        Ok(uploaded)
    }

    /// Asks whether the bucket is there and may be seen, before something large is made for it.
    ///
    /// # Errors
    /// Every refusal of S3.
    pub fn can_list(&self, at: &S3Address) -> Result<(), AwsError> {
        let runtime = runtime()?;
        Store::new(self, at, self.credentials(&runtime)?)?.list(&runtime).map(drop)
    }

    /// Whether a folder of a bucket holds a whole upload.
    ///
    /// # Errors
    /// One that was not finished, and every refusal of S3.
    pub fn upload_state(&self, at: &S3Address) -> Result<UploadState, AwsError> {
        let runtime = runtime()?;
        let store = Store::new(self, at, self.credentials(&runtime)?)?;
        let listed = store.list(&runtime)?;
        let unfinished = |missing| AwsError::Unfinished { address: at.to_string(), missing };
        if listed.is_empty() {
            return Err(unfinished(vec!["there is nothing".to_owned()]));
        }
        let Some(object) = listed.get(MARKER).filter(|object| object.size > 0) else {
            return Ok(UploadState::Unmarked);
        };
        let Some(marker) = Marker::parse(&store.get(&runtime, MARKER, 0..object.size)?) else {
            return Ok(UploadState::Unmarked);
        };
        let here = |name: &String, size: u64| listed.get(name).is_some_and(|object| object.size == size);
        let missing: Vec<String> = marker
            .files
            .iter()
            .filter(|(name, content)| !here(name, content.size))
            .map(|(name, _)| name.clone())
            .collect();
        match (marker.state, missing.is_empty()) {
            (State::Whole, true) => {
                let bytes = marker.files.values().map(|content| content.size).sum();
                Ok(UploadState::Whole { files: marker.files.len(), bytes })
            }
            (State::Sending, true) => Err(unfinished(vec!["the files were not compared".to_owned()])),
            (_, false) => Err(unfinished(missing.into_iter().map(|name| format!("`{name}` is missing")).collect())),
        }
    }
}

/// Reads and hashes every file; all that cannot be read are told by the first.
fn local_files(upload: &S3Upload<'_>, workers: usize) -> Result<Vec<LocalFile>, AwsError> {
    let read = Mutex::new(Vec::new());
    in_parallel(
        workers,
        upload.files,
        || {},
        |_, name| {
            let file = LocalFile::read(upload.folder, name, upload.part_size.max(1))?;
            read.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            Ok(())
        },
    )?;
    let mut files = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// A file whose parts are under way.
struct Sending<'a> {
    file: &'a LocalFile,
    id: Option<MultipartId>,
    parts: Mutex<BTreeMap<u64, PartId>>,
}

fn send(
    store: &Store,
    runtime: &Runtime,
    files: &[&LocalFile],
    workers: usize,
    telling: &Telling<'_>,
) -> Result<(), AwsError> {
    let mut sending: Vec<Sending<'_>> = Vec::new();
    let mut begun = Ok(());
    for file in files {
        let id = match (file.parts() > 1).then(|| store.begin(runtime, &file.name)).transpose() {
            Ok(id) => id,
            Err(error) => {
                begun = Err(error);
                break;
            }
        };
        sending.push(Sending { file, id, parts: Mutex::default() });
    }
    let jobs: Vec<(&Sending<'_>, u64)> =
        sending.iter().flat_map(|file| (0..file.file.parts()).map(move |number| (file, number))).collect();
    let sent = begun.and_then(|()| {
        in_parallel(
            workers,
            &jobs,
            || tell(store, telling),
            |runtime, (file, number)| send_part(store, runtime, file, *number),
        )
    });
    tell(store, telling);
    if sent.is_err() {
        for file in &sending {
            let done = file.parts.lock().unwrap_or_else(PoisonError::into_inner).len() as u64 == file.file.parts();
            if let Some(id) = file.id.as_ref().filter(|_| !done) {
                store.abort(runtime, &file.file.name, id);
            }
        }
    }
    sent
}

/// Whoever sends a file's last part makes it an object.
fn send_part(store: &Store, runtime: &Runtime, sending: &Sending<'_>, number: u64) -> Result<(), AwsError> {
    let file = sending.file;
    let bytes = file.part(number)?;
    let Some(id) = &sending.id else { return store.put(runtime, &file.name, bytes) };
    let part = store.put_part(runtime, &file.name, id, number, bytes)?;
    let parts = {
        let mut parts = sending.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(number, part);
        if (parts.len() as u64) < file.parts() {
            return Ok(());
        }
        parts.values().cloned().collect()
    };
    store.complete(runtime, &file.name, id, parts)
}

fn tell(store: &Store, telling: &Telling<'_>) {
    let told = store.told();
    if told.sent > 0 {
        telling(Event::Bytes { count: told.sent, kept: false });
    }
    if told.again > 0 {
        telling(Event::Again(told.again));
    }
    for reason in &told.troubles {
        telling(Event::Retrying { reason });
    }
}

/// What a comparison rests on.
#[derive(Debug, PartialEq, Eq)]
enum Compared {
    ByHash,
    ByContent,
}

/// Whether an object is what was sent.
fn compare(store: &Store, runtime: &Runtime, file: &LocalFile, object: Option<&Listed>) -> Result<Compared, AwsError> {
    let damaged =
        |found: String, expected: String| AwsError::Damaged { address: store.place(&file.name), found, expected };
    let Some(object) = object else { return Err(damaged("it is not there".to_owned(), "an object".to_owned())) };
    if object.size != file.content.size {
        return Err(damaged(format!("{} bytes", object.size), format!("{} bytes", file.content.size)));
    }
    if object.etag == file.content.etag {
        return Ok(Compared::ByHash);
    }
    let found = content_hash(store, runtime, file, object)?;
    if found != file.content.sha256 {
        return Err(damaged(format!("SHA-256 {found}"), file.content.sha256.clone()));
    }
    Ok(Compared::ByContent)
}

fn is_same(store: &Store, runtime: &Runtime, file: &LocalFile, object: &Listed) -> Result<bool, AwsError> {
    if object.size != file.content.size {
        return Ok(false);
    }
    // Other tools cut other parts, and a key of KMS hides the hash: then the bytes themselves are asked for.
    Ok(object.etag == file.content.etag || content_hash(store, runtime, file, object)? == file.content.sha256)
}

/// The SHA-256 of what the bucket has.
fn content_hash(store: &Store, runtime: &Runtime, file: &LocalFile, object: &Listed) -> Result<String, AwsError> {
    let mut hash = Sha256::new();
    let mut done = 0;
    while done < object.size {
        let end = (done + file.part_size).min(object.size);
        hash.update(store.get(runtime, &file.name, done..end)?);
        done = end;
    }
    Ok(hex(&hash.finalize()))
}

/// Work on each item in one of several threads. The first that fails stops the others at their next item.
fn in_parallel<T: Sync>(
    workers: usize,
    items: &[T],
    tick: impl Fn(),
    work: impl Fn(&Runtime, &T) -> Result<(), AwsError> + Sync,
) -> Result<(), AwsError> {
    let (next, stopped, failed) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..workers.min(items.len()) {
            threads.push(scope.spawn(|| {
                let worked = runtime().and_then(|runtime| {
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if stopped.load(Ordering::Relaxed) {
                            break;
                        }
                        work(&runtime, item)?;
                    }
                    Ok(())
                });
                if let Err(error) = worked {
                    stopped.store(true, Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }));
        }
        while threads.iter().any(|thread| !thread.is_finished()) {
            tick();
            std::thread::sleep(TICK);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
