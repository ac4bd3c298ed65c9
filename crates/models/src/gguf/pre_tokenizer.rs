//! How a byte-level tokenizer cuts a text before it merges: what `tokenizer.ggml.pre` stands for.
//!
//! llama.cpp knows these by name (`llm_tokenizer_bpe` in `src/llama-vocab.cpp`); the parts here are those of the
//! `tokenizer.json` that the name was given for.

use serde_json::{Value as Json, json};

/// Everything that a name decides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PreTokenizer {
    pub(super) normalizer: Json,
    pub(super) pre_tokenizer: Json,
    /// A word that is a token is that token, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with BOS, where the file does not say.
    pub(super) add_bos: bool,
}

/// What is supported, by the names that mean the same.
const KNOWN: [(&[&str], Kind); 6] = [
    (&["default", "gpt-2", "mpt", "olmo", "jais", "trillion", "phi-2", "jina-es", "jina-de", "gigachat"], Kind::Gpt2),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], Kind::Digits),
    (&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"], Kind::Llama3),
    (&["qwen2", "deepseek-r1-qwen"], Kind::Qwen2),
    (&["dbrx", "smaug-bpe"], Kind::Dbrx),
    (&["tekken"], Kind::Tekken),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// GPT-2's own.
    Gpt2,
    /// Digits one by one, then GPT-2's.
    Digits,
    Llama3,
    Qwen2,
    /// Llama 3's cuts without its short way for whole words.
    Dbrx,
    /// Mistral's.
    Tekken,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

impl PreTokenizer {
    /// The one of that name; `None` is the name of files from before there were names.
    pub(super) fn of(name: Option<&str>) -> Result<Self, String> {
        let name = name.unwrap_or("default");
        let kind = KNOWN.iter().find(|(names, _)| names.contains(&name)).map(|(_, kind)| *kind).ok_or_else(|| {
            let known: Vec<&str> = KNOWN.iter().flat_map(|(names, _)| names.iter().copied()).collect();
            format!("`tokenizer.ggml.pre` is `{name}`, which is not known: one of {} is expected", known.join(", "))
        })?;
        Ok(match kind {
            Kind::Gpt2 => Self::plain(byte_level(true)),
            Kind::Digits => {
                Self::plain(sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)))
            }
            Kind::Llama3 => Self { ignore_merges: true, add_bos: true, ..Self::plain(split(LLAMA3)) },
            Kind::Qwen2 => Self { normalizer: json!({"type": "NFC"}), ..Self::plain(split(QWEN2)) },
            Kind::Dbrx => Self::plain(split(LLAMA3)),
            Kind::Tekken => Self { ignore_merges: true, add_bos: true, ..Self::plain(split(TEKKEN)) },
        })
    }

    /// llama.cpp's name for what a `tokenizer.json` does before it merges, or what about it has none.
    pub(super) fn name_of(
        normalizer: &Json,
        pre_tokenizer: &Json,
        ignore_merges: bool,
    ) -> Result<&'static str, String> {
        let cuts = spelled_out(pre_tokenizer);
        let mut alike = KNOWN.iter().filter_map(|(names, kind)| {
            let known = Self::of(Some(names[0])).ok()?;
            (spelled_out(&known.pre_tokenizer) == cuts).then_some((written_name(*kind), *kind, known))
        });
        let mut near = None;
        let found = alike.find(|(name, kind, known)| {
            // Mistral's files have it either way, and one name.
            let same = known.ignore_merges == ignore_merges || matches!(kind, Kind::Tekken);
            near = (!same).then_some(*name).or(near);
            same
        });
        let Some((name, kind, _)) = found else {
            return Err(match near {
                Some(name) => format!(
                    "its pre-tokenizer is llama.cpp's `{name}`, but with `ignore_merges` {ignore_merges}, which that \
                     name does not mean"
                ),
                None => {
                    let names: Vec<&str> = KNOWN.iter().map(|(_, kind)| written_name(*kind)).collect();
                    format!(
                        "its pre-tokenizer is none that llama.cpp knows by the name of {}: {cuts}",
                        names.join(", ")
                    )
                }
            });
        };
        // llama.cpp composes no characters; Qwen's own converter passes over it, too.
        let composes = *normalizer == json!({"type": "NFC"}) && matches!(kind, Kind::Qwen2);
        match normalizer {
            Json::Null => Ok(name),
            _ if composes => Ok(name),
            other => Err(format!("its normalizer has no name in llama.cpp: {other}")),
        }
    }

    fn plain(pre_tokenizer: Json) -> Self {
        Self { normalizer: Json::Null, pre_tokenizer, ignore_merges: false, add_bos: false }
    }
}

/// The name that every llama.cpp knows.
fn written_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Gpt2 => "gpt-2",
        Kind::Digits => "smollm",
        Kind::Llama3 => "llama-bpe",
        Kind::Qwen2 => "qwen2",
        Kind::Dbrx => "dbrx",
        Kind::Tekken => "tekken",
    }
}

/// The same parts with what is left out or has no effect said in one way.
fn spelled_out(pre_tokenizer: &Json) -> Json {
    let mut parts = match pre_tokenizer["pretokenizers"].as_array() {
        Some(parts) => parts.clone(),
        None => vec![pre_tokenizer.clone()],
    };
    for part in &mut parts {
        if part["type"] != "ByteLevel" {
            continue;
        }
        if let Some(part) = part.as_object_mut() {
            // Matters to offsets alone.
            part.remove("trim_offsets");
            part.entry("use_regex").or_insert(Json::Bool(true));
            part.entry("add_prefix_space").or_insert(Json::Bool(true));
        }
    }
    Json::Array(parts)
}

fn split(pattern: &str) -> Json {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    sequence(split, byte_level(false))
}

fn sequence(first: Json, second: Json) -> Json {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

/// Bytes as printable characters; with `cuts` after GPT-2's own expression.
pub(super) fn byte_level(cuts: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cuts})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_tokenizer_has_its_name() {
        for (names, kind) in KNOWN {
            let known = PreTokenizer::of(Some(names[0])).unwrap();
            let name = PreTokenizer::name_of(&known.normalizer, &known.pre_tokenizer, known.ignore_merges);
            assert_eq!(name, Ok(written_name(kind)));
            assert!(names.contains(&written_name(kind)), "{names:?}");
        }
        // As older files spell GPT-2's.
        let old = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false});
        assert_eq!(PreTokenizer::name_of(&Json::Null, &old, false), Ok("gpt-2"));
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true});
        let reason =
            |normalizer: Json, cuts: &Json, whole| PreTokenizer::name_of(&normalizer, cuts, whole).unwrap_err();
        assert!(
            reason(Json::Null, &prefixed, false).contains("none that llama.cpp knows by the name of gpt-2, smollm")
        );
        assert!(reason(json!({"type": "NFKC"}), &old, false).contains("its normalizer has no name"));
        assert!(reason(Json::Null, &old, true).contains("llama.cpp's `gpt-2`, but with `ignore_merges` true"));
    }

    #[test]
    fn unknown_names_are_listed_with_the_known_ones() {
        let text = PreTokenizer::of(Some("bailingmoe")).unwrap_err();
        assert!(text.contains("`bailingmoe`, which is not known: one of default, gpt-2"), "{text}");
        for (names, _) in KNOWN {
            assert!(names.iter().all(|name| PreTokenizer::of(Some(name)).is_ok()));
        }
        assert_eq!(PreTokenizer::of(None), PreTokenizer::of(Some("gpt-2")));
    }
}
