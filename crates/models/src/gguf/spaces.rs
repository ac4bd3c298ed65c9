//! Where a SentencePiece tokenizer puts a space that its text does not have.
//!
//! Special tokens cut a text into parts. llama.cpp puts a space before every part or before none
//! (`tokenizer.ggml.add_space_prefix`; before every one where a file does not say). `tokenizer.json` knows two ways more.

use serde_json::Value as Json;

use super::pieces::SPACE;

/// Before which parts a space is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Every one: the normalizer `Prepend`, and llama.cpp's `true`.
    Every,
    /// Every one that does not begin with a space: `Metaspace` with `always`.
    EveryWithout,
    /// The one at the very beginning, where it does not begin with a space: `Metaspace` with `first`, which is transformers
    /// 5's for Llama.
    First,
    /// None: llama.cpp's `false`.
    None,
}

/// Which of llama.cpp's two ways a tokenizer is told to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpacePrefix {
    /// Whether a space is put before every part of a text.
    pub added: bool,
    /// Parts of the texts that were looked at before which `tokenizer.json` does otherwise.
    pub apart: usize,
    /// Parts of them all.
    pub parts: usize,
}

impl SpacePrefix {
    /// The way that is `tokenizer.json`'s in the most parts of `texts`; of one plain text where there are none.
    ///
    /// # Errors
    /// A treatment of spaces that is none of SentencePiece's.
    pub fn of(tokenizer: &Json, texts: &[String]) -> Result<Self, String> {
        let rule = Rule::of(tokenizer)?;
        let special: Vec<&str> = tokenizer["added_tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|token| token["content"].as_str().filter(|text| !text.is_empty()))
            .collect();
        let plain = ["a".to_owned()];
        let texts = if texts.is_empty() { &plain[..] } else { texts };
        let parts: Vec<(usize, &str)> = texts.iter().flat_map(|text| parts(text, &special)).collect();
        let apart = |ours: Rule| parts.iter().filter(|(at, part)| ours.adds(*at, part) != rule.adds(*at, part)).count();
        let (every, none) = (apart(Rule::Every), apart(Rule::None));
        Ok(Self { added: every <= none, apart: every.min(none), parts: parts.len() })
    }
}

impl Rule {
    /// What the normalizer or the pre-tokenizer does.
    fn of(tokenizer: &Json) -> Result<Self, String> {
        let (normalizer, cuts) = (&tokenizer["normalizer"], &tokenizer["pre_tokenizer"]);
        let parts = |json: &Json, key: &str| match json[key].as_array() {
            Some(parts) => parts.clone(),
            None if json.is_null() => Vec::new(),
            None => vec![json.clone()],
        };
        let is_replace =
            |part: &Json| part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == SPACE;
        let is_prepend = |part: &Json| part["type"] == "Prepend" && part["prepend"] == SPACE;
        match (parts(normalizer, "normalizers").as_slice(), parts(cuts, "pretokenizers").as_slice()) {
            ([prepend, replace], []) if is_prepend(prepend) && is_replace(replace) => Ok(Self::Every),
            ([replace], []) if is_replace(replace) => Ok(Self::None),
            ([], [cut]) if cut["type"] == "Metaspace" && cut["replacement"] == SPACE && cut["split"] == false => {
                match cut["prepend_scheme"].as_str() {
                    Some("never") => Ok(Self::None),
                    Some("first") => Ok(Self::First),
                    _ => Ok(Self::EveryWithout),
                }
            }
            _ => Err(format!(
                "its treatment of spaces has no name in llama.cpp: normalizer {normalizer}, pre-tokenizer {cuts}"
            )),
        }
    }

    /// Whether a space is put before the part that begins at this byte.
    fn adds(self, at: usize, part: &str) -> bool {
        match self {
            Self::Every => true,
            Self::EveryWithout => !part.starts_with(' '),
            Self::First => at == 0 && !part.starts_with(' '),
            Self::None => false,
        }
    }
}

/// What lies between the special tokens, with the byte where it begins; of several tokens at a place the longest counts.
fn parts<'a>(text: &'a str, special: &[&str]) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        match special.iter().filter(|token| text[at..].starts_with(**token)).map(|token| token.len()).max() {
            Some(length) => {
                if begin < at {
                    found.push((begin, &text[begin..at]));
                }
                at += length;
                begin = at;
            }
            None => at += c.len_utf8(),
        }
    }
    if begin < text.len() {
        found.push((begin, &text[begin..]));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metaspace(scheme: &str) -> Json {
        let added: Vec<Json> =
            ["<s>", "</s>", "[INST]", "[INST]x"].iter().map(|text| json!({"content": text})).collect();
        json!({
            "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false},
        })
    }

    fn normalizer(parts: Json) -> Json {
        json!({"added_tokens": [{"content": "<s>"}], "normalizer": parts, "pre_tokenizer": null})
    }

    #[test]
    fn special_tokens_part_a_text() {
        let special = ["<s>", "[INST]", "[INST]x"];
        assert_eq!(parts("<s>[INST] ä b[INST]xc", &special), [(9, " ä b"), (21, "c")]);
        assert_eq!(parts("a<s>", &special), [(0, "a")]);
        assert!(parts("", &special).is_empty() && parts("<s><s>", &special).is_empty());
    }

    #[test]
    fn llama_cpp_is_told_what_comes_nearest() {
        let of = |tokenizer: &Json, texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let SpacePrefix { added, apart, parts } = SpacePrefix::of(tokenizer, &texts).unwrap();
            (added, apart, parts)
        };
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let prepend = json!({"type": "Prepend", "prepend": SPACE});
        let legacy = normalizer(json!({"type": "Sequence", "normalizers": [prepend, replace]}));
        let chats = ["<s>[INST] Hi [/INST]", "<s> a<s>b"];
        assert_eq!(of(&legacy, &[]), (true, 0, 1));
        assert_eq!(of(&legacy, &chats), (true, 0, 3));
        for bare in [normalizer(replace.clone()), normalizer(json!({"type": "Sequence", "normalizers": [replace]}))] {
            assert_eq!(of(&bare, &[]), (false, 0, 1));
            assert_eq!(of(&bare, &chats), (false, 0, 3));
        }
        // A plain text begins with one; a chat that begins with a token has none before any part.
        assert_eq!(of(&metaspace("first"), &[]), (true, 0, 1));
        assert_eq!(of(&metaspace("first"), &["<s>[INST] Hi", "<s>a</s>b"]), (false, 0, 3));
        assert_eq!(of(&metaspace("first"), &["User: a</s>b</s>c"]), (false, 1, 3));
        assert_eq!(of(&metaspace("always"), &["<s>a</s>b"]), (true, 0, 2));
        assert_eq!(of(&metaspace("always"), &["<s>a</s> b</s> c"]), (false, 1, 3));
        assert_eq!(of(&metaspace("never"), &["a</s>b"]), (false, 0, 2));
        assert_eq!(of(&metaspace("never"), &[]), (false, 0, 1));
    }

    #[test]
    fn what_is_none_of_them_is_told() {
        let mut words = metaspace("always");
        words["pre_tokenizer"]["split"] = true.into();
        let lower = normalizer(json!({"type": "Lowercase"}));
        for other in [words, lower, json!({})] {
            let text = SpacePrefix::of(&other, &[]).unwrap_err();
            assert!(text.contains("has no name in llama.cpp"), "{text}");
        }
    }
}
