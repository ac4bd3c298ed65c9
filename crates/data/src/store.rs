//! Tokenised examples on disk, made and read without ever being in memory together.
//!
//! One file for each key, and the key is a hash of everything that decides the tokens: the bytes of the data
//! files, which of their records are read, the tokenizer with its template and the settings. So a file is never
//! out of date. It is written under another name and renamed when it is whole, so a pass that was killed leaves
//! nothing but a part that the next one begins anew; and it carries its own hash, so damage is noticed.
//!
//! ```text
//! magic, key | examples: 5 numbers, ids, one bit a token for what is trained | report, files, index | hash, place of the report
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::dataset::RecordType;
use crate::error::DataError;
use crate::example::{Example, Gathering, IGNORED, TokenizeConfig, TokenizeReport, check_template};
use crate::record::RecordSource;
use crate::records::Records;
use crate::tokenizer::{TextTokenizer, hex};

/// Goes up whenever the same input gives other tokens or the file another form.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"rknstore";
const HEAD: u64 = 8 + 32;
/// Hash and the place of the report.
const TAIL: u64 = 32 + 8;
/// file, line, dataset, completion start, length
const NUMBERS: usize = 5 * 8;

/// Examples of a file; in memory there are 16 bytes for each.
#[derive(Debug)]
pub struct StoredExamples {
    path: PathBuf,
    file: Mutex<File>,
    files: Vec<Arc<str>>,
    index: Vec<Place>,
    report: TokenizeReport,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    length: u32,
    dataset: u32,
}

/// Tokenises datasets into a file of `cache_dir`, or finds the file there; says whether it was there. Of the
/// records no more than a few thousand are in memory at a time.
///
/// # Errors
/// A file that cannot be read, every record that cannot be used, by file and line, nothing left to train on, or a
/// cache folder that cannot be written.
pub fn tokenize_stored(
    cache_dir: &Path,
    datasets: &[Records],
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(StoredExamples, bool), DataError> {
    let key = key(datasets, tokenizer, config)?;
    let path = cache_dir.join(format!("{}.examples", hex(&key[..16])));
    if let Some(stored) = StoredExamples::open(&path, &key) {
        progress(stored.report.records, stored.report.records);
        return Ok((stored, true));
    }
    if datasets.iter().any(|records| is_rendered(records.record_type())) {
        check_template(tokenizer)?;
    }
    let mut total = 0;
    for records in datasets {
        total += records.estimate()?;
    }
    let mut writer = Writer::create(cache_dir, &path, &key)?;
    let mut gathering = Gathering::new(*config);
    let mut done = 0;
    for (dataset, records) in (0u32..).zip(datasets) {
        let mut reader = records.read();
        while let Some(batch) = reader.next_batch(usize::MAX)? {
            done += batch.len();
            for example in gathering.add_batch(batch, dataset, tokenizer) {
                writer.example(&example)?;
            }
            progress(done, total.max(done));
        }
    }
    let report = gathering.finish()?;
    progress(done, done);
    writer.finish(&report)?;
    let stored = StoredExamples::open(&path, &key).ok_or_else(|| DataError::Io {
        path,
        action: "read the token cache",
        source: std::io::Error::other("it is not what was written"),
    })?;
    Ok((stored, false))
}

/// Whether records of this type may be rendered by the chat template.
pub(crate) fn is_rendered(record_type: RecordType) -> bool {
    !matches!(record_type, RecordType::Text | RecordType::PromptCompletion)
}

fn key(datasets: &[Records], tokenizer: &TextTokenizer, config: &TokenizeConfig) -> Result<[u8; 32], DataError> {
    let mut hash = Sha256::new();
    hash.update(VERSION.to_le_bytes());
    hash.update(tokenizer.fingerprint());
    hash.update(format!("{config:?}"));
    for records in datasets {
        let description = records.description();
        hash.update((description.len() as u64).to_le_bytes());
        hash.update(description);
        for path in records.files() {
            hash.update(hash_of(&path)?);
        }
    }
    // Templates that print the day give other tokens on another one.
    for template in [tokenizer.chat_template(), tokenizer.tool_template()].into_iter().flatten() {
        hash.update(template.time().to_le_bytes());
    }
    Ok(hash.finalize().into())
}

fn hash_of(path: &Path) -> Result<[u8; 32], DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), action: "read", source };
    hashed(&mut File::open(path).map_err(io)?, u64::MAX).map_err(io)
}

