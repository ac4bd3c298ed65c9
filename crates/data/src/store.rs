//! Tokenised examples on disk, made and read without ever being in memory together, so that a second run starts at
//! once and data may be larger than memory.
//!
//! One file for each key, and the key is a hash of everything that decides the tokens: the bytes of the data
//! files, which of their records are read, the tokenizer with its template and the settings. So a file is never
//! out of date. It is written under another name and renamed when it is whole, so a pass that was killed leaves
//! nothing but a part that the next one begins anew; and it carries its own hash, so damage is noticed.

mod file;

use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::dataset::RecordType;
use crate::error::DataError;
use crate::example::{Gathering, TokenizeConfig, TokenizeReport, Tokenized, check_template};
use crate::records::Records;
use crate::tokenizer::{TextTokenizer, hex};
pub use file::StoredExamples;
pub(crate) use file::Window;
use file::{Writer, hashed};

/// Goes up whenever the same input gives other tokens or the file another form.
const VERSION: u32 = 2;

/// Tokenises datasets into a file of `cache_dir`, or finds the file there; says whether it was there. Of the
/// records no more than a few thousand are in memory at a time.
///
/// What the checks of [`proof`](crate::proof) refuse is only remarked on: records whose answers cannot be told from
/// their prompts, and nothing left to train on.
///
/// # Errors
/// A file that cannot be read, every record that cannot be used, by file and line, or a cache folder that cannot be
/// written.
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
        progress(stored.report().records, stored.report().records);
        return Ok((stored, true));
    }
    let mut writer = Writer::create(cache_dir, &path, &key)?;
    let (report, records) = pass(datasets, tokenizer, config, progress, &mut |made| {
        made.remarks.into_iter().for_each(|remark| writer.remark(remark));
        made.examples.iter().try_for_each(|example| writer.example(example))
    })?;
    writer.finish(report, records)?;
    let stored = StoredExamples::open(&path, &key).ok_or_else(|| DataError::Io {
        path,
        action: "read the token cache",
        source: std::io::Error::other("it is not what was written"),
    })?;
    Ok((stored, false))
}

/// As [`tokenize_stored`], into memory; and how many records each dataset has.
///
/// # Errors
/// As [`tokenize_stored`], but for its cache.
pub fn tokenize_records(
    datasets: &[Records],
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(Tokenized, Vec<usize>), DataError> {
    let mut all = Tokenized::default();
    let (report, records) = pass(datasets, tokenizer, config, progress, &mut |made| {
        all.examples.extend(made.examples);
        all.remarks.extend(made.remarks);
        Ok(())
    })?;
    Ok((Tokenized { report, ..all }, records))
}

/// Whether records of this type may be rendered by the chat template.
pub(crate) fn is_rendered(record_type: RecordType) -> bool {
    !matches!(record_type, RecordType::Text | RecordType::PromptCompletion)
}

/// One pass over the datasets, handed on batch by batch: what was found, and the records of each.
fn pass(
    datasets: &[Records],
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
    take: &mut dyn FnMut(Tokenized) -> Result<(), DataError>,
) -> Result<(TokenizeReport, Vec<usize>), DataError> {
    if datasets.iter().any(|records| is_rendered(records.record_type())) {
        check_template(tokenizer)?;
    }
    let mut total = 0;
    for records in datasets {
        total += records.estimate()?;
    }
    let mut gathering = Gathering::new(*config);
    let (mut done, mut counts) = (0, Vec::new());
    for (dataset, records) in (0u32..).zip(datasets) {
        let mut reader = records.read();
        let mut count = 0;
        while let Some(batch) = reader.next_batch(usize::MAX)? {
            let read = batch.len();
            take(gathering.add_batch(batch, (dataset, count), tokenizer))?;
            (done, count) = (done + read, count + read);
            progress(done, total.max(done));
        }
        counts.push(count);
    }
    progress(done, done);
    Ok((gathering.finish()?, counts))
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
