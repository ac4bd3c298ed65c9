//! How the usual byte-level tokenizers cut a text into words before they merge, written out.
//!
//! The patterns are regular expressions in `tokenizer.json`, and matching them is most of the time of encoding.
//! Each is a few lines of classes of characters; the classes themselves are asked of the same engine that
//! `tokenizers` matches with, so that they are those of its version of Unicode.

use std::sync::LazyLock;

use serde_json::Value;

/// GPT-2's, which `ByteLevel` has built in:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
///
/// Llama 3's and Qwen's are those of [`LLAMA_3`] and [`QWEN_2`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// GPT-2's pattern.
    Gpt2,
    /// The same after each numeric character was set apart (SmolLM).
    Gpt2Digits,
    /// Llama 3's pattern, with numbers of at most so many digits.
    Llama3 { digits: usize },
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Words {
    /// The pattern of a `pre_tokenizer`, if it is one of these.
    pub(crate) fn of(pre_tokenizer: &Value) -> Option<Self> {
        let kind = |part: &Value| part.get("type").and_then(Value::as_str).map(str::to_owned);
        let byte_level = |part: &Value, with_regex: bool| {
            kind(part).as_deref() == Some("ByteLevel")
                && part.get("add_prefix_space") == Some(&Value::Bool(false))
                // Files of before there was the setting have the pattern.
                && part.get("use_regex").and_then(Value::as_bool).unwrap_or(true) == with_regex
        };
        if byte_level(pre_tokenizer, true) {
            return Some(Self::Gpt2);
        }
        let parts =
            pre_tokenizer.get("pretokenizers").filter(|_| kind(pre_tokenizer).as_deref() == Some("Sequence"))?;
        let [first, second] = parts.as_array()?.as_slice() else { return None };
        if kind(first).as_deref() == Some("Digits") && byte_level(second, true) {
            return (first.get("individual_digits") == Some(&Value::Bool(true))).then_some(Self::Gpt2Digits);
        }
        let isolated = first.get("behavior").and_then(Value::as_str) == Some("Isolated")
            && first.get("invert") == Some(&Value::Bool(false));
        if kind(first).as_deref() != Some("Split") || !isolated || !byte_level(second, false) {
            return None;
        }
        match first.get("pattern")?.get("Regex")?.as_str()? {
            LLAMA_3 => Some(Self::Llama3 { digits: 3 }),
            QWEN_2 => Some(Self::Llama3 { digits: 1 }),
            _ => None,
        }
    }

    /// Gives the words of a text to `each`, all of the text in order; stops where `each` says false.
    pub(crate) fn each<'t>(self, text: &'t str, each: &mut impl FnMut(&'t str) -> bool) -> bool {
        let cut = match self {
            Self::Gpt2 => gpt2,
            Self::Llama3 { digits } => return every(text, |rest| llama3(rest, digits), each),
            Self::Gpt2Digits => {
                let mut rest = text;
                while let Some((at, digit)) = rest.char_indices().find(|(_, c)| c.is_numeric()) {
                    let (word, after) = rest[at..].split_at(digit.len_utf8());
                    if !every(&rest[..at], gpt2, each) || !each(word) {
                        return false;
                    }
                    rest = after;
                }
                return every(rest, gpt2, each);
            }
        };
        every(text, cut, each)
    }
}

fn every<'t>(text: &'t str, cut: impl Fn(&str) -> usize, each: &mut impl FnMut(&'t str) -> bool) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        // A word is never empty: each pattern takes any one character.
        let (word, after) = rest.split_at(cut(rest).max(first(rest).map_or(1, char::len_utf8)));
        if !each(word) {
            return false;
        }
        rest = after;
    }
    true
}

/// The bytes of the first word.
fn gpt2(text: &str) -> usize {
    if let Some(length) = contraction(text, char::eq) {
        return length;
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    match first(body).map(class) {
        None | Some(Class::Space) => spaces(text),
        Some(kind) => text.len() - body.len() + run(body, kind, usize::MAX),
    }
}

fn llama3(text: &str, digits: usize) -> usize {
    if let Some(length) = contraction(text, |a, b| a.eq_ignore_ascii_case(b) || (*a == '\u{17f}' && *b == 's')) {
        return length;
    }
    let Some(c) = first(text) else { return 0 };
    let kind = class(c);
    match kind {
        Class::Letter => return run(text, kind, usize::MAX),
        Class::Number => return run(text, kind, digits),
        Class::Space | Class::Other => {}
    }
    let after = &text[c.len_utf8()..];
    if !matches!(c, '\r' | '\n') && first(after).map(class) == Some(Class::Letter) {
        return c.len_utf8() + run(after, Class::Letter, usize::MAX);
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    if first(body).map(class) == Some(Class::Other) {
        let end = text.len() - body.len() + run(body, Class::Other, usize::MAX);
        let breaks = text[end..].bytes().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        return end + breaks;
    }
    let blank = &text[..run(text, Class::Space, usize::MAX)];
    match blank.rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => spaces(text),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`
fn contraction(text: &str, same: impl Fn(&char, &char) -> bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    ["s", "t", "re", "ve", "m", "ll", "d"].iter().find_map(|ending| {
        let mut chars = rest.chars();
        let fits = ending.chars().all(|wanted| chars.next().is_some_and(|found| same(&found, &wanted)));
        fits.then(|| text.len() - chars.as_str().len())
    })
}

/// `\s+(?!\S)|\s+`: all blanks, but the last one where a word follows.
fn spaces(text: &str) -> usize {
    let blank = &text[..run(text, Class::Space, usize::MAX)];
    if blank.len() == text.len() {
        return blank.len();
    }
    match blank.char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => blank.len(),
    }
}

fn first(text: &str) -> Option<char> {
    text.chars().next()
}

/// Bytes of the characters of one class that the text begins with, at most `most` of them.
fn run(text: &str, kind: Class, most: usize) -> usize {
    let mut characters = text.char_indices();
    for _ in 0..most {
        match characters.next() {
            None => return text.len(),
            Some((at, c)) if class(c) != kind => return at,
            Some(_) => {}
        }
    }
    characters.offset()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

const fn ascii_classes() -> [Class; 128] {
    let mut classes = [Class::Other; 128];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        if byte.is_ascii_alphabetic() {
            classes[at] = Class::Letter;
        } else if byte.is_ascii_digit() {
            classes[at] = Class::Number;
        } else if byte == b' ' || (byte >= 9 && byte <= 13) {
            classes[at] = Class::Space;
        }
        at += 1;
    }
    classes
}

static ASCII: [Class; 128] = ascii_classes();

/// All other characters, asked once of the engine of regular expressions.
static WIDE: LazyLock<Vec<Class>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; char::MAX as usize + 1];
    let all: String = ('\u{80}'..=char::MAX).collect();
    for (pattern, kind) in [(r"\p{L}+", Class::Letter), (r"\p{N}+", Class::Number), (r"\s+", Class::Space)] {
        // The patterns are right; without them every text would go the slow way, as its words are checked.
        let Ok(pattern) = onig::Regex::new(pattern) else { continue };
        for (start, end) in pattern.find_iter(&all) {
            all[start..end].chars().for_each(|c| classes[c as usize] = kind);
        }
    }
    classes
});

#[inline]
fn class(c: char) -> Class {
    match ASCII.get(c as usize) {
        Some(class) => *class,
        None => WIDE[c as usize],
    }
}
