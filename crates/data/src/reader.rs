//! Files to JSON objects, each with its place: JSON Lines, JSON arrays, Parquet and CSV, some records at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::convert::known_fields;
use crate::dataset::FieldNames;
use crate::error::{DataError, Fault};
use crate::parquet_file::ParquetRows;
use crate::record::RecordSource;

/// A record before its format is known.
#[derive(Debug, Clone)]
pub(crate) struct RawRecord {
    pub(crate) value: Map<String, Value>,
    pub(crate) source: RecordSource,
}

/// A record, or what is wrong with it.
pub(crate) type ReadRecord = Result<RawRecord, Fault>;

/// A line, element or row and what it holds.
type Parsed = (usize, Result<Map<String, Value>, String>);

/// What a file holds, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    JsonLines,
    Json,
    Parquet,
    Csv,
    Tsv,
}

impl Format {
    /// By the extension, `.gz` and `.zst` put aside.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match Path::new(name).extension()?.to_str()? {
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON Lines",
            Self::Json => "JSON",
            Self::Parquet => "Parquet",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
        }
    }
}

/// Bytes of lines that are held at a time; one line may be longer.
const CHUNK: usize = 8 << 20;

/// The records of one file, in order and with the faulty ones in their places. What is held does not grow with
/// the file, but for a JSON array, which is read whole.
pub(crate) struct FileReader {
    path: PathBuf,
    name: Arc<str>,
    source: Source,
}

enum Source {
    Lines(Lines),
    Csv(Rows),
    Parquet(Box<ParquetRows>),
    Whole(std::vec::IntoIter<Parsed>),
}

impl FileReader {
    /// Opens a file. One that cannot be read at all is an error.
    pub(crate) fn open(path: &Path, name: Arc<str>, fields: &FieldNames) -> Result<Self, DataError> {
        let Some(format) = Format::of(path) else {
            return Err(file_error(
                path,
                "the name does not say what it holds: expected .jsonl, .ndjson, .json, .parquet, .csv or .tsv, \
                 also with .gz or .zst (not Parquet)",
            ));
        };
        let source = match format {
            Format::Parquet => {
                Source::Parquet(Box::new(ParquetRows::open(path, Arc::clone(&name), &known_fields(fields))?))
            }
            Format::JsonLines => Source::Lines(Lines::new(text(path)?)),
            Format::Json => json(path)?,
            Format::Csv => Source::Csv(Rows::open(path, b',')?),
            Format::Tsv => Source::Csv(Rows::open(path, b'\t')?),
        };
        Ok(Self { path: path.to_path_buf(), name, source })
    }

    /// Up to `most` records; none at the end.
    pub(crate) fn next_batch(&mut self, most: usize) -> Result<Vec<ReadRecord>, DataError> {
        let parsed = match &mut self.source {
            Source::Parquet(rows) => return rows.next_batch(most),
            Source::Lines(lines) => lines.next_batch(most).map_err(|error| damaged(&self.path, error))?,
            Source::Csv(rows) => rows.next_batch(most),
            Source::Whole(values) => values.take(most).collect(),
        };
        Ok(gathered(parsed, &self.name))
    }

    /// How many records there are, where the file says so itself.
    pub(crate) fn known_count(&self) -> Option<usize> {
        match &self.source {
            Source::Parquet(rows) => Some(rows.count()),
            Source::Whole(values) => Some(values.len()),
            Source::Lines(_) | Source::Csv(_) => None,
        }
    }

    /// Leaves records out without parsing them, and says how many there were.
    pub(crate) fn skip(&mut self, count: usize) -> Result<usize, DataError> {
        match &mut self.source {
            Source::Parquet(rows) => Ok(rows.skip(count)),
            Source::Lines(lines) => lines.skip(count).map_err(|error| damaged(&self.path, error)),
            Source::Csv(rows) => Ok(rows.skip(count)),
            Source::Whole(values) => Ok(values.take(count).count()),
        }
    }
}

pub(crate) fn file_error(path: &Path, message: impl Into<String>) -> DataError {
    DataError::File { path: path.to_path_buf(), message: message.into() }
}

