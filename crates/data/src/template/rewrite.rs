//! A chat template as Jinja2 with transformers' extensions reads it, respelled for minijinja.
//!
//! Only what minijinja would refuse or read differently is touched:
//! - `{% generation %}` blocks become a filter block that marks its output;
//! - `'...' % x` becomes a call, as minijinja has no `%` on strings;
//! - string literals: Python's escapes, and neighbours that are one string;
//! - line ends, which Jinja2 makes `\n` before anything else.

use std::ops::Range;

use crate::template::expression::{respell, string_end};

/// The filter that marks what a `{% generation %}` block renders.
pub(crate) const GENERATION_FILTER: &str = "__generation__";

/// The respelled source and whether it has `{% generation %}` blocks.
pub(crate) fn rewrite(source: &str) -> (String, bool) {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + 64);
    let mut has_generation = false;
    let mut at = 0;
    while let Some(tag) = next_tag(&source, at) {
        out.push_str(&source[at..tag.outer.start]);
        at = tag.outer.end;
        match tag.kind {
            TagKind::Verbatim => out.push_str(&source[tag.outer]),
            TagKind::Expression => {
                let inside = &source[tag.inner.clone()];
                let word = inside.trim();
                let (open, close) = (&source[tag.outer.start..tag.inner.start], &source[tag.inner.end..tag.outer.end]);
                let blocks = match word {
                    "generation" if open.starts_with("{%") => {
                        has_generation = true;
                        // In Jinja2 the block is the body of a call: what is set in it does not leave it.
                        Some(format!("{open} with %}}{{% filter {GENERATION_FILTER} {close}"))
                    }
                    "endgeneration" if open.starts_with("{%") => {
                        Some(format!("{open} endfilter %}}{{% endwith {close}"))
                    }
                    _ => None,
                };
                match blocks {
                    Some(blocks) => out.push_str(&blocks),
                    None => {
                        out.push_str(open);
                        respell(inside, &mut out);
                        out.push_str(close);
                    }
                }
            }
        }
    }
    out.push_str(&source[at..]);
    (out, has_generation)
}

enum TagKind {
    /// `{{ .. }}` or `{% .. %}`.
    Expression,
    /// A comment or a raw block.
    Verbatim,
}

struct Tag {
    kind: TagKind,
    /// With its delimiters and their `-` or `+`.
    outer: Range<usize>,
    inner: Range<usize>,
}

fn next_tag(source: &str, from: usize) -> Option<Tag> {
    let bytes = source.as_bytes();
    let mut search = from;
    loop {
        let start = search + source[search..].find('{')?;
        let end_mark = match bytes.get(start + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                // An unclosed comment is left for minijinja to report.
                let end = source[start + 2..].find("#}").map_or(source.len(), |end| start + 2 + end + 2);
                return Some(verbatim(start..end));
            }
            _ => {
                search = start + 1;
                continue;
            }
        };
        let mut inner_start = start + 2;
        if matches!(bytes.get(inner_start), Some(b'-' | b'+')) {
            inner_start += 1;
        }
        if end_mark == "%}"
            && let Some(end) = raw_block(source, inner_start)
        {
            return Some(verbatim(start..end));
        }
        let Some(end) = tag_end(source, inner_start, end_mark) else {
            return Some(verbatim(start..source.len()));
        };
        let inner_end = match bytes.get(end.wrapping_sub(1)) {
            Some(b'-' | b'+') if end > inner_start => end - 1,
            _ => end,
        };
        return Some(Tag { kind: TagKind::Expression, outer: start..end + 2, inner: inner_start..inner_end });
    }
}

fn verbatim(outer: Range<usize>) -> Tag {
    Tag { kind: TagKind::Verbatim, inner: outer.clone(), outer }
}

/// Where the end mark stands, outside of strings and brackets.
fn tag_end(source: &str, from: usize, mark: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut depth = 0usize;
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => {
                at = string_end(bytes, at, quote)?;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b'}' if depth == 0 && bytes[at..].starts_with(mark.as_bytes()) => return Some(at),
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 && bytes[at..].starts_with(mark.as_bytes()) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// If a raw block begins after the `{%`, where it ends.
fn raw_block(source: &str, inner: usize) -> Option<usize> {
    let rest = source[inner..].trim_start();
    let rest = rest.strip_prefix("raw")?.trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let body = source.len() - rest.strip_prefix("%}")?.len();
    let mut at = body;
    while let Some(found) = source[at..].find("{%") {
        at += found + 2;
        let tag = source[at..].strip_prefix(['-', '+']).unwrap_or(&source[at..]).trim_start();
        if let Some(tag) = tag.strip_prefix("endraw") {
            let tag = tag.trim_start();
            let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag);
            if let Some(after) = tag.strip_prefix("%}") {
                return Some(source.len() - after.len());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_respelled() {
        for same in [
            "plain { text } %",
            "{{ a['b'] }} {% if x %}y{% endif %}{# 'c %}",
            "{{ '}}' ~ \"%}\" }}",
            "{% raw %}{{ '\\x41' % b }}{% endraw %}",
            "{{ i % 2 }}",
            "{{ unclosed",
            "{{ 'unclosed }}",
            "{#",
        ] {
            assert_eq!(rewrite(same), (same.to_owned(), false));
        }
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        let (source, has) = rewrite("a {%- generation -%} b {% endgeneration +%}");
        assert!(has);
        assert_eq!(source, "a {%- with %}{% filter __generation__ -%} b {% endfilter %}{% endwith +%}");
    }

    #[test]
    fn line_ends_are_one_kind() {
        assert_eq!(rewrite("a\r\nb\rc").0, "a\nb\nc");
    }
}
