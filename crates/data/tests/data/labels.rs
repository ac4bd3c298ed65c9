//! Which tokens of a record are trained, where BOS and EOS stand, what is cut and what is dropped.

use rankine_data::{DataError, Example, IGNORED, TextTokenizer, TokenizeConfig, TrainOn, tokenize};
use serde_json::{Value, json};

use crate::fixtures::{CHATML, dataset, stored, tokenized, tokenizer, tokenizer_with_bos, write};

/// The trained tokens as text, one string for each run of them.
fn trained(tokenizer: &TextTokenizer, example: &Example) -> Vec<String> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut inside = false;
    for (id, label) in example.input_ids.iter().zip(&example.labels) {
        assert!(*label == IGNORED || *label == i64::from(*id));
        if *label == IGNORED {
            inside = false;
        } else {
            if !inside {
                runs.push(Vec::new());
            }
            inside = true;
            runs.last_mut().unwrap().push(*id);
        }
    }
    runs.iter().map(|run| tokenizer.decode(run, false).unwrap()).collect()
}

fn whole(tokenizer: &TextTokenizer, example: &Example) -> String {
    tokenizer.decode(&example.input_ids, false).unwrap()
}

fn one(record: &Value, tokenizer: &TextTokenizer, train_on: TrainOn) -> Example {
    let mut examples = tokenized(std::slice::from_ref(record), tokenizer, train_on).examples;
    assert_eq!(examples.len(), 1);
    examples.remove(0)
}

#[test]
fn text_is_trained_on_whole_with_one_bos_and_one_eos() {
    let tokenizer = tokenizer_with_bos("");
    for text in ["The quick fox", "<s>The quick fox", "The quick fox</s>", "<s>The quick fox</s>"] {
        let example = one(&json!({ "text": text }), &tokenizer, TrainOn::Assistant);
        assert_eq!(whole(&tokenizer, &example), "<s>The quick fox</s>", "{text}");
        assert_eq!(trained(&tokenizer, &example), ["The quick fox</s>"], "{text}");
        assert_eq!(example.completion_start, None);
    }
}

#[test]
fn a_completion_is_trained_with_its_eos_and_the_prompt_only_on_request() {
    let tokenizer = tokenizer_with_bos("");
    let record = json!({"prompt": "Please explain:", "completion": " it works."});
    for train_on in [TrainOn::Assistant, TrainOn::Completion, TrainOn::Last] {
        let example = one(&record, &tokenizer, train_on);
        assert_eq!(whole(&tokenizer, &example), "<s>Please explain: it works.</s>");
        assert_eq!(trained(&tokenizer, &example), [" it works.</s>"]);
        let start = example.completion_start.unwrap();
        assert_eq!(tokenizer.decode(&example.input_ids[..start], false).unwrap(), "<s>Please explain:");
    }
    let example = one(&record, &tokenizer, TrainOn::All);
    assert_eq!(trained(&tokenizer, &example), ["Please explain: it works.</s>"]);
    let example = one(&json!({"prompt": "<s>Hi", "completion": "!</s>"}), &tokenizer, TrainOn::All);
    assert_eq!(whole(&tokenizer, &example), "<s>Hi!</s>");
}

#[test]
fn a_completion_that_would_merge_with_the_prompt_is_encoded_apart() {
    let tokenizer = tokenizer_with_bos("");
    // "answer" is one token with its space; the prompt ends within it.
    let (prompt, completion) = ("This is the ans", "wer to that");
    let given = tokenizer.encode(prompt, true).unwrap().ids;
    let joined = tokenizer.encode(&format!("{prompt}{completion}"), true).unwrap().ids;
    assert!(!joined.starts_with(&given), "the fixture's tokens do not merge");

    let found = tokenized(&[json!({"prompt": prompt, "completion": completion})], &tokenizer, TrainOn::Completion);
    assert_eq!(found.report.boundary_merges, 1);
    let example = &found.examples[0];
    assert!(example.input_ids.starts_with(&given));
    assert_eq!(example.completion_start, Some(given.len()));
    assert_eq!(whole(&tokenizer, example), format!("<s>{prompt}{completion}</s>"));
    assert_eq!(trained(&tokenizer, example), [format!("{completion}</s>")]);
}