type Text = Box<dyn BufRead + Send>;

/// The file's text, without a byte order mark. Compression is told by the first bytes, not by the name: both are
/// often wrong.
fn text(path: &Path) -> Result<Text, DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), action: "read", source };
    const BUFFER: usize = 1 << 18;
    let mut file = BufReader::with_capacity(BUFFER, File::open(path).map_err(io)?);
    let first = file.fill_buf().map_err(io)?;
    let mut plain: Text = if first.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(file)))
    } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(|error| damaged(path, error))?;
        Box::new(BufReader::with_capacity(BUFFER, decoder))
    } else {
        Box::new(file)
    };
    let first = plain.fill_buf().map_err(|error| damaged(path, error))?;
    if first.starts_with(b"\xef\xbb\xbf") {
        plain.consume(3);
    }
    Ok(plain)
}

/// Reading failed: of the disk, or of what is compressed on it.
fn damaged(path: &Path, error: std::io::Error) -> DataError {
    match error.raw_os_error() {
        Some(_) => DataError::Io { path: path.to_path_buf(), action: "read", source: error },
        None => file_error(path, format!("the compressed file is damaged or cut off ({error}); fetch it again")),
    }
}

fn whole(path: &Path, mut text: Text) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    text.read_to_end(&mut bytes).map_err(|error| damaged(path, error))?;
    Ok(bytes)
}

/// JSON Lines.
struct Lines {
    text: Text,
    /// Lines that were read.
    line: usize,
}

impl Lines {
    fn new(text: Text) -> Self {
        Self { text, line: 0 }
    }

    fn next_batch(&mut self, most: usize) -> std::io::Result<Vec<Parsed>> {
        let mut chunk: Vec<u8> = Vec::new();
        let mut lines: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        while lines.len() < most && chunk.len() < CHUNK {
            let start = chunk.len();
            if self.text.read_until(b'\n', &mut chunk)? == 0 {
                break;
            }
            self.line += 1;
            if chunk[start..].trim_ascii().is_empty() {
                chunk.truncate(start);
            } else {
                lines.push((self.line, start..chunk.len()));
            }
        }
        let parse = |(line, range): (usize, std::ops::Range<usize>)| (line, object(chunk[range].trim_ascii()));
        Ok(lines.into_par_iter().with_min_len(64).map(parse).collect())
    }

    fn skip(&mut self, count: usize) -> std::io::Result<usize> {
        let mut skipped = 0;
        let mut line = Vec::new();
        while skipped < count {
            line.clear();
            if self.text.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.line += 1;
            skipped += usize::from(!line.trim_ascii().is_empty());
        }
        Ok(skipped)
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(format!("not UTF-8 at byte {} of the line; save the file as UTF-8", error.valid_up_to() + 1));
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => object_of(value),
        // The parser counts lines within the record, which is one line.
        Err(error) => {
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text);
            Err(format!("not valid JSON: {reason} at column {}", error.column()))
        }
    }
}

fn object_of(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(format!("expected an object with the record's fields, found {}", kind(&other))),
    }
}

/// What a JSON value is, with an article.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn gathered(parsed: Vec<Parsed>, name: &Arc<str>) -> Vec<ReadRecord> {
    parsed
        .into_iter()
        .map(|(line, value)| {
            let source = RecordSource::new(Arc::clone(name), line);
            match value {
                Ok(value) => Ok(RawRecord { value, source }),
                Err(message) => Err(Fault { source, message }),
            }
        })
        .collect()
}

