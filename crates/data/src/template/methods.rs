//! Python's methods on strings, lists and dictionaries, where minijinja has none or another.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use crate::template::python::to_str;

/// Called for methods that minijinja does not know.
pub(crate) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match found {
        Some(found) => Ok(found),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Python's whitespace: Unicode's and four separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `str.strip` and its halves; `chars` is a set of characters.
pub(crate) fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let strips = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => is_space(c),
    };
    let text = if start { text.trim_start_matches(strips) } else { text };
    if end { text.trim_end_matches(strips) } else { text }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = || -> Result<&str, Error> {
        let (argument,): (&str,) = from_args(args)?;
        Ok(argument)
    };
    let value =
        match method {
            "strip" | "lstrip" | "rstrip" => {
                let (chars,): (Option<&str>,) = from_args(args)?;
                Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
            }
            "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
            "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
            "split" | "rsplit" => {
                let (separator, most): (Option<&str>, Option<i64>) = split_arguments(args)?;
                split(text, separator, most, method == "rsplit")?
            }
            "partition" | "rpartition" => {
                let separator = one()?;
                not_empty(separator)?;
                let found = if method == "partition" { text.find(separator) } else { text.rfind(separator) };
                let (head, middle, tail) = match found {
                    Some(at) => (&text[..at], separator, &text[at + separator.len()..]),
                    None if method == "partition" => (text, "", ""),
                    None => ("", "", text),
                };
                tuple([head, middle, tail])
            }
            "splitlines" => {
                let (keep,): (Option<bool>,) = from_args(args)?;
                Value::from(lines(text, keep.unwrap_or(false)))
            }
            "index" | "rindex" => {
                let found = if method == "index" { text.find(one()?) } else { text.rfind(one()?) };
                let at = found.ok_or_else(|| invalid("substring not found"))?;
                Value::from(text[..at].chars().count())
            }
            "zfill" => {
                let (width,): (usize,) = from_args(args)?;
                let (sign, digits) = match text.strip_prefix(['-', '+']) {
                    Some(digits) => (&text[..1], digits),
                    None => ("", text),
                };
                let zeros = padding(width, text)?;
                Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
            }
            "ljust" | "rjust" | "center" => {
                let (width, fill): (usize, Option<&str>) = from_args(args)?;
                let space = padding(width, text)?;
                let left = match method {
                    "ljust" => 0,
                    "rjust" => space,
                    // As in CPython: the odd one goes left if the width is odd, too.
                    _ => space / 2 + (space & width & 1),
                };
                let fill = fill.unwrap_or(" ");
                Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(space - left)))
            }
            "title" => {
                let () = from_args(args)?;
                Value::from(title(text))
            }
            "swapcase" => {
                let swapped = text.chars().map(|c| match c {
                    c if c.is_uppercase() => c.to_lowercase().collect::<String>(),
                    c => c.to_uppercase().collect(),
                });
                Value::from(swapped.collect::<String>())
            }
            "casefold" => Value::from(text.to_lowercase()),
            "isidentifier" => {
                let mut chars = text.chars();
                let first = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
                Value::from(first && chars.all(|c| c == '_' || c.is_alphanumeric()))
            }
            "join" => {
                let (items,): (&Value,) = from_args(args)?;
                let mut joined = String::new();
                for (index, item) in items.try_iter()?.enumerate() {
                    if index > 0 {
                        joined.push_str(text);
                    }
                    // Python refuses anything but strings here; so would a silent conversion hide a mistake.
                    joined.push_str(item.as_str().ok_or_else(|| {
                        invalid(&format!("sequence item {index}: expected str, found {}", item.kind()))
                    })?);
                }
                Value::from(joined)
            }
            _ => return Ok(None),
        };
    Ok(Some(value))
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == *wanted) {
                Some(at) => Ok(Some(Value::from(at))),
                None => Err(invalid(&format!("{} is not in list", to_str(wanted)))),
            }
        }
        "copy" => Ok(Some(value.clone())),
        // transformers renders in Jinja2's immutable sandbox.
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            Err(invalid(&format!("`{method}` changes a list, which templates may not do; use `list + [item]`")))
        }
        _ => Ok(None),
    }
}

/// `split(sep, maxsplit)`, the latter also by its name.
fn split_arguments(args: &[Value]) -> Result<(Option<&str>, Option<i64>), Error> {
    let (separator, most, kwargs): (Option<&str>, Option<i64>, minijinja::value::Kwargs) = from_args(args)?;
    let most = match most {
        Some(most) => Some(most),
        None => kwargs.get("maxsplit")?,
    };
    kwargs.assert_all_used()?;
    Ok((separator, most.filter(|most| *most >= 0)))
}

fn split(text: &str, separator: Option<&str>, most: Option<i64>, from_end: bool) -> Result<Value, Error> {
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let limit = most.saturating_add(1);
    let mut parts: Vec<&str> = match separator {
        Some(separator) => {
            not_empty(separator)?;
            if from_end { text.rsplitn(limit, separator).collect() } else { text.splitn(limit, separator).collect() }
        }
        None => words(text, most, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Split at runs of whitespace, those at the ends left out; from the end the words come last first.
fn words(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, !from_end, from_end);
    while !rest.is_empty() && parts.len() < most {
        let at = if from_end {
            rest.rfind(is_space).map(|at| at + rest[at..].chars().next().map_or(0, char::len_utf8))
        } else {
            rest.find(is_space)
        };
        let Some(at) = at else { break };
        let (head, tail) = rest.split_at(at);
        parts.push(if from_end { tail } else { head });
        rest = strip(if from_end { head } else { tail }, None, !from_end, from_end);
    }
    // What is left over keeps the whitespace at its far end.
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn lines(text: &str, keep: bool) -> Vec<Value> {
    let is_break =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_break) {
        let length =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(Value::from(&rest[..if keep { at + length } else { at }]));
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// How many characters are missing to `width`; bounded, so that a template cannot ask for all memory.
fn padding(width: usize, text: &str) -> Result<usize, Error> {
    const MOST: usize = 1 << 20;
    if width > MOST {
        return Err(invalid("the width is too large"));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

fn not_empty(separator: &str) -> Result<(), Error> {
    if separator.is_empty() { Err(invalid("empty separator")) } else { Ok(()) }
}

fn tuple<const N: usize>(parts: [&str; N]) -> Value {
    Value::from(Tuple::new(parts.into_iter().map(Value::from).collect()))
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}