#[test]
fn answers_are_trained_with_their_stop_token_and_without_the_line_break_after_it() {
    let tokenizer = tokenizer(CHATML);
    let record = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"}, {"role": "assistant", "content": "Four."},
    ]});
    let example = one(&record, &tokenizer, TrainOn::Assistant);
    assert_eq!(trained(&tokenizer, &example), ["Two.<|im_end|>", "Four.<|im_end|>"]);
    assert_eq!(example.completion_start, None, "there are two answers");

    let example = one(&record, &tokenizer, TrainOn::Last);
    assert_eq!(trained(&tokenizer, &example), ["Four.<|im_end|>"]);
    let start = example.completion_start.unwrap();
    let given = tokenizer.decode(&example.input_ids[..start], false).unwrap();
    assert!(given.ends_with("Three?<|im_end|>\n<|im_start|>assistant\n"), "{given}");

    let example = one(&record, &tokenizer, TrainOn::All);
    assert!(example.labels[1..].iter().all(|label| *label != IGNORED));
    assert_eq!(example.labels[0], IGNORED);
}

#[test]
fn turns_of_weight_0_are_not_trained_by_either_way_of_finding_spans() {
    let tagged = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% \
                  generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + \
                  '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}";
    let record = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "One.", "weight": 0},
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "Two.", "weight": 1},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "Three."},
    ]});
    for template in [CHATML, tagged] {
        let tokenizer = tokenizer(template);
        let example = one(&record, &tokenizer, TrainOn::Assistant);
        assert_eq!(trained(&tokenizer, &example), ["Two.<|im_end|>", "Three.<|im_end|>"]);
    }
}

#[test]
fn only_the_completion_of_a_conversational_prompt_is_trained() {
    let tokenizer = tokenizer(CHATML);
    let record = json!({
        "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "One."},
                   {"role": "user", "content": "b"}],
        "completion": [{"role": "assistant", "content": "Two."}],
    });
    let example = one(&record, &tokenizer, TrainOn::Completion);
    assert_eq!(trained(&tokenizer, &example), ["Two.<|im_end|>"]);
}

