//! Files to JSON objects, each with its place: JSON Lines, JSON arrays, Parquet and CSV.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::convert::known_fields;
use crate::dataset::FieldNames;
use crate::error::{DataError, Fault};
use crate::parquet_file;
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

/// Reads up to `limit` records, in order and with the faulty ones in their places. A file that cannot be read at
/// all is an error.
pub(crate) fn read_file(
    path: &Path,
    name: Arc<str>,
    fields: &FieldNames,
    limit: Option<usize>,
) -> Result<Vec<ReadRecord>, DataError> {
    let limit = limit.unwrap_or(usize::MAX);
    let Some(format) = Format::of(path) else {
        return Err(file_error(
            path,
            "the name does not say what it holds: expected .jsonl, .ndjson, .json, .parquet, .csv or .tsv, \
             also with .gz or .zst (not Parquet)",
        ));
    };
    let delimiter = match format {
        Format::Parquet => return parquet_file::read(path, &name, &known_fields(fields), limit),
        Format::Tsv => b'\t',
        Format::JsonLines | Format::Json | Format::Csv => b',',
    };
    let bytes = decompressed(path)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match format {
        Format::JsonLines => Ok(json_lines(bytes, &name, limit)),
        Format::Json => json(path, bytes, &name, limit),
        _ => csv(path, bytes, delimiter, &name, limit),
    }
}

pub(crate) fn file_error(path: &Path, message: impl Into<String>) -> DataError {
    DataError::File { path: path.to_path_buf(), message: message.into() }
}

/// The file's bytes. Compression is told by the first bytes, not by the name: both are often wrong.
fn decompressed(path: &Path) -> Result<Vec<u8>, DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), action: "read", source };
    let mut file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    let mut plain = Vec::new();
    let unpacked = if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        zstd::stream::read::Decoder::new(bytes.as_slice()).and_then(|mut decoder| decoder.read_to_end(&mut plain))
    } else {
        return Ok(bytes);
    };
    match unpacked {
        Ok(_) => Ok(plain),
        Err(error) => {
            Err(file_error(path, format!("the compressed file is damaged or cut off ({error}); fetch it again")))
        }
    }
}

fn json_lines(bytes: &[u8], name: &Arc<str>, limit: usize) -> Vec<ReadRecord> {
    let lines: Vec<(usize, &[u8])> = bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
        .take(limit)
        .collect();
    let parsed: Vec<Parsed> =
        lines.into_par_iter().with_min_len(64).map(|(line, bytes)| (line, object(bytes))).collect();
    gathered(parsed, name)
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
fn json(path: &Path, bytes: &[u8], name: &Arc<str>, limit: usize) -> Result<Vec<ReadRecord>, DataError> {
    let trimmed = bytes.trim_ascii_start();
    if trimmed.is_empty() {
        return Ok(Vec::new());
    }
    if trimmed.first() != Some(&b'[') {
        // One object over several lines is valid JSON, but a list of records was meant.
        let first_line = trimmed.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if object(first_line).is_err()
            && let Ok(Value::Object(whole)) = serde_json::from_slice(trimmed)
        {
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
        return Ok(json_lines(bytes, name, limit));
    }
    let values: Vec<Value> = serde_json::from_slice(trimmed)
        .map_err(|error| file_error(path, format!("not a valid JSON list of records: {error}")))?;
    let parsed =
        values.into_iter().take(limit).enumerate().map(|(index, value)| (index + 1, object_of(value))).collect();
    Ok(gathered(parsed, name))
}

fn csv(path: &Path, bytes: &[u8], delimiter: u8, name: &Arc<str>, limit: usize) -> Result<Vec<ReadRecord>, DataError> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(bytes);
    let header = reader
        .headers()
        .map_err(|error| file_error(path, format!("the header cannot be read: {error}; save the file as UTF-8")))?
        .clone();
    for (index, field) in header.iter().enumerate() {
        if header.iter().take(index).any(|earlier| earlier == field) {
            return Err(file_error(path, format!("two columns are called `{field}`; rename one")));
        }
    }
    let mut parsed: Vec<Parsed> = Vec::new();
    let mut row = csv::StringRecord::new();
    // Lines of the file are counted, not rows: a quoted field may hold line breaks.
    while parsed.len() < limit {
        let line = |position: &csv::Position| usize::try_from(position.line()).unwrap_or(usize::MAX);
        let before = line(reader.position());
        match reader.read_record(&mut row) {
            Ok(false) => break,
            Ok(true) => parsed.push((row.position().map_or(before, line), cells(&header, &row, delimiter))),
            Err(error) => {
                parsed.push((before, Err(format!("the row cannot be read: {error}"))));
                // Only a row that is not UTF-8 leaves the reader able to go on.
                if !matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) {
                    break;
                }
            }
        }
    }
    Ok(gathered(parsed, name))
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
