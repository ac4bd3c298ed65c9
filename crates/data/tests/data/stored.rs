//! Tokenised examples in a file: the same as in memory, made again after being killed, never half there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rankine_data::{
    DatasetConfig, Example, Examples, Loader, LoaderConfig, Records, TextTokenizer, TokenizeConfig, TrainOn,
    read_dataset, tokenize, tokenize_stored,
};
use serde_json::{Value, json};

use crate::fixtures::{CHATML, json_lines, tokenizer, write};

const CONFIG: TokenizeConfig = TokenizeConfig { max_seq_len: 128, train_on: TrainOn::Assistant };

fn conversations(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| {
            json!({"messages": [
                {"role": "user", "content": format!("Question {n} {}", "why ".repeat(n % 9))},
                {"role": "assistant", "content": format!("Ans\u{20ac}wer {n} {}", "so ".repeat(n * 5 % 70))},
            ]})
        })
        .collect()
}

fn open(root: &Path) -> Vec<Records> {
    ["a.jsonl", "b"].iter().map(|path| Records::open(&DatasetConfig::new(*path), root).unwrap()).collect()
}

fn data(root: &Path) {
    write(root, "a.jsonl", &json_lines(&conversations(500)));
    write(root, "b/1.jsonl", &json_lines(&[json!({"prompt": "p", "completion": "c"})]));
    write(root, "b/2.jsonl", &json_lines(&[json!({"prompt": "p", "completion": "c ".repeat(200)})]));
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files.into_iter().map(|path: PathBuf| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_file_has_what_memory_has() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let cache = folder.path().join("cache");
    let tokenizer = tokenizer(CHATML);
    let read: Vec<_> =
        ["a.jsonl", "b"].iter().map(|path| read_dataset(&DatasetConfig::new(*path), folder.path()).unwrap()).collect();
    let memory = tokenize(&read, &tokenizer, &CONFIG, &|_, _| {}).unwrap();
    for cached in [false, true] {
        let (stored, found) = tokenize_stored(&cache, &open(folder.path()), &tokenizer, &CONFIG, &|_, _| {}).unwrap();
        assert_eq!((found, stored.report()), (cached, &memory.report));
        assert!(memory.report.truncated > 0);
        let examples: Vec<Example> = (0..stored.len()).map(|index| stored.get(index).unwrap()).collect();
        assert_eq!(examples, memory.examples);
        // And the same batches come of both.
        let config = LoaderConfig {
            micro_batch_size: 2,
            gradient_accumulation_steps: 3,
            max_seq_len: 128,
            packing: true,
            shuffle: true,
            seed: 1,
            pad_id: 0,
        };
        let weights = vec![0.5, 2.0];
        let mut from_file = Loader::new(Examples::from(stored), weights.clone(), config);
        let mut from_memory = Loader::new(memory.examples.clone(), weights, config);
        for _ in 0..from_memory.steps_in_epoch(0) + 3 {
            assert_eq!(from_file.next(), from_memory.next());
        }
    }
    assert_eq!(files(&cache).len(), 1);
}

#[test]
fn other_data_settings_and_templates_have_other_files() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let cache = folder.path().join("cache");
    let made = |tokenizer: &TextTokenizer, config: &TokenizeConfig| {
        tokenize_stored(&cache, &open(folder.path()), tokenizer, config, &|_, _| {}).unwrap().1
    };
    let plain = tokenizer(CHATML);
    assert!(!made(&plain, &CONFIG));
    assert!(!made(&plain, &TokenizeConfig { max_seq_len: 100, ..CONFIG }));
    assert!(!made(&tokenizer(&format!("{CHATML}{{# other #}}")), &CONFIG));
    write(folder.path(), "b/2.jsonl", &json_lines(&[json!({"prompt": "p", "completion": "d"})]));
    assert!(!made(&plain, &CONFIG), "the same names, other bytes");
    assert!(made(&plain, &CONFIG));
}

#[test]
fn damage_is_noticed_and_made_good() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let cache = folder.path().join("cache");
    let tokenizer = tokenizer(CHATML);
    let make = || tokenize_stored(&cache, &open(folder.path()), &tokenizer, &CONFIG, &|_, _| {}).unwrap().1;
    make();
    let (path, whole) = files(&cache).remove(0);
    for at in (0..whole.len()).step_by(whole.len() / 40).chain(whole.len() - 45..whole.len()) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        for bytes in [&damaged[..], &whole[..at]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(!make(), "byte {at}");
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }
}

#[test]
fn faults_are_all_named_and_nothing_is_left_under_a_final_name() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let lines = format!("{}{{\"messages\": 7}}\nnot json\n", json_lines(&conversations(3)));
    write(folder.path(), "a.jsonl", &lines);
    let cache = folder.path().join("cache");
    let error = tokenize_stored(&cache, &open(folder.path()), &tokenizer(CHATML), &CONFIG, &|_, _| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a.jsonl:4: `messages` is a number") && text.contains("a.jsonl:5: not valid JSON"), "{text}");
    assert!(files(&cache).iter().all(|(path, _)| path.extension().unwrap() == "part"));
}

/// This test's own process is started again as the one that is killed.
const CHILD: &str = "RANKINE_TEST_TOKENIZE_IN";

#[test]
fn a_pass_that_is_killed_and_started_again_ends_in_the_same_files() {
    if let Ok(root) = std::env::var(CHILD) {
        let root = PathBuf::from(root);
        tokenize_stored(&root.join("cache"), &open(&root), &tokenizer(CHATML), &CONFIG, &|_, _| {}).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    write(folder.path(), "a.jsonl", &json_lines(&conversations(30_000)));
    let (cache, reference) = (folder.path().join("cache"), folder.path().join("reference"));
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stored::a_pass_that_is_killed_and_started_again_ends_in_the_same_files"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    tokenize_stored(&reference, &open(folder.path()), &tokenizer(CHATML), &CONFIG, &|_, _| {}).unwrap();
    let mut killed = 0;
    for after in [20, 60, 120, 250, 400, 700] {
        let mut process = child();
        std::thread::sleep(Duration::from_millis(after));
        killed += usize::from(process.try_wait().unwrap().is_none());
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(files(&cache).len() <= 1, "a part, or the whole");
    }
    assert!(killed > 0);
    assert!(child().wait().unwrap().success());
    let strip = |folder: &Path| -> Vec<_> {
        files(folder).into_iter().map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes)).collect()
    };
    assert_eq!(strip(&cache), strip(&reference));
}
