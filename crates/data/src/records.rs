//! The records of a dataset as they are needed: some at a time, from any of them on.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::convert::{detect, to_record};
use crate::dataset::{DatasetConfig, FieldNames, RecordType, config_error, file_name, quoted};
use crate::error::{DataError, Fault, Faults};
use crate::files::find_files;
use crate::order::shuffle;
use crate::reader::{FileReader, RawRecord, ReadRecord};
use crate::record::Record;
use crate::slice::parse;

/// Records that are read together.
const BATCH: usize = 2048;

/// A dataset that was found and is not read yet: its files, the range of them that `split` takes, its format.
#[derive(Debug, Clone)]
pub struct Records {
    config: DatasetConfig,
    parts: Arc<[Part]>,
    record_type: RecordType,
    detected: bool,
    /// The first record that could be read, for what is said of others.
    first: String,
}

/// Files read one after another, and the records that are taken of them together.
#[derive(Debug, Clone)]
struct Part {
    files: Vec<DataFile>,
    range: Range<usize>,
}

#[derive(Debug, Clone)]
struct DataFile {
    path: PathBuf,
    name: Arc<str>,
}

impl Records {
    /// Finds the files of a dataset whose `path` is relative to `root`, and tells the format from the first record.
    ///
    /// A `split` with percentages or places from the end has its records counted here: at once in Parquet, line
    /// by line in the other formats.
    ///
    /// # Errors
    /// A path without data, a split that is not there, a file that cannot be read, no record at all, or a first
    /// record of no known format.
    pub fn open(config: &DatasetConfig, root: &Path) -> Result<Self, DataError> {
        check(config)?;
        let mut parts = Vec::new();
        match &config.split {
            None => parts.push(Part { files: data_files(config, None, root)?, range: 0..usize::MAX }),
            Some(split) => {
                for part in parse(split).map_err(|message| config_error(config, message))? {
                    let files = data_files(config, Some(&part.split), root)?;
                    let range = match part.fixed_range() {
                        Some(range) => range,
                        None => part.range(count(&files, config)?),
                    };
                    parts.push(Part { files, range });
                }
            }
        }
        let mut records = Self {
            config: config.clone(),
            record_type: config.record_type.unwrap_or(RecordType::Text),
            detected: config.record_type.is_none(),
            first: String::new(),
            parts: parts.into(),
        };
        if records.walk().next_batch(1)?.is_none() {
            let files = records.files().len();
            let whole = records.parts.iter().all(|part| part.range == (0..usize::MAX));
            let range = if whole { "" } else { " in the range of `split`" };
            return Err(DataError::NotFound {
                path: root.join(&config.path),
                expected: format!("the dataset is empty: {} and no record in {}{range}", counted(files), them(files)),
                help: "give a file that holds at least one record".to_owned(),
            });
        }
        let (record_type, first) = records.first()?;
        records.record_type = record_type;
        records.first = first;
        Ok(records)
    }

    /// The format, and where the first record stands that can be read.
    fn first(&self) -> Result<(RecordType, String), DataError> {
        let mut walk = self.walk();
        let mut faults = Faults::default();
        let mut left = self.config.max_records.unwrap_or(usize::MAX);
        while left > 0
            && let Some(batch) = walk.next_batch(left.min(BATCH))?
        {
            left -= batch.len();
            for record in batch {
                match record {
                    Ok(record) => {
                        let record_type = match self.config.record_type {
                            Some(record_type) => record_type,
                            None => detected_type(&record, &self.config)?,
                        };
                        return Ok((record_type, record.source.to_string()));
                    }
                    // Without a single record that could be read there is nothing to tell the format from.
                    Err(fault) => faults.push(fault.source, fault.message),
                }
            }
        }
        Err(DataError::Records(faults))
    }

    /// The format of the records.
    pub fn record_type(&self) -> RecordType {
        self.record_type
    }

    /// Whether the format was recognised rather than given.
    pub fn detected(&self) -> bool {
        self.detected
    }

