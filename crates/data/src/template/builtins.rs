//! The filters, tests and functions that chat templates find, with Jinja2's and transformers' behaviour.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minijinja::formatting::{FormatStyle, format};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use crate::template::date::strftime;
use crate::template::expression::PERCENT_FUNCTION;
use crate::template::methods;
use crate::template::python::{JsonStyle, to_json, to_str};
use crate::template::rewrite::GENERATION_FILTER;

/// Marks around what a `{% generation %}` block renders: two of the code points that Unicode keeps for
/// internal use, so that no text has them.
pub(crate) const GENERATION_START: char = '\u{fdd0}';
/// See [`GENERATION_START`].
pub(crate) const GENERATION_END: char = '\u{fdd1}';

/// What a template said to `raise_exception`.
#[derive(Debug)]
pub(crate) struct Raised(pub(crate) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The environment of transformers' `_compile_jinja_template`; `strftime_now` reads the seconds of `clock`.
pub(crate) fn environment(clock: Arc<AtomicI64>) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    minijinja_contrib::add_to_environment(&mut environment);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None if value.kind() == ValueKind::Invalid => Err(Error::new(ErrorKind::InvalidOperation, value.to_string())),
        None => Ok(out.write_str(&to_str(value))?),
    });

    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = to_str(message);
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(clock.load(Ordering::Relaxed), format));
    environment.add_function(PERCENT_FUNCTION, percent);

    environment.add_filter(GENERATION_FILTER, |body: &str| format!("{GENERATION_START}{body}{GENERATION_END}"));
    environment.add_filter("tojson", tojson);
    environment.add_filter("trim", |value: &Value, chars: Option<&str>| {
        methods::strip(&to_str(value), chars, true, true).to_owned()
    });
    environment.add_filter("string", to_str);
    environment.add_filter("int", int);
    environment
        .add_filter("float", |value: &Value, default: Option<f64>| as_float(value).or(default).unwrap_or_default());
    environment.add_filter("wordcount", |value: &Value| {
        to_str(value).split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("join", join);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    for (name, convert) in [("upper", str::to_uppercase as fn(&str) -> String), ("lower", str::to_lowercase)] {
        environment.add_filter(name, move |value: &Value| convert(&to_str(value)));
    }

    // Anything with a length and items by index, which in Python are strings and dictionaries, too.
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        )
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // The functions above and the template's macros; data is never callable.
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    Ok(environment)
}

/// `format_string % values`.
fn percent(format_string: &str, values: &Value) -> Result<String, Error> {
    let values: Vec<Value> = if values.is_tuple() { values.try_iter()?.collect() } else { vec![values.clone()] };
    format(FormatStyle::Printf, format_string, &values)
}

fn tojson(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let (positional, kwargs) = split_arguments(arguments);
    to_json(value, &JsonStyle::from_arguments(&positional, &kwargs)?)
}

/// `join(d='', attribute=None)`; items that are not strings are converted, as by Jinja2's filter and unlike
/// Python's method.
fn join(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let (positional, kwargs) = split_arguments(arguments);
    let named: Option<Value> = kwargs.get("d")?;
    let separator = positional.first().cloned().or(named).map_or_else(String::new, |value| to_str(&value));
    let named: Option<Value> = kwargs.get("attribute")?;
    let attribute = positional.get(1).cloned().or(named).filter(|value| !value.is_none());
    kwargs.assert_all_used()?;
    let mut joined = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            joined.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        joined.push_str(&to_str(&item));
    }
    Ok(joined)
}

/// `int(default=0, base=10)`: what is not a number is the default.
fn int(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let (positional, kwargs) = split_arguments(arguments);
    let named: Option<Value> = kwargs.get("default")?;
    let default = positional.first().cloned().or(named).unwrap_or_else(|| Value::from(0));
    let named: Option<Value> = kwargs.get("base")?;
    let base = positional.get(1).cloned().or(named);
    kwargs.assert_all_used()?;
    let base = base.and_then(|base| base.as_usize()).unwrap_or(10);
    let text = to_str(value);
    let whole = match value.kind() {
        ValueKind::Number if value.is_integer() => return Ok(value.clone()),
        // A radix that Python does not know either.
        ValueKind::String if (2..=36).contains(&base) => {
            i64::from_str_radix(&text.trim().replace('_', ""), base as u32).ok()
        }
        _ => None,
    };
    let cut = || as_float(value).filter(|float| float.abs() < 1e18).map(|float| float.trunc() as i64);
    Ok(whole.or_else(cut).map_or(default, Value::from))
}

fn as_float(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::String => value.as_str()?.trim().parse().ok(),
        _ => None,
    }
}

/// `default(default_value='', boolean=False)`.
fn default(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let (positional, kwargs) = split_arguments(arguments);
    let named: Option<Value> = kwargs.get("default_value")?;
    let other = positional.first().cloned().or(named).unwrap_or_else(|| Value::from(""));
    let named: Option<Value> = kwargs.get("boolean")?;
    let boolean = positional.get(1).cloned().or(named).is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

fn split_arguments(arguments: Rest<ValueOrKwargs>) -> (Vec<Value>, Kwargs) {
    let mut positional: Vec<Value> = arguments.0.into_iter().map(ValueOrKwargs::into_value).collect();
    let kwargs = match positional.pop() {
        Some(last) if last.is_kwargs() => Kwargs::try_from(last).unwrap_or_else(|_| no_kwargs()),
        last => {
            positional.extend(last);
            no_kwargs()
        }
    };
    (positional, kwargs)
}

fn no_kwargs() -> Kwargs {
    Kwargs::from_iter(std::iter::empty::<(String, Value)>())
}
