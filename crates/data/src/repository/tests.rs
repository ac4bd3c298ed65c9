use super::*;
use crate::dataset::DatasetConfig;

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn files(names: &[&str], card: Option<&str>, name: Option<&str>, split: &str) -> Result<Vec<String>, String> {
    match repository_data(&owned(names), card, name, split)? {
        RepositoryData::Files(files) => Ok(files),
        RepositoryData::Converted => Ok(owned(&["(converted)"])),
    }
}

#[test]
fn a_card_says_where_each_split_of_each_config_is() {
    let card = "---
configs:
- config_name: default
  data_files:
  - split: train_sft
    path: data/train_sft-*
  - split: test_sft
    path: [data/test_sft-*, 'extra/{a,b}.parquet']
- config_name: small
  data_dir: small
  data_files: '*.jsonl'
- config_name: raw
  data_files: raw
- config_name: by-name
  data_dir: named
---
# A dataset
";
    let names = [
        "README.md",
        "data/train_sft-00001-of-00002.parquet",
        "data/train_sft-00000-of-00002.parquet",
        "data/test_sft-00000-of-00001.parquet",
        "data/train_gen-00000-of-00001.parquet",
        "extra/b.parquet",
        "extra/c.parquet",
        "small/x.jsonl",
        "small/deeper/y.jsonl",
        "x.jsonl",
        "raw/1.csv",
        "raw/deep/2.csv",
        "named/validation.jsonl",
        "named/train.jsonl",
    ];
    let train = ["data/train_sft-00000-of-00002.parquet", "data/train_sft-00001-of-00002.parquet"];
    let of = |name, split| files(&names, Some(card), name, split);
    assert_eq!(of(None, "train_sft").unwrap(), train);
    assert_eq!(of(Some("default"), "train_sft").unwrap(), train);
    assert_eq!(of(None, "test_sft").unwrap(), ["data/test_sft-00000-of-00001.parquet", "extra/b.parquet"]);
    assert_eq!(of(Some("small"), "train").unwrap(), ["small/x.jsonl"]);
    assert_eq!(of(Some("raw"), "train").unwrap(), ["raw/1.csv", "raw/deep/2.csv"]);
    assert_eq!(of(Some("by-name"), "val").unwrap(), ["named/validation.jsonl"]);
    let error = of(None, "train").unwrap_err();
    assert!(error.contains("no split `train`, but `train_sft`, `test_sft`"), "{error}");
    let error = of(Some("big"), "train").unwrap_err();
    assert!(error.contains("no config `big`, but `default`, `small`, `raw`, `by-name`"), "{error}");
}

#[test]
fn a_default_is_chosen_only_where_there_is_one() {
    let card = |flag: &str| {
        format!(
            "---\nconfigs:\n- config_name: en\n  data_files: en.csv\n- config_name: fr\n  data_files: fr.csv\n  {flag}\n---\n"
        )
    };
    let names = ["en.csv", "fr.csv"];
    assert_eq!(files(&names, Some(&card("default: true")), None, "train").unwrap(), ["fr.csv"]);
    let error = files(&names, Some(&card("")), None, "train").unwrap_err();
    assert!(error.contains("several configs; choose one: `name:` one of `en`, `fr`"), "{error}");
    let error = files(&["x.csv"], Some(&card("")), Some("en"), "train").unwrap_err();
    assert!(error.contains("`en.csv`, and no file fits that"), "{error}");
}