    /// The files that are read, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.parts.iter().flat_map(|part| &part.files).map(|file| file.path.clone()).collect()
    }

    /// Begins to read.
    pub fn read(&self) -> RecordReader {
        let left = self.config.max_records.unwrap_or(usize::MAX);
        RecordReader { records: self.clone(), walk: self.walk(), left }
    }

    fn walk(&self) -> Walk {
        let fields = self.config.fields.clone();
        Walk { parts: Arc::clone(&self.parts), fields, part: 0, file: 0, at: 0, reader: None }
    }

    /// The same records with the files of each whole part in an order drawn from `random`.
    pub(crate) fn shuffled(&self, random: &mut ChaCha8Rng) -> Self {
        let mut parts = self.parts.to_vec();
        for part in parts.iter_mut().filter(|part| part.range == (0..usize::MAX)) {
            shuffle(&mut part.files, random);
        }
        Self { parts: parts.into(), ..self.clone() }
    }

    /// About how many records there are: exact of Parquet, by the length of the first ones of other files.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn estimate(&self) -> Result<usize, DataError> {
        /// What text is compressed to, about.
        const COMPRESSION: u64 = 4;
        let mut total = 0usize;
        for part in self.parts.iter() {
            let mut records = 0usize;
            for file in &part.files {
                let mut reader = FileReader::open(&file.path, Arc::clone(&file.name), &self.config.fields)?;
                records = records.saturating_add(match reader.known_count() {
                    Some(count) => count,
                    None => {
                        let first = reader.next_batch(256)?;
                        let bytes: usize = first.iter().map(length).sum();
                        let size = std::fs::metadata(&file.path).map_or(0, |about| about.len());
                        let packed = matches!(file.path.extension(), Some(end) if end == "gz" || end == "zst");
                        let size = if packed { size.saturating_mul(COMPRESSION) } else { size };
                        let mean = (bytes / first.len().max(1)).max(1) as u64;
                        usize::try_from(size / mean).unwrap_or(usize::MAX).max(first.len())
                    }
                });
            }
            let taken = records.min(part.range.end).saturating_sub(part.range.start);
            total = total.saturating_add(taken);
        }
        Ok(total.min(self.config.max_records.unwrap_or(usize::MAX)).max(1))
    }

    /// What decides which records are read, for a key of a cache; the files' contents aside.
    pub(crate) fn description(&self) -> String {
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|part| (part.files.iter().map(|file| file.name.as_ref()).collect::<Vec<_>>(), part.range.clone()))
            .collect();
        format!("{parts:?} {:?} {:?} {:?}", self.record_type, self.config.fields, self.config.max_records)
    }

    fn converted(&self, record: RawRecord) -> Result<Record, Fault> {
        let fields = &self.config.fields;
        match to_record(&record, self.record_type, fields) {
            Ok(content) => Ok(Record { content, source: record.source }),
            Err(message) => {
                let message = match detect(&record.value, fields) {
                    Some(other) if other != self.record_type && self.detected => format!(
                        "{message}; the record looks like `{other}`, but the dataset is `{}` after its first record \
                         ({})",
                        self.record_type, self.first
                    ),
                    Some(other) if other != self.record_type => format!(
                        "{message}; the record looks like `{other}`, but the recipe says `type: {}`",
                        self.record_type
                    ),
                    _ => message,
                };
                Err(Fault { source: record.source, message })
            }
        }
    }
}

/// Bytes of a record as a line of JSON.
fn length(record: &ReadRecord) -> usize {
    record.as_ref().ok().and_then(|record| serde_json::to_vec(&record.value).ok()).map_or(0, |bytes| bytes.len() + 1)
}

/// Reads a dataset from its start to its end.
#[derive(Debug)]
pub struct RecordReader {
    records: Records,
    walk: Walk,
    left: usize,
}

impl RecordReader {
    /// The next records, at most `most`, in order and with the faulty ones in their places; `None` at the end.
    ///
    /// # Errors
    /// A file that cannot be read on.
    pub fn next_batch(&mut self, most: usize) -> Result<Option<Vec<Result<Record, Fault>>>, DataError> {
        let most = most.min(self.left).min(BATCH);
        if most == 0 {
            return Ok(None);
        }
        let Some(batch) = self.walk.next_batch(most)? else {
            return Ok(None);
        };
        self.left -= batch.len();
        let convert = |record: ReadRecord| record.and_then(|record| self.records.converted(record));
        Ok(Some(batch.into_par_iter().with_min_len(64).map(convert).collect()))
    }

    /// Leaves records out, as cheaply as the format allows, and says how many there were.
    ///
    /// # Errors
    /// A file that cannot be read on.
    pub fn skip(&mut self, count: usize) -> Result<usize, DataError> {
        let skipped = self.walk.skip(count.min(self.left))?;
        self.left -= skipped;
        Ok(skipped)
    }
}

