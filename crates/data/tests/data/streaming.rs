//! Datasets that are trained on while they are read: every record once an epoch, resumed as not interrupted.

use std::collections::BTreeMap;
use std::path::Path;

use rankine_data::proof::{Check, HeldOut, ProofConfig};
use rankine_data::{
    Cursor, DatasetConfig, Examples, GlobalBatch, Loader, LoaderConfig, Records, StreamSource, TokenizeConfig, TrainOn,
    tokenize_records,
};
use serde_json::{Value, json};

use crate::fixtures::{CHATML, json_lines, tokenizer, write};

fn records(prefix: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"text": format!("{prefix} {n} {}", "word ".repeat(n * 7 % 23))})).collect()
}

fn config(packing: bool, shuffle: bool) -> LoaderConfig {
    LoaderConfig {
        micro_batch_size: 3,
        gradient_accumulation_steps: 2,
        max_seq_len: 64,
        packing,
        shuffle,
        seed: 5,
        pad_id: 0,
    }
}

fn loader(root: &Path, paths: &[&str], buffer: usize, config: LoaderConfig) -> Loader {
    checked(root, paths, buffer, config, &[], HeldOut::default())
}

fn checked(
    root: &Path,
    paths: &[&str],
    buffer: usize,
    config: LoaderConfig,
    waive: &[Check],
    held_out: HeldOut,
) -> Loader {
    let datasets = paths.iter().map(|path| Records::open(&DatasetConfig::new(*path), root).unwrap()).collect();
    let source = StreamSource {
        datasets,
        tokenizer: tokenizer(CHATML),
        tokenize: TokenizeConfig { max_seq_len: 64, train_on: TrainOn::Assistant },
        shuffle_buffer: buffer,
        first: Examples::default(),
        checks: ProofConfig {
            max_seq_len: 64,
            train_on: TrainOn::Assistant,
            max_truncated_share: 1.0,
            waive: waive.to_vec(),
        },
        held_out,
    };
    Loader::streaming(source, config).unwrap()
}

fn next(loader: &mut Loader) -> GlobalBatch {
    let batch = loader.next();
    assert!(loader.take_fault().is_none());
    batch
}

fn sources(batches: &[GlobalBatch]) -> Vec<String> {
    batches
        .iter()
        .flat_map(|batch| &batch.micro_batches)
        .flat_map(|batch| &batch.sources)
        .map(ToString::to_string)
        .collect()
}

fn epoch(loader: &mut Loader) -> Vec<GlobalBatch> {
    let number = loader.cursor().epoch;
    let mut batches = Vec::new();
    while loader.cursor().epoch == number {
        batches.push(next(loader));
    }
    batches
}

#[test]
fn an_epoch_has_every_record_once_in_full_batches() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a/1.jsonl", &json_lines(&records("a", 61)));
    write(folder.path(), "a/2.jsonl", &json_lines(&records("b", 40)));
    write(folder.path(), "c.jsonl", &json_lines(&records("c", 33)));
    let mut expected: Vec<String> = [("a/1.jsonl", 61), ("a/2.jsonl", 40), ("c.jsonl", 33)]
        .iter()
        .flat_map(|(name, count)| (1..=*count).map(move |line| format!("{name}:{line}")))
        .collect();
    expected.sort();
    for buffer in [1, 10, 50, 1000] {
        for (packing, shuffle) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut loader = loader(folder.path(), &["a", "c.jsonl"], buffer, config(packing, shuffle));
            let (first, second) = (epoch(&mut loader), epoch(&mut loader));
            for batches in [&first, &second] {
                let mut found = sources(batches);
                found.sort();
                assert_eq!(found, expected, "buffer {buffer}, packing {packing}, shuffle {shuffle}");
                let rows = |batch: &GlobalBatch| batch.micro_batches.iter().map(|batch| batch.rows).sum::<usize>();
                assert!(batches[..batches.len() - 1].iter().all(|batch| rows(batch) == 6), "only the last is smaller");
            }
            assert_eq!(first.last().unwrap().epoch_fraction, 1.0);
            assert_eq!(second.last().unwrap().epoch_fraction, 2.0);
            assert!(first.windows(2).all(|pair| pair[0].epoch_fraction <= pair[1].epoch_fraction));
            assert_eq!(sources(&first) == sources(&second), !shuffle, "another order each epoch");
        }
    }
}

#[test]
fn without_shuffling_one_dataset_comes_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.jsonl", &json_lines(&records("a", 20)));
    let mut loader = loader(folder.path(), &["a.jsonl"], 7, config(false, false));
    let expected: Vec<String> = (1..=20).map(|line| format!("a.jsonl:{line}")).collect();
    assert_eq!(sources(&epoch(&mut loader)), expected);
    assert_eq!(loader.cursor(), Cursor { epoch: 1, ..Cursor::default() });
}

