//! Tokenised records on disk, so that a second run starts at once.
//!
//! One file for each key, and the key is a hash of everything that decides the tokens: the records, the
//! tokenizer with its template and the settings. So a file is never out of date, and whole or ignored:
//! it is written aside and renamed, and carries its own hash.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::example::{Example, IGNORED, TokenizeConfig, TokenizeReport, Tokenized, tokenize_leniently};
use crate::record::{Dataset, RecordSource};
use crate::remark::Remark;
use crate::tokenizer::{TextTokenizer, hex};

/// Goes up whenever the same input gives other tokens or the file another form.
const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"rkntoken";

/// As [`tokenize`](crate::tokenize), but what an earlier run has tokenised is read from `cache_dir`. Says whether
/// it was. What the checks of [`proof`](crate::proof) refuse is only remarked on: records whose answers cannot be
/// told from their prompts, and nothing left to train on.
///
/// # Errors
/// A conversation that the chat template refuses, by file and line, or a cache folder that cannot be written.
pub fn tokenize_cached(
    cache_dir: &Path,
    datasets: &[Dataset],
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(Tokenized, bool), DataError> {
    let key = key(datasets, tokenizer, config);
    let path = cache_dir.join(format!("{}.tokens", hex(&key[..16])));
    if let Some(tokenized) = std::fs::read(&path).ok().and_then(|bytes| unpack(&bytes, &key)) {
        progress(tokenized.report.records, tokenized.report.records);
        return Ok((tokenized, true));
    }
    let tokenized = tokenize_leniently(datasets, tokenizer, config, progress)?;
    write_aside(cache_dir, &path, &pack(&tokenized, &key))?;
    Ok((tokenized, false))
}

fn key(datasets: &[Dataset], tokenizer: &TextTokenizer, config: &TokenizeConfig) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(VERSION.to_le_bytes());
    hash.update(tokenizer.fingerprint());
    hash.update(format!("{config:?}"));
    for dataset in datasets {
        hash.update((dataset.records.len() as u64).to_le_bytes());
        // Blocks are hashed on all cores; their size is part of the key and must not change alone.
        let blocks: Vec<[u8; 32]> = dataset
            .records
            .par_chunks(1024)
            .map(|records| {
                let mut block = Sha256::new();
                for record in records {
                    // A record is made of JSON values and cannot fail to be JSON.
                    let bytes = serde_json::to_vec(record).unwrap_or_default();
                    block.update((bytes.len() as u64).to_le_bytes());
                    block.update(&bytes);
                }
                block.finalize().into()
            })
            .collect();
        for block in blocks {
            hash.update(block);
        }
    }
    // Templates that print the day give other tokens on another one.
    for template in [tokenizer.chat_template(), tokenizer.tool_template()].into_iter().flatten() {
        hash.update(template.time().to_le_bytes());
    }
    hash.finalize().into()
}

fn write_aside(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let io = |path: &Path| {
        let path: PathBuf = path.to_path_buf();
        move |source| DataError::Io { path, action: "write the token cache", source }
    };
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io(folder))?;
    file.write_all(bytes).map_err(io(path))?;
    file.as_file().sync_all().map_err(io(path))?;
    file.persist(path).map_err(|error| io(path)(error.error))?;
    Ok(())
}

/// Magic, key, hash of the rest; then, compressed: the report, the files' names, and for each example its
/// numbers, its ids and one bit a token for what is trained; and the remarks.
fn pack(tokenized: &Tokenized, key: &[u8; 32]) -> Vec<u8> {
    let mut body = Writer::default();
    let report = serde_json::to_vec(&tokenized.report).unwrap_or_default();
    body.bytes(&report);
    let examples = tokenized.examples.iter().map(|example| &example.source.file);
    let mut files: Vec<&Arc<str>> =
        examples.chain(tokenized.remarks.iter().map(|remark| &remark.source.file)).collect();
    files.sort();
    files.dedup();
    body.number(files.len());
    for file in &files {
        body.bytes(file.as_bytes());
    }
    body.number(tokenized.examples.len());
    for example in &tokenized.examples {
        body.number(files.binary_search(&&example.source.file).unwrap_or_default());
        body.number(example.source.line);
        body.number(example.dataset as usize);
        body.number(example.completion_start.map_or(0, |start| start + 1));
        body.number(example.input_ids.len());
        for id in &example.input_ids {
            body.0.extend(id.to_le_bytes());
        }
        for labels in example.labels.chunks(8) {
            let bits =
                labels.iter().enumerate().fold(0u8, |bits, (bit, label)| bits | (u8::from(*label != IGNORED) << bit));
            body.0.push(bits);
        }
    }
    body.number(tokenized.remarks.len());
    for remark in &tokenized.remarks {
        body.number(files.binary_search(&&remark.source.file).unwrap_or_default());
        body.number(remark.source.line);
        body.number(remark.dataset as usize);
        body.bytes(&serde_json::to_vec(&remark.kind).unwrap_or_default());
    }
    // In memory there is nothing that could fail; uncompressed would be as good.
    let body = zstd::bulk::compress(&body.0, 1).unwrap_or_default();
    let mut file = Vec::with_capacity(body.len() + 80);
    file.extend(MAGIC);
    file.extend(key);
    file.extend(Sha256::digest(&body));
    file.extend(body);
    file
}