#[test]
fn names_say_the_split_in_the_order_of_datasets() {
    for (names, split, expected) in [
        // Shards under data/ go before anything else, and their splits are exact.
        (
            &["data/train-00000-of-00001.parquet", "data/test-00000-of-00001-0123456789abcdef.parquet", "train.csv"][..],
            "train",
            &["data/train-00000-of-00001.parquet"][..],
        ),
        (
            &["data/train-00000-of-00001.parquet", "data/test-00000-of-00001-0123456789abcdef.parquet", "train.csv"],
            "test",
            &["data/test-00000-of-00001-0123456789abcdef.parquet"],
        ),
        (
            &["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"],
            "train_gen",
            &["data/train_gen-00000-of-00001.parquet"],
        ),
        // Folders go before file names.
        (&["train/a.jsonl", "validation/train_part.jsonl", "b.jsonl"], "train", &["train/a.jsonl"]),
        (&["train/a.jsonl", "validation/train_part.jsonl", "b.jsonl"], "validation", &["validation/train_part.jsonl"]),
        (&["my_train-2.jsonl", "dev.jsonl", "eval.jsonl"], "train", &["my_train-2.jsonl"]),
        (&["my_train-2.jsonl", "dev.jsonl", "eval.jsonl"], "val", &["dev.jsonl"]),
        (&["my_train-2.jsonl", "dev.jsonl", "eval.jsonl"], "test", &["eval.jsonl"]),
        (&["train.jsonl", "eval.jsonl"], "validation", &["eval.jsonl"]),
        // Nothing says a split: all of it is the training part.
        (
            &["b/x.jsonl", "a.jsonl", "constraint.jsonl", "README.md", "dataset_infos.json"],
            "train",
            &["a.jsonl", "b/x.jsonl", "constraint.jsonl"],
        ),
        (&["README.md", "script.py", "archive.zip"], "train", &["(converted)"]),
        (&[], "train", &["(converted)"]),
    ] {
        assert_eq!(files(names, None, None, split).unwrap(), expected, "{names:?} {split}");
    }
    for (names, split, expected) in [
        (&["data/train_sft-00000-of-00001.parquet"][..], "train", "no split `train`, but `train_sft`"),
        (&["a.jsonl"], "test", "no file of the split `test` among `a.jsonl`"),
        (&["train.jsonl", "train.parquet"], "train", "several formats (JSON Lines, Parquet)"),
    ] {
        let error = files(names, None, None, split).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_config_without_a_card_is_a_folder_or_the_conversion() {
    let names = ["en/train.jsonl", "en/test.jsonl", "fr/train.jsonl"];
    assert_eq!(files(&names, None, Some("en"), "train").unwrap(), ["en/train.jsonl"]);
    assert_eq!(files(&names, None, Some("de"), "train").unwrap(), ["(converted)"]);
}

#[test]
fn the_converted_revision_is_read_by_config_and_split() {
    let names = [
        "main/train/0000.parquet",
        "main/train/0001.parquet",
        "main/train/10000.parquet",
        "main/partial-test/0000.parquet",
        "main/validation-part0/0000.parquet",
        "main/validation-part10/0000.parquet",
        "main/validation-part2/0000.parquet",
        "socratic/train/0000.parquet",
    ];
    let of = |name, split| files(&names, None, name, split);
    assert_eq!(of(Some("main"), "train").unwrap(), &names[..3]);
    assert_eq!(of(Some("main"), "test").unwrap(), &names[3..4]);
    assert_eq!(of(Some("main"), "validation").unwrap(), [names[4], names[6], names[5]]);
    assert_eq!(of(Some("socratic"), "train").unwrap(), &names[7..]);
    assert!(of(None, "train").unwrap_err().contains("one of `main`, `socratic`"));
    assert!(of(Some("x"), "train").unwrap_err().contains("no config `x`"));
    assert!(of(Some("socratic"), "test").unwrap_err().contains("no split `test`, but `train`"));
    assert_eq!(files(&["default/train/0000.parquet"], None, None, "train").unwrap(), ["default/train/0000.parquet"]);
    // Converted at its own revision: the main one has only a script.
    assert_eq!(
        files(&["gsm.py", "README.md"], Some("---\nlicense: mit\n---\n"), Some("main"), "train").unwrap(),
        ["(converted)"]
    );
}

#[test]
fn words_stand_apart() {
    for (name, yes) in [
        ("train.jsonl", true),
        ("my_train-2.jsonl", true),
        ("train_sft-00000.parquet", true),
        ("constraint.jsonl", false),
        ("trainer.jsonl", false),
    ] {
        assert_eq!(is_word_of("train", name), yes, "{name}");
    }
}

#[test]
fn a_sum_of_splits_has_the_files_of_each_once() {
    let names = owned(&["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "README.md"]);
    let of = |split: &str| {
        let config = DatasetConfig { split: Some(split.to_owned()), ..DatasetConfig::new("org/data") };
        config.repository_files(&names, None)
    };
    let all = RepositoryData::Files(owned(&["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]));
    assert_eq!(of("train[:10%]+test+train[-10%:]").unwrap(), all);
    assert_eq!(of("test[3:]").unwrap(), RepositoryData::Files(owned(&["data/test-00000-of-00001.parquet"])));
    assert!(of("train[").unwrap_err().contains("expected a name"));
}