/// The hash of the next `length` bytes.
fn hashed(file: &mut File, length: u64) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut file = file.take(length);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

impl StoredExamples {
    /// What tokenising found.
    pub fn report(&self) -> &TokenizeReport {
        &self.report
    }

    /// Examples.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Tokens of an example.
    pub fn tokens_of(&self, index: usize) -> usize {
        self.index.get(index).map_or(0, |place| place.length as usize)
    }

    /// The dataset of an example.
    pub fn dataset_of(&self, index: usize) -> u32 {
        self.index.get(index).map_or(0, |place| place.dataset)
    }

    /// An example, read.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn get(&self, index: usize) -> Result<Example, DataError> {
        let lost = |source| DataError::Io { path: self.path.clone(), action: "read the token cache", source };
        let gone = || lost(std::io::Error::other("it has changed while it was used"));
        let place = self.index.get(index).ok_or_else(gone)?;
        let length = place.length as usize;
        let mut bytes = vec![0; NUMBERS + length * 4 + length.div_ceil(8)];
        {
            let mut file = self.file.lock().map_err(|_| gone())?;
            file.seek(SeekFrom::Start(place.at)).map_err(lost)?;
            file.read_exact(&mut bytes).map_err(lost)?;
        }
        self.example(&bytes, length).ok_or_else(gone)
    }

    fn example(&self, bytes: &[u8], length: usize) -> Option<Example> {
        let mut bytes = Bytes(bytes);
        let file = Arc::clone(self.files.get(bytes.number()?)?);
        let line = bytes.number()?;
        let dataset = u32::try_from(bytes.number()?).ok()?;
        let completion_start = bytes.number()?.checked_sub(1);
        if bytes.number()? != length {
            return None;
        }
        let (ids, _) = bytes.take(length * 4)?.as_chunks::<4>();
        let input_ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let bits = bytes.0;
        let trained = |at: usize| bits.get(at / 8).is_some_and(|bits| bits >> (at % 8) & 1 == 1);
        let labels =
            input_ids.iter().enumerate().map(|(at, id)| if trained(at) { i64::from(*id) } else { IGNORED }).collect();
        Some(Example { input_ids, labels, completion_start, source: RecordSource { file, line }, dataset })
    }

    /// The examples of a file, or nothing if it is not there, damaged or another's.
    fn open(path: &Path, key: &[u8; 32]) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let size = file.metadata().ok()?.len();
        let body = size.checked_sub(TAIL)?;
        let hash = hashed(&mut file, body).ok()?;
        let mut tail = [0; TAIL as usize];
        file.read_exact(&mut tail).ok()?;
        let report_at = u64::from_le_bytes(*tail.last_chunk()?);
        if tail[..32] != hash || report_at < HEAD || report_at > body {
            return None;
        }
        let mut head = [0; HEAD as usize];
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_exact(&mut head).ok()?;
        if head[..8] != *MAGIC || head[8..] != *key {
            return None;
        }
        file.seek(SeekFrom::Start(report_at)).ok()?;
        let mut ending = BufReader::new((&mut file).take(body - report_at));
        let mut number = || {
            let mut bytes = [0; 8];
            ending.read_exact(&mut bytes).ok()?;
            usize::try_from(u64::from_le_bytes(bytes)).ok()
        };
        let (report, files, count) = (number()?, number()?, number()?);
        let mut text = |length: usize| {
            let mut bytes = Vec::new();
            (&mut ending).take(length as u64).read_to_end(&mut bytes).ok()?;
            (bytes.len() == length).then_some(bytes)
        };
        let report: TokenizeReport = serde_json::from_slice(&text(report)?).ok()?;
        let files: Vec<Arc<str>> =
            serde_json::from_slice::<Vec<String>>(&text(files)?).ok()?.into_iter().map(Arc::from).collect();
        let mut index = Vec::with_capacity(count.min(report.examples));
        for _ in 0..count {
            let mut bytes = [0; 16];
            ending.read_exact(&mut bytes).ok()?;
            let mut bytes = Bytes(&bytes);
            let at = u64::from_le_bytes(bytes.take(8)?.try_into().ok()?);
            let length = u32::from_le_bytes(bytes.take(4)?.try_into().ok()?);
            let dataset = u32::from_le_bytes(bytes.take(4)?.try_into().ok()?);
            index.push(Place { at, length, dataset });
        }
        let whole = index.len() == report.examples;
        whole.then_some(Self { path: path.to_path_buf(), file: Mutex::new(file), files, index, report })
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.take(8)?.try_into().ok()?)).ok()
    }
}

