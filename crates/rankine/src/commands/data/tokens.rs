//! Tokens as they are shown: nothing invisible, and trained ones told apart without colour.

use rankine_data::proof::{TokenView, ViewedExample};

/// A run of neighbouring tokens that are all trained on, or all not.
pub(super) struct Run<'a> {
    pub(super) trained: bool,
    pub(super) cut: bool,
    pub(super) tokens: &'a [TokenView],
}

/// The runs of an example.
pub(super) fn runs(example: &ViewedExample) -> Vec<Run<'_>> {
    let kind = |index: usize| (example.tokens[index].trained, index >= example.kept);
    let mut runs = Vec::new();
    let mut start = 0;
    for end in 1..=example.tokens.len() {
        if end == example.tokens.len() || kind(end) != kind(start) {
            let (trained, cut) = kind(start);
            runs.push(Run { trained, cut, tokens: &example.tokens[start..end] });
            start = end;
        }
    }
    runs
}

/// The token's text with line breaks and other invisible characters spelled.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push('⏎'),
            '\t' => shown.push('⇥'),
            c if c.is_control() || is_invisible(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    // A character of several tokens is shown by the last of them.
    if shown.is_empty() { "…".to_owned() } else { shown }
}

/// Marks of direction and of width nothing, which would hide or turn what stands beside them.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// How many of the tokens that the model sees are trained on.
pub(super) fn trained(example: &ViewedExample) -> usize {
    example.tokens.iter().take(example.kept).filter(|token| token.trained).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_invisible() {
        assert_eq!(visible("a\n\tb\u{1b}[31m"), "a⏎⇥b\\u{1b}[31m");
        assert_eq!(visible("\u{202e}x"), "\\u{202e}x");
        assert_eq!(visible(""), "…");
    }
}
