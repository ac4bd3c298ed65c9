//! Reads, tokenises and packs a dataset, and says how fast and with how much memory, as one line of JSON.
//!
//! ```sh
//! cargo run -p rankine-data --example tokenize -- read DATA
//! cargo run -p rankine-data --example tokenize -- tokenize DATA TOKENIZER_FOLDER CACHE_FOLDER
//! ```
//! `read` gives every record once and keeps none. `tokenize` is what a training does before its first step: tokens
//! and labels into a file, and every packed batch of an epoch from there.

#![allow(clippy::print_stdout, reason = "what it is for")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use rankine_data::{
    Content, DatasetConfig, Loader, LoaderConfig, Records, TextTokenizer, TokenizeConfig, TrainOn, tokenize_stored,
};

const MAX_SEQ_LEN: usize = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["read", data] => read(data),
        ["tokenize", data, tokenizer, cache] => tokenize(data, Path::new(tokenizer), Path::new(cache)),
        _ => Err("expected `read DATA` or `tokenize DATA TOKENIZER_FOLDER CACHE_FOLDER`".into()),
    }
}

fn read(data: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let records = Records::open(&DatasetConfig::new(data), Path::new("."))?;
    let (mut rows, mut turns) = (0, 0);
    let mut reader = records.read();
    while let Some(batch) = reader.next_batch(usize::MAX)? {
        for record in batch {
            let record = record.map_err(|fault| fault.to_string())?;
            rows += 1;
            turns += match record.content {
                Content::Chat { messages, .. } => messages.len(),
                Content::PromptCompletion { .. } | Content::Text(_) => 1,
            };
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"rows\": {rows}, \"turns\": {turns}, \"seconds\": {seconds:.2}, \"rows_per_second\": {:.0}, \"peak_mib\": {}}}",
        rows as f64 / seconds,
        peak_mib()
    );
    Ok(())
}

fn tokenize(data: &str, tokenizer: &Path, cache: &Path) -> Result<(), Box<dyn Error>> {
    let tokenizer = TextTokenizer::from_folder(tokenizer, None)?;
    // As in a training script, loading the tokenizer is no part of preparing the data.
    let start = Instant::now();
    let records = Records::open(&DatasetConfig::new(data), Path::new("."))?;
    let config = TokenizeConfig { max_seq_len: MAX_SEQ_LEN, train_on: TrainOn::Assistant };
    let (stored, cached) = tokenize_stored(cache, &[records], &tokenizer, &config, &|_, _| {})?;
    let tokenized = start.elapsed().as_secs_f64();
    let report = stored.report().clone();
    let mut loader = Loader::new(
        stored,
        vec![1.0],
        LoaderConfig {
            micro_batch_size: 8,
            gradient_accumulation_steps: 8,
            max_seq_len: MAX_SEQ_LEN,
            packing: true,
            shuffle: true,
            seed: 42,
            pad_id: tokenizer.pad_id().unwrap_or_default(),
        },
    );
    let (mut rows, mut trained) = (0, 0);
    while loader.cursor().epoch == 0 {
        let batch = loader.next();
        if let Some(fault) = loader.take_fault() {
            return Err(fault.into());
        }
        rows += batch.micro_batches.iter().map(|batch| batch.rows).sum::<usize>();
        trained += batch.trained_tokens;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"records\": {}, \"cut\": {}, \"dropped\": {}, \"shared_with_header\": {}, \"tokens\": {}, \
         \"trained_tokens\": {trained}, \"packed_rows\": {rows}, \"cached\": {cached}, \
         \"tokenize_seconds\": {tokenized:.3}, \"seconds\": {seconds:.3}, \"records_per_second\": {:.0}, \"peak_mib\": {}}}",
        report.records,
        report.truncated,
        report.dropped,
        report.boundary_merges,
        report.tokens,
        report.records as f64 / seconds,
        peak_mib()
    );
    Ok(())
}

/// The most memory that the process had, where the system says so.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
}
