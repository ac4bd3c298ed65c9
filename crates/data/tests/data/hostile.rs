//! Templates, tokenizers and records with random damage: errors, and never a panic.

use rankine_data::{ChatTemplate, DatasetConfig, SpecialTokens, TextTokenizer, read_dataset};
use serde_json::{Map, json};

use crate::fixtures::{golden, golden_json, write};

/// A small generator of its own: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// Some characters dropped, doubled, moved or replaced.
    fn damage(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(4) {
            if chars.is_empty() {
                break;
            }
            let at = self.below(chars.len());
            match self.below(4) {
                0 => _ = chars.remove(at),
                1 => chars.insert(at, chars[self.below(chars.len())]),
                2 => {
                    chars[at] =
                        ['{', '}', '%', '\'', '"', '\\', '(', '[', '-', '|', 'é', '\u{0}', '#', '.'][self.below(14)]
                }
                _ => chars.truncate(at.max(1)),
            }
        }
        chars.into_iter().collect()
    }
}

#[test]
fn damaged_templates_are_refused_or_render() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let messages = [
        json!({"role": "system", "content": "s"}),
        json!({"role": "user", "content": "u"}),
        json!({"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}),
    ];
    let (mut compiled, mut refused) = (0, 0);
    for name in ["llama3_1.json", "qwen3_training.json", "mistral-nemo.json", "chatml.json", "phi3.json"] {
        let source = golden_json(name)["template"].as_str().unwrap().to_owned();
        for _ in 0..400 {
            match ChatTemplate::new(&random.damage(&source), &SpecialTokens::default()) {
                Ok(template) => {
                    let _ = template.render(&messages, Some(&json!([{"function": {"name": "f"}}])), true, &Map::new());
                    compiled += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(compiled > 100 && refused > 100, "{compiled} {refused}");
}

#[test]
fn templates_that_ask_for_too_much_are_refused() {
    for source in [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ 'x' * 99999999999 }}",
        "{% for i in range(99999999999) %}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ 'x'.split('') }}",
        "{{ 'x'|int(base=99) + 'x' }}",
        "{{ '%d' % 'x' }}",
    ] {
        let rendered = ChatTemplate::new(source, &SpecialTokens::default())
            .and_then(|template| template.render(&[], None, false, &Map::new()));
        assert!(rendered.is_err(), "{source}: {rendered:?}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(ChatTemplate::new(&deep, &SpecialTokens::default()).is_err());
}

#[test]
fn damaged_tokenizers_are_refused_or_work() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let text = std::fs::read_to_string(golden("tokenizer.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..300 {
        // Characters at random, then whole words, which leave it JSON.
        let damaged = if round % 2 == 0 {
            random.damage(&text)
        } else {
            let words = ["\"BPE\"", "\"ByteLevel\"", "true", "false", "null", "[]", "{}", "0", "-1", "\"x\""];
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let at = random.below(60.min(lines.len()));
            if let Some((key, value)) = lines[at].clone().split_once(": ") {
                let comma = if value.ends_with(',') { "," } else { "" };
                if !value.ends_with(['{', '[']) {
                    lines[at] = format!("{key}: {}{comma}", words[random.below(words.len())]);
                }
            }
            lines.join("\n")
        };
        write(folder.path(), "tokenizer.json", &damaged);
        if let Ok(tokenizer) = TextTokenizer::from_folder(folder.path(), None) {
            let _ = tokenizer.encode("The quick é 日本 fox <|im_end|>", true);
        }
    }
}

#[test]
fn damaged_records_are_refused_or_read() {
    let mut random = Random(0xdead_beef_cafe_f00d);
    let folder = tempfile::tempdir().unwrap();
    let records = [
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "weight": 1,
            "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\": 1}"}}]}], "tools": "[{\"a\": 1}]"}),
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]}),
        json!({"instruction": "a", "input": "b", "output": "c", "history": [["a", "b"]]}),
        json!({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}),
    ];
    for name in ["d.jsonl", "d.json", "d.csv"] {
        for record in &records {
            for _ in 0..200 {
                write(folder.path(), name, &random.damage(&record.to_string()));
                let _ = read_dataset(&DatasetConfig::new(name), folder.path());
            }
        }
    }
}
