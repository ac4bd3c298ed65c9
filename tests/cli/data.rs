//! `rankine data`: what it tells, what it refuses, and that a training refuses the same.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::{Run, command, folder, rankine};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

const RECIPE: &str = "base_model: model\ndatasets:\n  - path: train.jsonl\nval_datasets:\n  - path: val.jsonl\n\
                      max_steps: 1\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\n";

fn chat(user: &str, answer: &str) -> String {
    format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{user}\"}}, {{\"role\": \"assistant\", \"content\": \
         \"{answer}\"}}]}}\n"
    )
}

/// A folder with an untrained model, data and a recipe.
fn workshop(train: &str, val: &str) -> tempfile::TempDir {
    let folder = folder(&[("config.json", CONFIG), ("train.jsonl", train), ("val.jsonl", val), ("r.yaml", RECIPE)]);
    let init = ["init", "config.json", "--out", "model", "--train-tokenizer", "train.jsonl"];
    rankine(folder.path(), &init).ends(0);
    folder
}

fn faulty() -> tempfile::TempDir {
    let train = [
        chat("a", "fine"),
        chat("b<|im_end|>", "fine"),
        chat("c", "held out as well"),
        "{\"messages\": [{\"role\": \"user\", \"content\": \"never answered\"}]}\n".to_owned(),
    ];
    workshop(&train.concat(), &chat("c", "held out as well"))
}

fn run(folder: &Path, arguments: &[&str]) -> Run {
    rankine(folder, arguments)
}

