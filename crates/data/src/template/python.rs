//! What Python prints: `repr`, `str`, floats and `json.dumps`.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// `str(value)`; an undefined value prints as nothing, as in Jinja2.
pub(crate) fn to_str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => {
            let mut out = String::new();
            repr(value, &mut out);
            out
        }
    }
}

/// `repr(value)`, appended.
pub(crate) fn repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => repr_str(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            let mut count = 0;
            out.push(open);
            for item in value.try_iter().into_iter().flatten() {
                if count > 0 {
                    out.push_str(", ");
                }
                repr(&item, out);
                count += 1;
            }
            if value.is_tuple() && count == 1 {
                out.push(',');
            }
            out.push(close);
        }
        // Loops, macros and namespaces are maps here and opaque in Python; their own form is as good.
        ValueKind::Map if is_dict(value) => {
            out.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(&key, out);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// The options of `json.dumps` that templates use.
#[derive(Debug, Clone, Default)]
pub(crate) struct JsonStyle {
    pub(crate) ensure_ascii: bool,
    pub(crate) indent: Option<String>,
    /// Between items and between key and value.
    pub(crate) separators: Option<(String, String)>,
    pub(crate) sort_keys: bool,
}

impl JsonStyle {
    /// From the arguments of transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None,
    /// sort_keys=False)`.
    pub(crate) fn from_arguments(positional: &[Value], kwargs: &Kwargs) -> Result<Self, Error> {
        let argument = |index: usize, name: &str| -> Result<Value, Error> {
            let named: Option<Value> = kwargs.get(name)?;
            Ok(positional.get(index).cloned().or(named).unwrap_or_default())
        };
        let indent = argument(1, "indent")?;
        let separators = argument(2, "separators")?;
        let style = Self {
            ensure_ascii: argument(0, "ensure_ascii")?.is_true(),
            indent: match indent.as_str() {
                Some(text) => Some(text.to_owned()),
                None => indent.as_usize().map(|width| " ".repeat(width.min(64))),
            },
            separators: match (separators.get_item_by_index(0), separators.get_item_by_index(1)) {
                (Ok(item), Ok(key)) if !item.is_undefined() && !key.is_undefined() => {
                    Some((to_str(&item), to_str(&key)))
                }
                _ => None,
            },
            sort_keys: argument(3, "sort_keys")?.is_true(),
        };
        kwargs.assert_all_used()?;
        Ok(style)
    }
}

/// `json.dumps(value)` to the byte.
pub(crate) fn to_json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    let (item, key) = match &style.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if style.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let writer = JsonWriter { style, item, key };
    writer.write(value, 0, &mut out)?;
    Ok(out)
}

struct JsonWriter<'a> {
    style: &'a JsonStyle,
    item: &'a str,
    key: &'a str,
}

impl JsonWriter<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map if is_dict(value) => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.list(('{', '}'), &keys, depth, out, |key, out| {
                    self.string(&json_key(key)?, out);
                    out.push_str(self.key);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            other => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a value of type {other} is not JSON serializable"),
                ));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        (open, close): (char, char),
        items: &[Value],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(self.item);
            }
            self.line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            self.line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.style.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(to_str(key)),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(json_number(key)),
        other => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("keys must be strings, numbers, booleans or none, not {other}"),
        )),
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        "nan" => "NaN".to_owned(),
        finite => finite.to_owned(),
    }
}

fn is_dict(value: &Value) -> bool {
    value.try_iter().is_ok()
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) => float_repr(float),
        Err(_) => value.to_string(),
    }
}

/// `repr` of a float: the shortest digits, an exponent below 1e-4 and from 1e16.
pub(crate) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// `repr` of a string: single quotes unless it has those and no double ones; escapes for what is not printed.
fn repr_str(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printed(c) => out.push(c),
            c => {
                let code = c as u32;
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable`, but for code points that Unicode has not assigned.
fn is_printed(c: char) -> bool {
    let format_or_private = matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0001}'..='\u{e007f}' | '\u{f0000}'..);
    !(c.is_control() || format_or_private || (c.is_whitespace() && c != ' '))
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;

    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        for (float, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e100, "1e+100"),
            (123_456.789, "123456.789"),
        ] {
            assert_eq!(float_repr(float), expected);
        }
    }

    #[test]
    fn json_is_that_of_python() {
        let value = Value::from(Serde(serde_json::json!({
            "é": ["a\"\u{7f}\u{1}", null, true, 1.0, 1e20, {}, []], "b": {"c": -3}
        })));
        let style = JsonStyle::default();
        assert_eq!(
            to_json(&value, &style).unwrap(),
            "{\"é\": [\"a\\\"\u{7f}\\u0001\", null, true, 1.0, 1e+20, {}, []], \"b\": {\"c\": -3}}"
        );
        let style =
            JsonStyle { ensure_ascii: true, indent: Some("  ".to_owned()), sort_keys: true, ..JsonStyle::default() };
        assert_eq!(
            to_json(&value, &style).unwrap(),
            "{\n  \"b\": {\n    \"c\": -3\n  },\n  \"\\u00e9\": [\n    \"a\\\"\\u007f\\u0001\",\n    null,\n    \
             true,\n    1.0,\n    1e+20,\n    {},\n    []\n  ]\n}"
        );
        assert!(to_json(&Value::UNDEFINED, &style).is_err());
    }

    #[test]
    fn repr_is_that_of_python() {
        let value = Value::from(Serde(serde_json::json!(
            {"a": ["it's", "\"it's\"", "x\n\u{a0}\u{200b}é"], "b": null, "c": true, "d": 0.5}
        )));
        assert_eq!(
            to_str(&value),
            "{'a': [\"it's\", '\"it\\'s\"', 'x\\n\\xa0\\u200bé'], 'b': None, 'c': True, 'd': 0.5}"
        );
    }
}