#[test]
fn bos_of_the_template_is_not_doubled_by_the_post_processor() {
    let with = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}{% if \
                add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
    let record = json!({"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]});
    for (template, expected) in [
        (with.to_owned(), "<s>user: Hi</s>assistant: Hello</s>"),
        // As transformers has it: what the template does not write is not added.
        (with.replace("{{ bos_token }}", ""), "user: Hi</s>assistant: Hello</s>"),
        (format!("{{{{ bos_token }}}}{with}"), "<s>user: Hi</s>assistant: Hello</s>"),
    ] {
        let tokenizer = tokenizer_with_bos(&template);
        let example = one(&record, &tokenizer, TrainOn::Assistant);
        assert_eq!(whole(&tokenizer, &example), expected);
        assert_eq!(trained(&tokenizer, &example), [" Hello</s>"]);
    }
}

#[test]
fn answers_that_do_not_end_in_a_special_token_are_counted() {
    let template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if \
                    add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    let tokenizer = tokenizer(template);
    let record = json!({"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]});
    let found = tokenized(&[record.clone(), record], &tokenizer, TrainOn::Assistant);
    assert_eq!(found.report.without_stop, 2);
    let found = tokenized(&[json!({"prompt": "a", "completion": "b"})], &tokenizer, TrainOn::Assistant);
    assert_eq!(found.report.without_stop, 0);
}

#[test]
fn tools_reach_the_template_and_arguments_are_objects() {
    let template = "{{ tools[0].function.name }}\n{% for m in messages %}{% if m.tool_calls is defined %}{% \
                    generation %}{{ m.tool_calls[0].function.arguments.city }}<|im_end|>{% endgeneration %}{% else \
                    %}{{ m.content }}\n{% endif %}{% endfor %}";
    let record = json!({
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Malmö\"}"}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
    });
    let tokenizer = tokenizer(template);
    let example = one(&record, &tokenizer, TrainOn::Assistant);
    assert_eq!(whole(&tokenizer, &example), "weather\nWeather?\nMalmö<|im_end|>");
    assert_eq!(trained(&tokenizer, &example), ["Malmö<|im_end|>"]);
}

#[test]
fn long_records_are_cut_at_the_end_and_those_without_an_answer_left_are_dropped() {
    let tokenizer = tokenizer_with_bos("");
    let records = [
        json!({"prompt": "a", "completion": "1 2 3 4 5 6 7 8 9 10"}),
        json!({"prompt": "1 2 3 4 5 6 7 8 9 10 11 12", "completion": "b"}),
        json!({"prompt": "a", "completion": "b"}),
    ];
    let config = TokenizeConfig { max_seq_len: 6, train_on: TrainOn::Completion };
    let found = tokenize(&[dataset(&records)], &tokenizer, &config, &|_, _| {}).unwrap();
    let full = one(&records[0], &tokenizer, TrainOn::Completion);
    assert_eq!(found.examples[0].input_ids, full.input_ids[..6]);
    assert_eq!(found.examples[0].labels, full.labels[..6]);
    assert_eq!(found.examples[0].completion_start, None);
    assert_eq!(whole(&tokenizer, &found.examples[1]), "<s>ab</s>");
    let report = found.report;
    assert_eq!((report.records, report.examples, report.truncated, report.dropped), (3, 2, 2, 1));
    assert_eq!(report.tokens, found.examples.iter().map(|example| example.input_ids.len()).sum::<usize>());
    assert_eq!(report.trained_tokens, found.examples.iter().map(Example::trained_tokens).sum::<usize>());
    assert!(report.longest >= 14, "{}", report.longest);

    let error = tokenize(&[dataset(&records[1..2])], &tokenizer, &config, &|_, _| {}).unwrap_err();
    assert!(matches!(error, DataError::NothingTrained(_)));
    assert!(error.to_string().contains("`max_seq_len: 6`"), "{error}");
}

#[test]
fn datasets_and_sources_are_kept_and_progress_reaches_the_end() {
    let tokenizer = tokenizer_with_bos("");
    let sets =
        [dataset(&[json!({"text": "a"}), json!({"text": "b"})]), dataset(&[json!({"prompt": "c", "completion": "d"})])];
    let config = TokenizeConfig { max_seq_len: 10, train_on: TrainOn::Assistant };
    let most = std::sync::atomic::AtomicUsize::new(0);
    let found = tokenize(&sets, &tokenizer, &config, &|done, total| {
        assert_eq!(total, 3);
        most.fetch_max(done, std::sync::atomic::Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(most.into_inner(), 3);
    let places: Vec<(u32, String)> =
        found.examples.iter().map(|example| (example.dataset, example.source.to_string())).collect();
    assert_eq!(places, [(0, "d.jsonl:1".into()), (0, "d.jsonl:2".into()), (1, "d.jsonl:1".into())]);
}

#[test]
fn the_cache_gives_the_same_and_notices_every_change() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer_with_bos(CHATML);
    let config = TokenizeConfig { max_seq_len: 64, train_on: TrainOn::Assistant };
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]});
    let (fox, dog) = ([json!({"text": "The quick fox"})], [json!({"text": "The quick dog"})]);
    let chat = [chat];
    let sets: [&[Value]; 2] = [&fox, &chat];
    let run = |sets: &[&[Value]], tokenizer: &TextTokenizer, config: &TokenizeConfig| {
        stored(folder.path(), sets, tokenizer, config).unwrap()
    };
    let (first, cached) = run(&sets, &tokenizer, &config);
    assert!(!cached);
    assert_eq!(run(&sets, &tokenizer, &config), (first.clone(), true));

    assert!(!run(&[&dog, &chat], &tokenizer, &config).1, "other records");
    let longer = TokenizeConfig { max_seq_len: 65, ..config };
    assert!(!run(&sets, &tokenizer, &longer).1, "other settings");
    let other = tokenizer_with_bos(&CHATML.replace("assistant", "model"));
    assert!(!run(&sets[..1], &other, &config).1, "another template");
    assert!(!run(&sets[..1], &tokenizer, &config).1, "fewer datasets");

    // A damaged file is as good as none, and is replaced.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    }
    assert_eq!(run(&sets, &tokenizer, &config), (first.clone(), false));
    assert_eq!(run(&sets, &tokenizer, &config), (first, true));

    let blocked = write(folder.path(), "file", "");
    let error = stored(&blocked, &sets, &tokenizer, &config).unwrap_err();
    assert!(error.to_string().contains("could not write the token cache"), "{error}");
}