#[test]
fn a_report_shows_every_token_with_a_plain_mark() {
    let folder = workshop(&(chat("a", "fine") + &chat("a", "other")), &chat("b", "fine"));
    // A base whose stop tokens do not have the end of a turn.
    std::fs::write(folder.path().join("model/generation_config.json"), r#"{"eos_token_id": 0}"#).expect("a file");
    let found = run(folder.path(), &["data", "r.yaml", "--records", "1"]);
    found.ends(0);
    for words in [
        "train.jsonl: 2 records, chat (detected)",
        "held out    1 example,",
        "note        2 examples end in `<|im_end|>`, and a generation stops at `<|endoftext|>`: add it to `eos_token_id`",
        "2 examples share their prompt with another that has a different answer",
        "assistant",
        "ok     nothing-trained             every record has a token to train on",
        "record 1 (train.jsonl:1): ",
        "  - <|im_start|>│",
        "│<|im_end|>\n  - ⏎\n",
    ] {
        assert!(found.stdout.contains(words), "`{words}` is not in:\n{}", found.stdout);
    }
    assert!(!found.stdout.contains('\u{1b}'), "colours where nobody sees them");
    let trained: String = found.stdout.lines().filter_map(|line| line.strip_prefix("  + ")).collect();
    assert_eq!(trained.replace('│', ""), "fine<|im_end|>");

    // One token a line, each with its id, for a record that is asked for.
    let table = run(folder.path(), &["data", "r.yaml", "--record", "2"]);
    assert!(table.ends(0).stdout.contains("record 2 (train.jsonl:2)"), "{}", table.stdout);
    let tokens: Vec<&str> = table.stdout.lines().filter(|line| line.starts_with("  +  ")).collect();
    assert!(tokens.iter().all(|line| line.contains("  assistant  ")) && tokens.len() >= 2, "{}", table.stdout);
    run(folder.path(), &["data", "r.yaml", "--record", "3"]).ends(2).says("there is no record 3");
}

#[test]
fn json_and_html_tell_the_same() {
    let folder = faulty();
    let found = run(folder.path(), &["data", "r.yaml", "--json", "--html", "report.html"]);
    found.ends(2);
    let json: serde_json::Value = serde_json::from_str(&found.stdout).expect("JSON");
    let failed: Vec<&str> = json["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|finding| finding["failed"] == true)
        .filter_map(|finding| finding["check"].as_str())
        .collect();
    assert_eq!(failed, ["nothing-trained", "validation-in-training", "special-tokens-in-content"]);
    assert_eq!(json["findings"][0]["first"][0]["source"]["line"], 4);
    assert_eq!((&json["train"]["examples"], &json["validation"]["examples"]), (&3.into(), &1.into()));
    let tokens = json["records"][0]["examples"][0]["tokens"].as_array().expect("tokens");
    assert_eq!(
        tokens.iter().map(|token| token["text"].as_str().expect("a text")).collect::<String>().lines().last(),
        Some("fine<|im_end|>")
    );

    let page = std::fs::read_to_string(folder.path().join("report.html")).expect("a page");
    assert!(page.contains("prefers-color-scheme: dark") && !page.contains("http"), "a page that needs nothing else");
    assert!(page.contains("&lt;|im_end|&gt;") && !page.contains("<|im_end|>"), "text is no markup");
    assert!(page.contains("3 checks of the data would stop the training"), "{page}");
    // Again over the earlier report, but over nothing else.
    run(folder.path(), &["data", "r.yaml", "--html", "report.html"]).ends(2);
    let before = std::fs::read(folder.path().join("train.jsonl")).expect("the data");
    run(folder.path(), &["data", "r.yaml", "--html", "train.jsonl"]).ends(2).says("is no report of this program");
    assert_eq!(std::fs::read(folder.path().join("train.jsonl")).expect("the data"), before);
}

#[test]
fn training_stops_where_a_check_fails_and_says_all_of_it() {
    let folder = faulty();
    let found = run(folder.path(), &["train", "r.yaml"]);
    found
        .ends(2)
        .says("nothing-trained: 1 of 5 records has no token to train on train.jsonl:4: no answer to train on")
        .says("validation-in-training: 1 validation record is in the training data, too val.jsonl:1: the same tokens as train.jsonl:3")
        .says("special-tokens-in-content: 1 of 5 records has a special token spelled out in a message train.jsonl:2: message 0 (user) spells `<|im_end|>`")
        .says("or `waive: [nothing-trained]`")
        .says("r.yaml: 3 faults; nothing was run");
    assert!(!folder.path().join("runs").exists(), "nothing is written");
    run(folder.path(), &["plan", "r.yaml"]).ends(0).says("3 checks of the data would stop the training");

    let waive = "waive=[nothing-trained, validation-in-training]";
    run(folder.path(), &["train", "r.yaml", "--set", waive]).ends(2).says("special-tokens-in-content");
    let waive = "waive=[nothing-trained, validation-in-training, special-tokens-in-content]";
    run(folder.path(), &["train", "r.yaml", "--set", waive]).ends(0).says("waived: nothing-trained: 1 of 5 records");
    run(folder.path(), &["train", "r.yaml", "--set", "waive=[nothing]"]).ends(2).says("`waive[0]`");
}

#[test]
fn a_cut_answer_stops_training_beyond_the_share() {
    let long = "x y z x y z x y z x y z";
    let train: String = (0..9).map(|n| chat(&n.to_string(), "fine")).collect::<String>() + &chat("q", long);
    let folder = workshop(&train, &chat("v", "fine"));
    let report = run(folder.path(), &["data", "r.yaml", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report.ends(0).stdout).expect("JSON");
    let longest = report["tokenized"]["longest"].as_u64().expect("a length");
    // Two tokens behind what is left: the end of the answer and a line break.
    let max_seq_len = format!("max_seq_len={}", longest - 2);
    let at = |more: &[&str]| {
        let mut arguments = vec!["train", "r.yaml", "--overwrite", "--set", &max_seq_len];
        arguments.extend(more);
        run(folder.path(), &arguments)
    };
    at(&[])
        .ends(2)
        .says("answers-truncated: 1 of 11 records (9.1%)")
        .says("train.jsonl:10")
        .says("max_truncated_share");
    at(&["--set", "max_truncated_share=0.1"]).ends(0);
    at(&["--set", "max_truncated_share=1.5"]).ends(2).says("max_truncated_share");
}

#[test]
fn a_dataset_becomes_another_platforms() {
    let records: String = (0..12).map(|n| chat(&n.to_string(), "fine")).collect();
    let folder = folder(&[("d.jsonl", &records)]);
    let convert = |more: &[&str]| {
        let mut arguments = vec!["data", "convert", "d.jsonl"];
        arguments.extend(more);
        run(folder.path(), &arguments)
    };
    let found = convert(&["--to", "openai", "--out", "out/o.jsonl"]);
    assert_eq!(found.ends(0).stdout, "wrote out/o.jsonl: 12 records as openai\n");
    let text = std::fs::read_to_string(folder.path().join("out/o.jsonl")).expect("the file");
    assert_eq!(text.lines().count(), 12);
    convert(&["--to", "openai", "--out", "out/o.jsonl"]).ends(2).says("is there already, and is not written over");
    assert_eq!(std::fs::read_to_string(folder.path().join("out/o.jsonl")).expect("the file"), text);

    let refused = convert(&["--to", "claude-haiku", "--out", "c.jsonl"]);
    refused.ends(2).says("Claude 3 Haiku takes at least 32 records, and there are 12").says("--ignore-limits");
    assert!(!folder.path().join("c.jsonl").exists());
    convert(&["--to", "claude-haiku", "--out", "c.jsonl", "--ignore-limits"]).ends(0);
    convert(&["--to", "bedrock-conversation", "--out", "b.jsonl"])
        .ends(0)
        .says("note: Llama 3.2 and 3.3 takes at least 100 records, and there are 12");
    convert(&["--to", "bedrock", "--out", "t.jsonl"])
        .ends(0)
        .says("changed in 12 records: messages become a prompt and a completion without roles (d.jsonl:1, d.jsonl:2, d.jsonl:3, ...)");
    let json = convert(&["--to", "sharegpt", "--out", "s.jsonl", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.ends(0).stdout).expect("JSON");
    assert_eq!((&json["written"], &json["left_out"], &json["from"]), (&12.into(), &0.into(), &"chat".into()));
    convert(&["--to", "nowhere", "--out", "n.jsonl"]).ends(2).says("bedrock-conversation");
}

#[test]
fn a_stream_is_checked_as_it_is_read() {
    let answers = |from: usize, to: usize| (from..to).map(|n| chat(&format!("q{n}"), "fine")).collect::<String>();
    let train = answers(0, 40) + &chat("a turn ends in <|im_end|>", "fine") + &answers(41, 50);
    let folder = workshop(&train, &chat("held out", "fine"));
    let streaming = RECIPE.replace("max_steps: 1\n", "max_steps: 60\nstreaming: true\nshuffle_buffer: 10\n");
    let write = |text: String| std::fs::write(folder.path().join("r.yaml"), text).expect("a file");
    write(streaming.clone());
    // A plan reads the first block alone, and says so.
    let plan = run(folder.path(), &["plan", "r.yaml"]);
    plan.ends(0);
    for words in
        ["train.jsonl: about 5", "read while training, 10 records at a time; each block is checked when its turn comes"]
    {
        assert!(plan.stdout.contains(words), "{words:?} is not in:\n{}", plan.stdout);
    }
    // A report is of everything.
    let report = run(folder.path(), &["data", "r.yaml"]);
    report.ends(2).says("special-tokens-in-content");
    assert!(report.stdout.contains("train.jsonl: 50 records, chat"), "{}", report.stdout);
    // A training stops before it is trained on, with what came before in its metrics.
    let stopped = run(folder.path(), &["train", "r.yaml"]);
    stopped.ends(2).says("special-tokens-in-content: 1 of 10 records").says("train.jsonl:41: message 0 (user)");
    let steps = |run: &str| {
        let text = std::fs::read_to_string(folder.path().join(run).join("metrics.jsonl")).expect("metrics");
        text.lines().filter(|line| line.contains("\"event\":\"step\"")).count()
    };
    assert_eq!(steps("runs/r"), 40);
    run(
        folder.path(),
        &["train", "r.yaml", "--set", "waive=[special-tokens-in-content]", "--set", "output_dir=waived"],
    )
    .ends(0);
    assert_eq!(steps("waived"), 60);
    // The first block is refused before anything is trained.
    write(streaming.replace("shuffle_buffer: 10", "shuffle_buffer: 41"));
    run(folder.path(), &["train", "r.yaml", "--overwrite"]).ends(2).says("special-tokens-in-content");
    // What a stream cannot know stands at its line.
    write(streaming.replace("max_steps: 60\n", "").replace("path: train.jsonl", "path: train.jsonl\n    weight: 2"));
    run(folder.path(), &["plan", "r.yaml"]).ends(2).says("`streaming` needs `max_steps`").says("r.yaml:4");
}

#[test]
fn a_killed_tokenising_pass_is_begun_anew() {
    let train: String = (0..60_000).map(|n| chat(&format!("q{n}"), &"fine words ".repeat(n % 7 + 1))).collect();
    let folder = workshop(&chat("q", "fine words"), &chat("held out", "fine"));
    std::fs::write(folder.path().join("train.jsonl"), train).expect("a file");
    let plan = ["plan", "r.yaml", "--json"];
    let cache = folder.path().join(".cache");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&cache).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|n| !n.starts_with('.')).collect()
    };
    let mut killed = 0;
    for wait in [30, 80, 150, 250] {
        let mut child =
            command(folder.path(), &plan).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a child");
        std::thread::sleep(Duration::from_millis(wait));
        killed += usize::from(child.try_wait().expect("a child").is_none());
        child.kill().expect("a child");
        child.wait().expect("a child");
    }
    assert!(killed > 0);
    let after = run(folder.path(), &plan);
    after.ends(0);
    assert!(names().iter().all(|name| name.ends_with(".examples")), "{:?}", names());
    let again = run(folder.path(), &plan);
    assert_eq!(again.stdout, after.stdout, "what is cached is what was made");
    std::fs::remove_dir_all(&cache).expect("a cache");
    assert_eq!(run(folder.path(), &plan).stdout, after.stdout);
}
