//! Parquet, nested columns included, a few rows at a time: what is held does not grow with the file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use crate::arrow_rows;
use crate::dataset::quoted;
use crate::error::DataError;
use crate::reader::{RawRecord, ReadRecord, file_error};
use crate::record::RecordSource;

/// Decoded bytes that a batch has at about the most.
const BATCH_BYTES: i64 = 8 << 20;
const BATCH_ROWS: i64 = 1024;

/// The rows of a file, in order.
pub(crate) struct ParquetRows {
    path: PathBuf,
    name: Arc<str>,
    file: File,
    metadata: ArrowReaderMetadata,
    wanted: Vec<usize>,
    /// Rows of each group, to begin in the middle without reading what lies before.
    groups: Vec<usize>,
    batch_rows: usize,
    next_row: usize,
    reader: Option<ParquetRecordBatchReader>,
    /// Decoded, but not asked for yet.
    left: Option<RecordBatch>,
}

impl ParquetRows {
    /// Opens a file; only the columns of `known` names are decoded, not what no record has (images, embeddings).
    pub(crate) fn open(path: &Path, name: Arc<str>, known: &[&str]) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.to_path_buf(), action: "read", source };
        let file = File::open(path).map_err(io)?;
        let copy = file.try_clone().map_err(io)?;
        guarded(path, || {
            let metadata = ArrowReaderMetadata::load(&copy, Default::default())
                .map_err(|error| damaged(path, &error.to_string()))?;
            let columns: Vec<&str> = metadata.schema().fields().iter().map(|field| field.name().as_str()).collect();
            let wanted: Vec<usize> = (0..columns.len()).filter(|index| known.contains(&columns[*index])).collect();
            if wanted.is_empty() {
                return Err(file_error(
                    path,
                    format!(
                        "none of the columns {} holds a record's field; name them in the recipe, as \
                         `fields: {{prompt: question, completion: answer}}`",
                        quoted(&columns)
                    ),
                ));
            }
            let mask = ProjectionMask::roots(metadata.parquet_schema(), wanted.iter().copied());
            let mut bytes = 0i64;
            let mut groups = Vec::new();
            for group in metadata.metadata().row_groups() {
                groups.push(usize::try_from(group.num_rows()).unwrap_or_default());
                let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
                bytes = columns.fold(bytes, |sum, (_, column)| sum.saturating_add(column.uncompressed_size().max(0)));
            }
            let rows = i64::try_from(groups.iter().sum::<usize>()).unwrap_or(i64::MAX).max(1);
            // A dictionary makes a column's pages far smaller than its values.
            let row_bytes = (bytes / rows).max(1).saturating_mul(2);
            Ok(Self {
                path: path.to_path_buf(),
                name,
                file,
                wanted,
                groups,
                batch_rows: usize::try_from((BATCH_BYTES / row_bytes).clamp(1, BATCH_ROWS)).unwrap_or(1),
                next_row: 0,
                reader: None,
                left: None,
                metadata,
            })
        })
    }

    /// Rows of the file.
    pub(crate) fn count(&self) -> usize {
        self.groups.iter().sum()
    }

    /// Leaves rows out, without reading them. Says how many there were.
    pub(crate) fn skip(&mut self, count: usize) -> usize {
        let skipped = count.min(self.count().saturating_sub(self.next_row));
        match &self.left {
            Some(left) if skipped < left.num_rows() => {
                self.left = Some(left.slice(skipped, left.num_rows() - skipped));
            }
            _ if skipped > 0 => {
                self.left = None;
                self.reader = None;
            }
            _ => {}
        }
        self.next_row += skipped;
        skipped
    }

    /// Up to `most` records; none at the end.
    pub(crate) fn next_batch(&mut self, most: usize) -> Result<Vec<ReadRecord>, DataError> {
        let path = self.path.clone();
        guarded(&path, || self.read(most))
    }

    fn read(&mut self, most: usize) -> Result<Vec<ReadRecord>, DataError> {
        let batch = match self.left.take() {
            Some(batch) => batch,
            None if self.next_row >= self.count() || most == 0 => return Ok(Vec::new()),
            None => {
                if self.reader.is_none() {
                    self.reader = Some(self.reader_from(self.next_row)?);
                }
                match self.reader.as_mut().and_then(Iterator::next) {
                    Some(batch) => batch.map_err(|error| damaged(&self.path, &error.to_string()))?,
                    None => return Err(damaged(&self.path, "rows are missing")),
                }
            }
        };
        let taken = batch.slice(0, batch.num_rows().min(most));
        if taken.num_rows() < batch.num_rows() {
            self.left = Some(batch.slice(taken.num_rows(), batch.num_rows() - taken.num_rows()));
        }
        let rows = match arrow_rows::rows(&taken) {
            Some(rows) => rows,
            None => written_rows(&taken, &self.path)?,
        };
        let first = self.next_row + 1;
        self.next_row += rows.len();
        Ok((first..)
            .zip(rows)
            .map(|(line, value)| Ok(RawRecord { value, source: RecordSource::new(Arc::clone(&self.name), line) }))
            .collect())
    }

    fn reader_from(&self, row: usize) -> Result<ParquetRecordBatchReader, DataError> {
        let mut before = 0;
        let mut group = 0;
        while group < self.groups.len() && before + self.groups[group] <= row {
            before += self.groups[group];
            group += 1;
        }
        let io = |source| DataError::Io { path: self.path.clone(), action: "read", source };
        let file = self.file.try_clone().map_err(io)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), self.wanted.iter().copied());
        builder
            .with_projection(mask)
            .with_batch_size(self.batch_rows)
            .with_row_groups((group..self.groups.len()).collect())
            .with_offset(row - before)
            .build()
            .map_err(|error| damaged(&self.path, &error.to_string()))
    }
}

/// Arrow's own JSON, read again: for types of columns that [`arrow_rows`] leaves out (dates, decimals).
fn written_rows(batch: &RecordBatch, path: &Path) -> Result<Vec<Map<String, Value>>, DataError> {
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    writer
        .write(batch)
        .and_then(|()| writer.finish())
        .map_err(|error| file_error(path, format!("a column is of a type that is not read: {error}")))?;
    let rows = serde_json::Deserializer::from_slice(&writer.into_inner())
        .into_iter::<Map<String, Value>>()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| damaged(path, &error.to_string()))?;
    if rows.len() != batch.num_rows() {
        return Err(damaged(path, "rows are missing"));
    }
    Ok(rows)
}

/// The decoders check most of what a hostile file can say, and panic at some of the rest.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged(path, "its contents contradict each other")))
}

fn damaged(path: &Path, reason: &str) -> DataError {
    if reason.contains("Disabled feature") {
        return file_error(
            path,
            format!(
                "compressed in a way that is not read here ({reason}); write it with snappy, zstd, gzip or lz4, or as \
                 JSON Lines"
            ),
        );
    }
    file_error(path, format!("not a readable Parquet file: {reason}; fetch it again"))
}
