//! What stands within `{{ .. }}` and `{% .. %}`, respelled where minijinja reads it differently.

/// The function that stands for `%` on a string.
pub(crate) const PERCENT_FUNCTION: &str = "__percent__";

/// Appends the expression, its string literals and `%` on them respelled.
pub(crate) fn respell(text: &str, out: &mut String) {
    emit(text, &tokens(text), out);
}

/// The byte after the closing quote.
pub(crate) fn string_end(bytes: &[u8], start: usize, quote: u8) -> Option<usize> {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Str,
    /// A name or a number.
    Word,
    /// One character of anything else.
    Sign(u8),
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        let kind = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                while at < bytes.len() && bytes[at].is_ascii_whitespace() {
                    at += 1;
                }
                Kind::Space
            }
            quote @ (b'\'' | b'"') => {
                at = string_end(bytes, at, quote).unwrap_or(bytes.len());
                Kind::Str
            }
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                Kind::Word
            }
            byte => {
                at += 1;
                Kind::Sign(byte)
            }
        };
        tokens.push(Token { kind, start, end: at });
    }
    tokens
}

/// Writes the tokens, respelling string literals and what follows them.
fn emit(text: &str, tokens: &[Token], out: &mut String) {
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        if token.kind != Kind::Str {
            out.push_str(&text[token.start..token.end]);
            at += 1;
            continue;
        }
        // Strings that stand side by side are one.
        let mut literal = unescaped(&text[token.start..token.end]);
        let mut parts = 1;
        at += 1;
        while let Some(next) = skip_space(tokens, at).filter(|next| tokens[*next].kind == Kind::Str) {
            literal.push_str(&unescaped(&text[tokens[next].start..tokens[next].end]));
            parts += 1;
            at = next + 1;
        }
        let spelled = if parts == 1 && !text[token.start..token.end].contains('\\') {
            text[token.start..token.end].to_owned()
        } else {
            quoted(&literal)
        };
        let operand = skip_space(tokens, at)
            .filter(|next| tokens[*next].kind == Kind::Sign(b'%'))
            .and_then(|percent| Some((percent + 1, operand_end(tokens, percent + 1)?)));
        match operand {
            Some((start, end)) => {
                out.push_str(PERCENT_FUNCTION);
                out.push('(');
                out.push_str(&spelled);
                out.push(',');
                emit(text, &tokens[start..end], out);
                out.push(')');
                at = end;
            }
            None => out.push_str(&spelled),
        }
    }
}

fn skip_space(tokens: &[Token], from: usize) -> Option<usize> {
    (from..tokens.len()).find(|at| tokens[*at].kind != Kind::Space)
}

/// The end of the operand that follows: a name, literal or bracket with its calls, subscripts, attributes and
/// filters, which all bind more tightly than `%`.
fn operand_end(tokens: &[Token], from: usize) -> Option<usize> {
    let mut at = skip_space(tokens, from)?;
    if tokens[at].kind == Kind::Sign(b'-') {
        at = skip_space(tokens, at + 1)?;
    }
    let mut end = match tokens[at].kind {
        Kind::Str | Kind::Word => at + 1,
        Kind::Sign(b'(' | b'[' | b'{') => bracket_end(tokens, at)?,
        _ => return None,
    };
    while let Some(next) = skip_space(tokens, end) {
        end = match tokens[next].kind {
            Kind::Sign(b'(' | b'[') => bracket_end(tokens, next)?,
            Kind::Sign(b'.' | b'|') => {
                let name = skip_space(tokens, next + 1).filter(|name| tokens[*name].kind == Kind::Word)?;
                name + 1
            }
            Kind::Str if tokens[end - 1].kind == Kind::Str => next + 1,
            _ => break,
        };
    }
    Some(end)
}

fn bracket_end(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Sign(b'(' | b'[' | b'{') => depth += 1,
            Kind::Sign(b')' | b']' | b'}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The literal's text by Python's rules (`unicode_escape`).
fn unescaped(literal: &str) -> String {
    let inside = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
    let mut out = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(slash) = rest.find('\\') {
        out.push_str(&rest[..slash]);
        rest = &rest[slash + 1..];
        let Some(escape) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        let after = &rest[escape.len_utf8()..];
        let digits = |count: usize| {
            after.get(..count).and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32)
        };
        let (decoded, used) = match escape {
            '\n' => (None, 0),
            '\\' | '\'' | '"' => (Some(escape), 0),
            'a' => (Some('\x07'), 0),
            'b' => (Some('\x08'), 0),
            'f' => (Some('\x0c'), 0),
            'n' => (Some('\n'), 0),
            'r' => (Some('\r'), 0),
            't' => (Some('\t'), 0),
            'v' => (Some('\x0b'), 0),
            '0'..='7' => {
                let length = rest.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let decoded = u32::from_str_radix(&rest[..length], 8).ok().and_then(char::from_u32);
                (decoded, length - 1)
            }
            'x' | 'u' | 'U' => {
                let count = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                match digits(count) {
                    Some(decoded) => (Some(decoded), count),
                    None => {
                        // Python refuses it; written as it stands it does at least not vanish.
                        out.push('\\');
                        (Some(escape), 0)
                    }
                }
            }
            other => {
                out.push('\\');
                (Some(other), 0)
            }
        };
        out.extend(decoded);
        rest = &after[used..];
    }
    out.push_str(rest);
    out
}

/// A literal that minijinja reads as exactly this text.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn respelled(text: &str) -> String {
        let mut out = String::new();
        respell(text, &mut out);
        out
    }

    #[test]
    fn percent_takes_its_operand_with_everything_that_binds_more_tightly() {
        for (from, to) in [
            ("{{ '%s' % x.y[0](1) | trim ~ z }}", "{{ __percent__('%s', x.y[0](1) | trim) ~ z }}"),
            ("{{ '%s-%s' % (a, 'b') }}", "{{ __percent__('%s-%s', (a, 'b')) }}"),
            ("{{ '%d' % -n + 1 }}", "{{ __percent__('%d', -n) + 1 }}"),
            ("{{ '%s' % ('%s' % x) }}", "{{ __percent__('%s', (__percent__('%s', x))) }}"),
            ("{{ '%s' % 'a' 'b' ~ c }}", "{{ __percent__('%s', \"ab\") ~ c }}"),
            ("{%- set a = '%s' % b -%}", "{%- set a = __percent__('%s', b) -%}"),
        ] {
            assert_eq!(respelled(from), to);
        }
    }

    #[test]
    fn literals_follow_python() {
        assert_eq!(unescaped(r"'\x41\u00e9\U0001F600\101\d\/\\\''"), "Aé😀A\\d\\/\\'");
        assert_eq!(unescaped("'a\\\nb'"), "ab");
        assert_eq!(respelled("'a' \"b\\\"\""), "\"ab\\\"\"");
        // Hostile escapes neither panic nor split a character.
        for literal in ["'\\", "'\\x'", "'\\u12é4'", "'\\U0011FFFF'", "'\\xé'", "'"] {
            unescaped(literal);
        }
    }
}