/// Writes a file, under another name until it is whole.
struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    at: u64,
    files: Vec<Arc<str>>,
    index: Vec<Place>,
    buffer: Vec<u8>,
}

impl Writer {
    fn create(folder: &Path, path: &Path, key: &[u8; 32]) -> Result<Self, DataError> {
        std::fs::create_dir_all(folder).map_err(writing(folder))?;
        // One name for each key, so that what a killed pass left is overwritten and not kept for ever. While
        // another process writes it, this one writes a part of its own.
        let mut part = path.with_extension("part");
        let open = |part: &Path| OpenOptions::new().write(true).create(true).truncate(false).open(part);
        let mut file = open(&part).map_err(writing(&part))?;
        if file.try_lock().is_err() {
            part = path.with_extension(format!("{}.part", std::process::id()));
            file = open(&part).map_err(writing(&part))?;
        }
        file.set_len(0).map_err(writing(&part))?;
        let mut writer = Self {
            path: path.to_path_buf(),
            part,
            file: BufWriter::with_capacity(1 << 20, file),
            hash: Sha256::new(),
            at: 0,
            files: Vec::new(),
            index: Vec::new(),
            buffer: Vec::new(),
        };
        writer.buffer.extend(MAGIC);
        writer.buffer.extend(key);
        writer.write_out()?;
        Ok(writer)
    }

    fn example(&mut self, example: &Example) -> Result<(), DataError> {
        let file = match self.files.iter().rposition(|file| *file == example.source.file) {
            Some(file) => file,
            None => {
                self.files.push(Arc::clone(&example.source.file));
                self.files.len() - 1
            }
        };
        self.index.push(Place {
            at: self.at,
            // An example is cut to `max_seq_len`, and a longer one than this does not fit into any memory.
            length: u32::try_from(example.input_ids.len()).unwrap_or(u32::MAX),
            dataset: example.dataset,
        });
        let start = example.completion_start.map_or(0, |start| start + 1);
        let numbers = [file, example.source.line, example.dataset as usize, start, example.input_ids.len()];
        numbers.iter().for_each(|number| self.buffer.extend((*number as u64).to_le_bytes()));
        example.input_ids.iter().for_each(|id| self.buffer.extend(id.to_le_bytes()));
        for labels in example.labels.chunks(8) {
            let bits =
                labels.iter().enumerate().fold(0u8, |bits, (bit, label)| bits | (u8::from(*label != IGNORED) << bit));
            self.buffer.push(bits);
        }
        self.write_out()
    }

    fn finish(mut self, report: &TokenizeReport) -> Result<(), DataError> {
        let report_at = self.at;
        let report = serde_json::to_vec(report).unwrap_or_default();
        let files: Vec<&str> = self.files.iter().map(AsRef::as_ref).collect();
        let files = serde_json::to_vec(&files).unwrap_or_default();
        for number in [report.len(), files.len(), self.index.len()] {
            self.buffer.extend((number as u64).to_le_bytes());
        }
        self.buffer.extend(report);
        self.buffer.extend(files);
        for place in std::mem::take(&mut self.index) {
            self.buffer.extend(place.at.to_le_bytes());
            self.buffer.extend(place.length.to_le_bytes());
            self.buffer.extend(place.dataset.to_le_bytes());
        }
        self.write_out()?;
        let Self { path, part, mut file, hash, .. } = self;
        let io = writing(&part);
        let mut end = || -> std::io::Result<()> {
            file.write_all(&hash.clone().finalize())?;
            file.write_all(&report_at.to_le_bytes())?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        end().map_err(io)?;
        std::fs::rename(&part, &path).map_err(writing(&path))
    }

    fn write_out(&mut self) -> Result<(), DataError> {
        self.hash.update(&self.buffer);
        self.at += self.buffer.len() as u64;
        self.file.write_all(&self.buffer).map_err(writing(&self.part))?;
        self.buffer.clear();
        Ok(())
    }
}

fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    let path = path.to_path_buf();
    move |source| DataError::Io { path, action: "write the token cache", source }
}
