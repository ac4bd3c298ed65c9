//! Tokenizers that put a space before a text, and those that trim spaces off their offsets.

use rankine_data::{IGNORED, TextTokenizer, TrainOn};
use serde_json::{Map, Value, json};

use crate::fixtures::{model_folder, tokenized, write};

/// In the manner of Llama 2: `▁` before the text and for each space, bytes for the rest.
fn sentencepiece() -> TextTokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "▁"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(('!'..='~').map(String::from));
    tokens.extend(["▁A", ":A", "▁Q"].map(str::to_owned));
    let vocab: Map<String, Value> = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": [["▁", "A"], [":", "A"], ["▁", "Q"]]}
    });
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer.json", &file.to_string());
    write(folder.path(), "tokenizer_config.json", "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
    TextTokenizer::from_folder(folder.path(), None).unwrap()
}

fn spelled(tokenizer: &TextTokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| tokenizer.inner().id_to_token(*id).unwrap()).collect()
}

#[test]
fn a_completion_that_is_encoded_apart_gets_no_space_of_its_own() {
    let tokenizer = sentencepiece();
    let record = json!({"prompt": "Q:", "completion": "A"});
    let found = tokenized(&[record], &tokenizer, TrainOn::Completion);
    assert_eq!(found.report.boundary_merges, 1);
    let example = &found.examples[0];
    assert_eq!(spelled(&tokenizer, &example.input_ids), ["<s>", "▁Q", ":", "A", "</s>"]);
    assert_eq!(example.completion_start, Some(3));
    assert_eq!(example.labels.iter().filter(|label| **label != IGNORED).count(), 2);

    let found = tokenized(&[json!({"prompt": "Q:", "completion": " A"})], &tokenizer, TrainOn::Completion);
    assert_eq!(found.report.boundary_merges, 0);
    assert_eq!(spelled(&tokenizer, &found.examples[0].input_ids), ["<s>", "▁Q", ":", "▁A", "</s>"]);
}

/// The token of a word begins with its space, even where the post-processor says otherwise.
#[test]
fn trimmed_offsets_do_not_move_the_mask() {
    // In the first the answer's span begins with the space, in the second the space ends the prompt.
    for (before, after, expected) in [("", " ", " answer to</s>"), (" ", "", " to</s>")] {
        let template = format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{{{{ 'a:{before}{after}' + m.content + '</s>' \
             }}}}{{% else %}}{{{{ 'u: ' + m.content + '\n' }}}}{{% endif %}}{{% endfor %}}{{% if \
             add_generation_prompt %}}{{{{ 'a:{before}' }}}}{{% endif %}}"
        );
        let folder = model_folder(&json!({"eos_token": "</s>", "chat_template": template}));
        let path = folder.path().join("tokenizer.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut seen = Vec::new();
        for trim in [false, true] {
            file["post_processor"] = json!({
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": trim, "use_regex": true
            });
            std::fs::write(&path, file.to_string()).unwrap();
            let tokenizer = TextTokenizer::from_folder(folder.path(), None).unwrap();
            let record = json!({"messages": [
                {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "answer to"}]});
            let example = tokenized(&[record], &tokenizer, TrainOn::Assistant).examples.remove(0);
            let trained: Vec<u32> = example
                .input_ids
                .iter()
                .zip(&example.labels)
                .filter(|(_, label)| **label != IGNORED)
                .map(|(id, _)| *id)
                .collect();
            assert_eq!(tokenizer.decode(&trained, false).unwrap(), expected, "trim_offsets {trim}");
            seen.push(example.labels);
        }
        assert_eq!(seen[0], seen[1]);
    }
}
