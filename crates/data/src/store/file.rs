//! The file of tokenised examples.
//!
//! ```text
//! magic, key | examples: 5 numbers, ids, one bit a token for what is trained | ending, index | hash, place of the ending
//! ```
//! The ending is what is small: the report, the remarks, the names of the data files.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::example::{Example, IGNORED, TokenizeReport};
use crate::record::RecordSource;
use crate::remark::{Remark, RemarkKind};

const MAGIC: &[u8; 8] = b"rknstore";
const HEAD: u64 = 8 + 32;
/// Hash and the place of the ending.
const TAIL: u64 = 32 + 8;
/// file, line, dataset, completion start, length
const NUMBERS: usize = 5 * 8;
/// Bytes that are read together where examples are read one after another.
const WINDOW: u64 = 1 << 20;

/// Examples of a file; in memory there are 16 bytes for each, and what was remarked.
#[derive(Debug)]
pub struct StoredExamples {
    path: PathBuf,
    file: Mutex<File>,
    files: Vec<Arc<str>>,
    index: Vec<Place>,
    /// Where the examples end.
    end: u64,
    report: TokenizeReport,
    records: Vec<usize>,
    highest: u32,
    remarks: Vec<Remark>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    length: u32,
    dataset: u32,
}

impl Place {
    fn size(self) -> usize {
        let length = self.length as usize;
        NUMBERS + length * 4 + length.div_ceil(8)
    }
}

/// A stretch of the file that was read last.
#[derive(Debug, Default)]
pub(crate) struct Window {
    at: u64,
    bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Ending {
    report: TokenizeReport,
    files: Vec<String>,
    records: Vec<usize>,
    highest: u32,
    remarks: Vec<(usize, usize, u32, RemarkKind)>,
}

impl StoredExamples {
    /// What tokenising found.
    pub fn report(&self) -> &TokenizeReport {
        &self.report
    }

    /// What was noticed of single records, in their order.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// Records of each dataset.
    pub fn records(&self) -> &[usize] {
        &self.records
    }

    /// The highest token id there is.
    pub fn highest_id(&self) -> u32 {
        self.highest
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
        let place = self.place(index)?;
        let mut bytes = vec![0; place.size()];
        self.read(place.at, &mut bytes)?;
        self.example(&bytes, place).ok_or_else(|| self.gone())
    }

    /// As [`get`](Self::get), with what lies behind it read ahead.
    pub(crate) fn get_near(&self, index: usize, window: &mut Window) -> Result<Example, DataError> {
        let place = self.place(index)?;
        let end = place.at + place.size() as u64;
        if place.at < window.at || end > window.at + window.bytes.len() as u64 {
            let length = self.end.saturating_sub(place.at).min(WINDOW).max(place.size() as u64);
            window.at = place.at;
            window.bytes.resize(usize::try_from(length).map_err(|_| self.gone())?, 0);
            self.read(place.at, &mut window.bytes)?;
        }
        let from = (place.at - window.at) as usize;
        self.example(&window.bytes[from..from + place.size()], place).ok_or_else(|| self.gone())
    }

    fn place(&self, index: usize) -> Result<Place, DataError> {
        self.index.get(index).copied().ok_or_else(|| self.gone())
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), DataError> {
        let mut file = self.file.lock().map_err(|_| self.gone())?;
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(bytes)).map_err(|source| self.lost(source))
    }

    fn lost(&self, source: std::io::Error) -> DataError {
        DataError::Io { path: self.path.clone(), action: "read the token cache", source }
    }

    fn gone(&self) -> DataError {
        self.lost(std::io::Error::other("it has changed while it was used"))
    }