/// A `.json` file is an array of records, or JSON Lines under another name.
fn json(path: &Path) -> Result<Source, DataError> {
    let mut text = text(path)?;
    // Line breaks before the first record are counted, as they are in the file.
    let mut before = Vec::new();
    let mut first = Vec::new();
    while first.trim_ascii().is_empty() {
        before.append(&mut first);
        if text.read_until(b'\n', &mut first).map_err(|error| damaged(path, error))? == 0 {
            return Ok(Source::Whole(Vec::new().into_iter()));
        }
    }
    if first.trim_ascii_start().starts_with(b"[") {
        let mut bytes = first;
        bytes.append(&mut whole(path, text)?);
        let values: Vec<Value> = serde_json::from_slice(bytes.trim_ascii_start())
            .map_err(|error| file_error(path, format!("not a valid JSON list of records: {error}")))?;
        let parsed: Vec<Parsed> = (1..).zip(values).map(|(index, value)| (index, object_of(value))).collect();
        return Ok(Source::Whole(parsed.into_iter()));
    }
    if object(first.trim_ascii()).is_ok() {
        before.append(&mut first);
        return Ok(Source::Lines(Lines::new(Box::new(std::io::Cursor::new(before).chain(text)))));
    }
    // One object over several lines is valid JSON, but a list of records was meant.
    let mut bytes = before;
    bytes.append(&mut first);
    bytes.append(&mut whole(path, text)?);
    if let Ok(Value::Object(whole)) = serde_json::from_slice(&bytes) {
        let list = whole.iter().find(|(_, value)| value.is_array()).map(|(key, _)| key);
        return Err(file_error(
            path,
            match list {
                Some(key) => format!(
                    "expected a list of records, found one object whose `{key}` is a list; save that list alone"
                ),
                None => "expected a list of records or one record a line, found one object".to_owned(),
            },
        ));
    }
    Ok(Source::Lines(Lines::new(Box::new(std::io::Cursor::new(bytes)))))
}

/// CSV.
struct Rows {
    reader: csv::Reader<Text>,
    header: csv::StringRecord,
    delimiter: u8,
    /// The reader cannot go on.
    broken: bool,
}

impl Rows {
    fn open(path: &Path, delimiter: u8) -> Result<Self, DataError> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text(path)?);
        let header = reader
            .headers()
            .map_err(|error| file_error(path, format!("the header cannot be read: {error}; save the file as UTF-8")))?
            .clone();
        for (index, field) in header.iter().enumerate() {
            if header.iter().take(index).any(|earlier| earlier == field) {
                return Err(file_error(path, format!("two columns are called `{field}`; rename one")));
            }
        }
        Ok(Self { reader, header, delimiter, broken: false })
    }

    fn next_batch(&mut self, most: usize) -> Vec<Parsed> {
        let mut parsed: Vec<Parsed> = Vec::new();
        let mut row = csv::StringRecord::new();
        let mut bytes = 0;
        // Lines of the file are counted, not rows: a quoted field may hold line breaks.
        while !self.broken && parsed.len() < most && bytes < CHUNK {
            let line = |position: &csv::Position| usize::try_from(position.line()).unwrap_or(usize::MAX);
            let before = line(self.reader.position());
            match self.reader.read_record(&mut row) {
                Ok(false) => break,
                Ok(true) => {
                    bytes += row.as_slice().len();
                    let at = row.position().map_or(before, line);
                    parsed.push((at, cells(&self.header, &row, self.delimiter)));
                }
                Err(error) => {
                    parsed.push((before, Err(format!("the row cannot be read: {error}"))));
                    // Only a row that is not UTF-8 leaves the reader able to go on.
                    self.broken = !matches!(error.kind(), csv::ErrorKind::Utf8 { .. });
                }
            }
        }
        parsed
    }

    fn skip(&mut self, count: usize) -> usize {
        let mut row = csv::ByteRecord::new();
        let mut skipped = 0;
        while !self.broken && skipped < count {
            match self.reader.read_byte_record(&mut row) {
                Ok(false) => break,
                Ok(true) => skipped += 1,
                Err(_) => {
                    skipped += 1;
                    self.broken = true;
                }
            }
        }
        skipped
    }
}

fn cells(header: &csv::StringRecord, row: &csv::StringRecord, delimiter: u8) -> Result<Map<String, Value>, String> {
    if row.len() != header.len() {
        return Err(format!(
            "expected {} fields as in the header, found {}; a field with `{}`, a quote or a line break must stand in \
             double quotes",
            header.len(),
            row.len(),
            if delimiter == b'\t' { "\\t" } else { "," }
        ));
    }
    let cell = |(field, cell): (&str, &str)| (field.to_owned(), Value::String(cell.to_owned()));
    Ok(header.iter().zip(row).map(cell).collect())
}