#[test]
fn a_resumed_stream_goes_on_as_if_it_had_not_been_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a/1.jsonl", &json_lines(&records("a", 61)));
    write(folder.path(), "a/2.jsonl", &json_lines(&records("b", 40)));
    write(
        folder.path(),
        "c.csv",
        &records("c", 33)
            .iter()
            .fold("text\n".to_owned(), |text, record| format!("{text}{}\n", record["text"].as_str().unwrap())),
    );
    for packing in [false, true] {
        let make = || loader(folder.path(), &["a", "c.csv"], 25, config(packing, true));
        let mut whole = make();
        let (mut cursors, mut batches) = (Vec::new(), Vec::new());
        while whole.cursor().epoch < 2 {
            cursors.push(whole.cursor());
            batches.push(next(&mut whole));
        }
        for at in 0..cursors.len() {
            let stored = serde_json::to_string(&cursors[at]).unwrap();
            let mut resumed = make();
            resumed.seek(serde_json::from_str(&stored).unwrap());
            for (offset, expected) in batches[at..].iter().take(4).enumerate() {
                assert_eq!(&next(&mut resumed), expected, "packing {packing}, batch {at} + {offset}");
            }
        }
        whole.seek(cursors[1]);
        assert_eq!(next(&mut whole), batches[1], "also after having been somewhere else");
    }
}

#[test]
fn datasets_are_mixed_by_their_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let even = |prefix: &str, count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"text": format!("{prefix} {n:05}")})).collect()
    };
    write(folder.path(), "a.jsonl", &json_lines(&even("a", 300)));
    write(folder.path(), "b.jsonl", &json_lines(&even("b", 100)));
    let mut loader = loader(folder.path(), &["a.jsonl", "b.jsonl"], 40, config(false, true));
    let order = sources(&epoch(&mut loader));
    for block in order.chunks(40) {
        let of_b = block.iter().filter(|source| source.starts_with('b')).count();
        assert_eq!(of_b, 10, "a quarter of each block");
    }
}

#[test]
fn a_record_that_cannot_be_used_stops_the_stream_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = json_lines(&records("a", 30));
    lines.push_str("{\"text\": 7}\n");
    write(folder.path(), "a.jsonl", &lines);
    let mut loader = loader(folder.path(), &["a.jsonl"], 10, config(false, false));
    let mut given = BTreeMap::new();
    let fault = loop {
        let batch = loader.next();
        if let Some(fault) = loader.take_fault() {
            assert!(batch.micro_batches.is_empty());
            break fault.to_string();
        }
        given.insert(sources(&[batch]), ());
    };
    assert!(!given.is_empty(), "what comes before is trained on");
    assert!(fault.contains("a.jsonl:31: `text` is a number"), "{fault}");
}

/// Batches until one cannot be made, and why.
fn until_fault(loader: &mut Loader) -> (usize, String) {
    for given in 0..1000 {
        loader.next();
        if let Some(fault) = loader.take_fault() {
            return (given, fault.to_string());
        }
    }
    panic!("nothing stopped it")
}

#[test]
fn each_block_is_checked_before_it_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let chat = |n: usize, question: &str| {
        json!({"messages": [
            {"role": "user", "content": format!("{n} {question}")},
            {"role": "assistant", "content": format!("Yes {n}")},
        ]})
    };
    let mut chats: Vec<Value> = (0..30).map(|n| chat(n, "really?")).collect();
    chats[24] = chat(24, "a turn ends with <|im_end|>, does it?");
    write(folder.path(), "a.jsonl", &json_lines(&chats));
    write(folder.path(), "v.jsonl", &json_lines(&chats[13..14]));
    let make =
        |waive: &[Check], held_out| checked(folder.path(), &["a.jsonl"], 6, config(false, false), waive, held_out);
    // Blocks of six records: the record 25 is in the fifth.
    let (given, fault) = until_fault(&mut make(&[], HeldOut::default()));
    assert_eq!(given, 4);
    assert!(fault.contains("special-tokens-in-content: 1 of 6 records"), "{fault}");
    assert!(fault.contains("a.jsonl:25: message 0 (user) spells `<|im_end|>`"), "{fault}");
    assert!(fault.contains("waive: [special-tokens-in-content]"), "{fault}");
    assert_eq!(epoch(&mut make(&[Check::SpecialTokensInContent], HeldOut::default())).len(), 5);

    let validation = [Records::open(&DatasetConfig::new("v.jsonl"), folder.path()).unwrap()];
    let tokenize = TokenizeConfig { max_seq_len: 64, train_on: TrainOn::Assistant };
    let (held_out, _) = tokenize_records(&validation, &tokenizer(CHATML), &tokenize, &|_, _| {}).unwrap();
    let held_out = HeldOut::of(&held_out.examples.into()).unwrap();
    let (given, fault) = until_fault(&mut make(&[], held_out));
    assert_eq!(given, 2);
    assert!(fault.contains("v.jsonl:1: the same tokens as a.jsonl:14, which is trained on"), "{fault}");
}