    fn example(&self, bytes: &[u8], place: Place) -> Option<Example> {
        let length = place.length as usize;
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
    pub(crate) fn open(path: &Path, key: &[u8; 32]) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let size = file.metadata().ok()?.len();
        let body = size.checked_sub(TAIL)?;
        let hash = hashed(&mut file, body).ok()?;
        let mut tail = [0; TAIL as usize];
        file.read_exact(&mut tail).ok()?;
        let end = u64::from_le_bytes(*tail.last_chunk()?);
        if tail[..32] != hash || end < HEAD || end > body {
            return None;
        }
        let mut head = [0; HEAD as usize];
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_exact(&mut head).ok()?;
        if head[..8] != *MAGIC || head[8..] != *key {
            return None;
        }
        file.seek(SeekFrom::Start(end)).ok()?;
        let mut rest = BufReader::new((&mut file).take(body - end));
        let mut length = [0; 8];
        rest.read_exact(&mut length).ok()?;
        let length = u64::from_le_bytes(length);
        let mut text = Vec::new();
        (&mut rest).take(length).read_to_end(&mut text).ok()?;
        let Ending { report, files, records, highest, remarks } = serde_json::from_slice(&text).ok()?;
        let mut index = Vec::with_capacity(report.examples);
        for _ in 0..report.examples {
            let mut bytes = [0; 16];
            rest.read_exact(&mut bytes).ok()?;
            let mut bytes = Bytes(&bytes);
            let at = u64::from_le_bytes(bytes.take(8)?.try_into().ok()?);
            let length = u32::from_le_bytes(bytes.take(4)?.try_into().ok()?);
            let dataset = u32::from_le_bytes(bytes.take(4)?.try_into().ok()?);
            index.push(Place { at, length, dataset });
        }
        let files: Vec<Arc<str>> = files.into_iter().map(Arc::from).collect();
        let remark = |(file, line, dataset, kind): (usize, usize, u32, RemarkKind)| {
            Some(Remark { source: RecordSource { file: Arc::clone(files.get(file)?), line }, dataset, kind })
        };
        let remarks = remarks.into_iter().map(remark).collect::<Option<_>>()?;
        Some(Self {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            files,
            index,
            end,
            report,
            records,
            highest,
            remarks,
        })
    }
}

/// The hash of the next `length` bytes.
pub(crate) fn hashed(file: &mut File, length: u64) -> std::io::Result<[u8; 32]> {
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
pub(crate) struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    at: u64,
    files: Vec<Arc<str>>,
    index: Vec<Place>,
    highest: u32,
    remarks: Vec<(usize, usize, u32, RemarkKind)>,
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn create(folder: &Path, path: &Path, key: &[u8; 32]) -> Result<Self, DataError> {
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
            highest: 0,
            remarks: Vec::new(),
            buffer: Vec::new(),
        };
        writer.buffer.extend(MAGIC);
        writer.buffer.extend(key);
        writer.write_out()?;
        Ok(writer)
    }

    pub(crate) fn example(&mut self, example: &Example) -> Result<(), DataError> {
        let file = self.file_number(&example.source.file);
        self.highest = example.input_ids.iter().copied().max().unwrap_or_default().max(self.highest);
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

    pub(crate) fn remark(&mut self, remark: Remark) {
        let file = self.file_number(&remark.source.file);
        self.remarks.push((file, remark.source.line, remark.dataset, remark.kind));
    }

    fn file_number(&mut self, name: &Arc<str>) -> usize {
        // Mostly the last one.
        self.files.iter().rposition(|file| file == name).unwrap_or_else(|| {
            self.files.push(Arc::clone(name));
            self.files.len() - 1
        })
    }

    pub(crate) fn finish(mut self, report: TokenizeReport, records: Vec<usize>) -> Result<(), DataError> {
        let end = self.at;
        let ending = Ending {
            report,
            files: self.files.iter().map(ToString::to_string).collect(),
            records,
            highest: self.highest,
            remarks: std::mem::take(&mut self.remarks),
        };
        let text = serde_json::to_vec(&ending).unwrap_or_default();
        self.buffer.extend((text.len() as u64).to_le_bytes());
        self.buffer.extend(text);
        for place in std::mem::take(&mut self.index) {
            self.buffer.extend(place.at.to_le_bytes());
            self.buffer.extend(place.length.to_le_bytes());
            self.buffer.extend(place.dataset.to_le_bytes());
        }
        self.write_out()?;
        let Self { path, part, mut file, hash, .. } = self;
        let io = writing(&part);
        let mut finish = || -> std::io::Result<()> {
            file.write_all(&hash.clone().finalize())?;
            file.write_all(&end.to_le_bytes())?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        finish().map_err(io)?;
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