/// A place in the parts of a dataset.
struct Walk {
    parts: Arc<[Part]>,
    fields: FieldNames,
    part: usize,
    file: usize,
    /// Records of the part that were read or left out.
    at: usize,
    reader: Option<FileReader>,
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("file", &self.file).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Walk {
    /// The range of the part that is read now.
    fn range(&self) -> Option<Range<usize>> {
        self.parts.get(self.part).map(|part| part.range.clone())
    }

    fn next_batch(&mut self, most: usize) -> Result<Option<Vec<ReadRecord>>, DataError> {
        while let Some(range) = self.range() {
            if self.at < range.start {
                let missing = range.start - self.at;
                if self.skip_in_part(missing)? < missing {
                    self.next_part();
                }
                continue;
            }
            let most = most.min(range.end - self.at);
            if most == 0 || !self.open_file()? {
                self.next_part();
                continue;
            }
            let batch = match &mut self.reader {
                Some(reader) => reader.next_batch(most)?,
                None => Vec::new(),
            };
            if batch.is_empty() {
                self.next_file();
                continue;
            }
            self.at += batch.len();
            return Ok(Some(batch));
        }
        Ok(None)
    }

    fn skip(&mut self, count: usize) -> Result<usize, DataError> {
        let mut skipped = 0;
        while let Some(range) = self.range()
            && skipped < count
        {
            if self.at < range.start {
                let missing = range.start - self.at;
                if self.skip_in_part(missing)? < missing {
                    self.next_part();
                }
                continue;
            }
            let wanted = (count - skipped).min(range.end - self.at);
            let found = self.skip_in_part(wanted)?;
            skipped += found;
            if found < wanted || wanted == 0 {
                self.next_part();
            }
        }
        Ok(skipped)
    }

    /// Leaves out records of this part; fewer than `count` only at its end.
    fn skip_in_part(&mut self, count: usize) -> Result<usize, DataError> {
        let mut skipped = 0;
        while skipped < count && self.open_file()? {
            let Some(reader) = &mut self.reader else { break };
            let found = reader.skip(count - skipped)?;
            skipped += found;
            if skipped < count {
                self.next_file();
            }
        }
        self.at += skipped;
        Ok(skipped)
    }

    /// Whether there is a file to read from in this part.
    fn open_file(&mut self) -> Result<bool, DataError> {
        if self.reader.is_none() {
            let Some(file) = self.parts.get(self.part).and_then(|part| part.files.get(self.file)) else {
                return Ok(false);
            };
            self.reader = Some(FileReader::open(&file.path, Arc::clone(&file.name), &self.fields)?);
        }
        Ok(true)
    }

    fn next_file(&mut self) {
        self.reader = None;
        self.file += 1;
    }

    fn next_part(&mut self) {
        self.reader = None;
        self.file = 0;
        self.at = 0;
        self.part += 1;
    }
}

fn check(config: &DatasetConfig) -> Result<(), DataError> {
    if let Some(weight) = config.weight
        && !(weight.is_finite() && weight > 0.0)
    {
        return Err(config_error(
            config,
            format!("`weight` is {weight}: expected a number above 0; remove the dataset to leave it out"),
        ));
    }
    if config.max_records == Some(0) {
        return Err(config_error(
            config,
            "`max_records` is 0: expected at least 1; remove the dataset to leave it out".to_owned(),
        ));
    }
    Ok(())
}

fn data_files(config: &DatasetConfig, split: Option<&str>, root: &Path) -> Result<Vec<DataFile>, DataError> {
    let files = find_files(config, split, root)?;
    Ok(files.into_iter().map(|path| DataFile { name: file_name(&path, root), path }).collect())
}

/// Records of all files together.
fn count(files: &[DataFile], config: &DatasetConfig) -> Result<usize, DataError> {
    let mut total = 0;
    for file in files {
        total += FileReader::open(&file.path, Arc::clone(&file.name), &config.fields)?.skip(usize::MAX)?;
    }
    Ok(total)
}

fn detected_type(first: &RawRecord, config: &DatasetConfig) -> Result<RecordType, DataError> {
    detect(&first.value, &config.fields).ok_or_else(|| {
        let mut faults = Faults::default();
        let keys: Vec<&str> = first.value.keys().map(String::as_str).collect();
        let preference = first.value.contains_key("chosen") && first.value.contains_key("rejected");
        faults.push(first.source.clone(), format!("the format is not recognised from the fields {}", quoted(&keys)));
        faults.help(if preference {
            "chosen and rejected answers are preference data, which this kind of training does not read".to_owned()
        } else {
            "expected `messages`, `conversations`, `instruction` and `output`, `prompt` and `completion`, or `text`; \
             if the fields have other names say so in the recipe, as `fields: {prompt: question, completion: answer}`"
                .to_owned()
        });
        DataError::Records(faults)
    })
}

fn counted(files: usize) -> String {
    match files {
        1 => "1 file was read".to_owned(),
        count => format!("{count} files were read"),
    }
}

fn them(files: usize) -> &'static str {
    if files == 1 { "it" } else { "them" }
}
