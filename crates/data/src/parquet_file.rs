//! Parquet, nested columns included, by way of the same JSON that the other formats give.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::dataset::quoted;
use crate::error::DataError;
use crate::reader::{RawRecord, ReadRecord, file_error};
use crate::record::RecordSource;

/// Reads up to `limit` rows of the columns that a record may have.
///
/// Nulls are left out: Arrow gives every message of a list the same fields, and a template that asks
/// `if 'tool_calls' in message` must not see those that were never written.
pub(crate) fn read(path: &Path, name: &Arc<str>, known: &[&str], limit: usize) -> Result<Vec<ReadRecord>, DataError> {
    let file = File::open(path).map_err(|source| DataError::Io { path: path.to_path_buf(), action: "read", source })?;
    // The decoders check most of what a hostile file can say, and panic at some of the rest.
    catch_unwind(AssertUnwindSafe(|| rows(path, file, name, known, limit)))
        .unwrap_or_else(|_| Err(damaged(path, "its contents contradict each other")))
}

fn rows(path: &Path, file: File, name: &Arc<str>, known: &[&str], limit: usize) -> Result<Vec<ReadRecord>, DataError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(path, &error.to_string()))?;
    let columns: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let wanted: Vec<usize> = (0..columns.len()).filter(|index| known.contains(&columns[*index].as_str())).collect();
    if wanted.is_empty() {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        return Err(file_error(
            path,
            format!(
                "none of the columns {} holds a record's field; name them in the recipe, as \
                 `fields: {{prompt: question, completion: answer}}`",
                quoted(&columns)
            ),
        ));
    }
    // Columns that no record has (images, embeddings) are not decoded at all.
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let reader =
        builder.with_projection(mask).with_limit(limit).build().map_err(|error| damaged(path, &error.to_string()))?;
    let mut records = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(path, &error.to_string()))?;
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        writer
            .write(&batch)
            .and_then(|()| writer.finish())
            .map_err(|error| file_error(path, format!("a column is of a type that is not read: {error}")))?;
        let mut found = 0;
        for value in serde_json::Deserializer::from_slice(&writer.into_inner()).into_iter::<Map<String, Value>>() {
            let value = value.map_err(|error| damaged(path, &error.to_string()))?;
            found += 1;
            let source = RecordSource::new(Arc::clone(name), records.len() + 1);
            records.push(Ok(RawRecord { value, source }));
        }
        if found != batch.num_rows() {
            return Err(damaged(path, "rows are missing"));
        }
    }
    Ok(records)
}

fn damaged(path: &Path, reason: &str) -> DataError {
    if reason.contains("Disabled feature") {
        return file_error(
            path,
            format!(
                "compressed in a way that is not read here ({reason}); write it with snappy or zstd, or as JSON Lines"
            ),
        );
    }
    file_error(path, format!("not a readable Parquet file: {reason}; fetch it again"))
}