/// The examples of a file, or nothing if it is damaged or another's.
fn unpack(file: &[u8], key: &[u8; 32]) -> Option<Tokenized> {
    let rest = file.strip_prefix(MAGIC)?.strip_prefix(key)?;
    let (hash, body) = rest.split_at_checked(32)?;
    if Sha256::digest(body).as_slice() != hash {
        return None;
    }
    let body = zstd::stream::decode_all(body).ok()?;
    let mut reader = Reader(&body);
    let report: TokenizeReport = serde_json::from_slice(reader.bytes()?).ok()?;
    let files = (0..reader.number()?)
        .map(|_| Some(Arc::from(std::str::from_utf8(reader.bytes()?).ok()?)))
        .collect::<Option<Vec<Arc<str>>>>()?;
    let examples = (0..reader.number()?).map(|_| reader.example(&files)).collect::<Option<Vec<_>>>()?;
    let remarks = (0..reader.number()?).map(|_| reader.remark(&files)).collect::<Option<Vec<_>>>()?;
    (reader.0.is_empty() && examples.len() == report.examples).then_some(Tokenized { examples, report, remarks })
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: usize) {
        self.0.extend((number as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend(bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.take(8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?;
        self.take(count)
    }

    fn source(&mut self, files: &[Arc<str>]) -> Option<RecordSource> {
        let file = Arc::clone(files.get(self.number()?)?);
        Some(RecordSource { file, line: self.number()? })
    }

    fn remark(&mut self, files: &[Arc<str>]) -> Option<Remark> {
        let source = self.source(files)?;
        let dataset = u32::try_from(self.number()?).ok()?;
        Some(Remark { source, dataset, kind: serde_json::from_slice(self.bytes()?).ok()? })
    }

    fn example(&mut self, files: &[Arc<str>]) -> Option<Example> {
        let source = self.source(files)?;
        let dataset = u32::try_from(self.number()?).ok()?;
        let completion_start = self.number()?.checked_sub(1);
        let count = self.number()?;
        let input_ids: Vec<u32> = self
            .take(count.checked_mul(4)?)?
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        let bits = self.take(count.div_ceil(8))?;
        let labels = input_ids
            .iter()
            .enumerate()
            .map(|(index, id)| if bits[index / 8] >> (index % 8) & 1 == 1 { i64::from(*id) } else { IGNORED })
            .collect();
        Some(Example { input_ids, labels, completion_start, source, dataset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::{Part, PartTokens};
    use crate::remark::RemarkKind;

    fn tokenized() -> Tokenized {
        let examples: Vec<Example> = (0..20usize)
            .map(|index| {
                let input_ids: Vec<u32> = (0..index as u32 * 3 + 1).map(|id| id * 7919).collect();
                let labels = input_ids
                    .iter()
                    .enumerate()
                    .map(|(at, id)| if at % 3 == 1 { i64::from(*id) } else { IGNORED })
                    .collect();
                Example {
                    input_ids,
                    labels,
                    completion_start: (index % 2 == 0).then_some(index),
                    source: RecordSource::new(if index < 10 { "b.jsonl" } else { "a.jsonl" }, index + 1),
                    dataset: (index % 3) as u32,
                }
            })
            .collect();
        let mut report =
            TokenizeReport { examples: examples.len(), records: 25, longest: 58, ..TokenizeReport::default() };
        report.parts.insert(Part::OtherRole, PartTokens { tokens: 9, trained: 4 });
        let kinds = [
            RemarkKind::NothingTrained,
            RemarkKind::AnswerCut { tokens: 70, lost: 12 },
            RemarkKind::NotPrefixStable("they part\nhere".to_owned()),
            RemarkKind::SpecialToken { message: 2, role: "user".to_owned(), token: "</s>".to_owned() },
        ];
        let remark = |(line, kind)| Remark { source: RecordSource::new("c.jsonl", line), dataset: 1, kind };
        Tokenized { report, examples, remarks: (21..).zip(kinds).map(remark).collect() }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let key = [7; 32];
        let file = pack(&tokenized(), &key);
        assert_eq!(unpack(&file, &key), Some(tokenized()));
        assert_eq!(unpack(&file, &[8; 32]), None);
    }

    #[test]
    fn any_damage_is_noticed() {
        let key = [7; 32];
        let file = pack(&tokenized(), &key);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert_eq!(unpack(&damaged, &key), None, "byte {at}");
            assert_eq!(unpack(&file[..at], &key), None, "cut at {at}");
        }
        assert_eq!(unpack(&[], &key), None);
    }
}
