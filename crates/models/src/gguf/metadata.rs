//! The metadata of a file: what its keys hold, and reading them with the faults collected.

use std::collections::BTreeMap;
use std::fmt;

/// Every key and value.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    values: BTreeMap<String, Value>,
}

/// One value. Integers of every width are one kind here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bool(bool),
    String(String),
    /// A string that is not UTF-8.
    NotText,
    Array(Vec<Value>),
}

impl Metadata {
    pub(super) fn insert(&mut self, key: String, value: Value) -> Option<Value> {
        self.values.insert(key, value)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The text of a key, where it is one.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// The whole number of a key, where it is one.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }
}

impl Value {
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(crate) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(n) => i64::try_from(*n).ok(),
            Self::Signed(n) => Some(*n),
            _ => None,
        }
    }

    /// A number of any kind. A single is taken as the shortest decimal that means it: `1e-5` was 0.00001 before it was
    /// written as a single, and is that again.
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            Self::Single(value) => value.to_string().parse().ok(),
            Self::Double(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    /// For messages: short, whatever the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Single(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::String(text) if text.chars().count() <= 40 => write!(f, "{text:?}"),
            Self::String(text) => write!(f, "a text of {} characters", text.chars().count()),
            Self::NotText => f.write_str("a text that is not UTF-8"),
            Self::Array(values) => write!(f, "a list of {} values", values.len()),
        }
    }
}

/// The metadata, read with their faults collected.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    pub(super) faults: Vec<String>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(metadata: &'a Metadata) -> Self {
        Self { metadata, faults: Vec::new() }
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(key)
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// A whole number, or `None` where there is none.
    pub(super) fn number(&mut self, key: &str) -> Option<u64> {
        self.read(key, "a whole number", Value::as_u64)
    }

    /// A whole number that must be there.
    pub(super) fn needed_number(&mut self, key: &str) -> Option<u64> {
        self.missing(key, "a whole number");
        self.number(key)
    }

    pub(super) fn float(&mut self, key: &str) -> Option<f64> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&mut self, key: &str) -> Option<&'a str> {
        self.read(key, "a text", Value::as_str)
    }

    pub(super) fn array(&mut self, key: &str) -> Option<&'a [Value]> {
        self.read(key, "a list", Value::as_array)
    }

    /// A list whose every element is of a kind.
    pub(super) fn list<T>(&mut self, key: &str, kind: &str, one: fn(&'a Value) -> Option<T>) -> Option<Vec<T>> {
        let values = self.array(key)?;
        let mut list = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match one(value) {
                Some(value) => list.push(value),
                None => {
                    self.fault(format!("`{key}` has {value} at place {index}: {kind} is expected"));
                    return None;
                }
            }
        }
        Some(list)
    }

    pub(super) fn missing(&mut self, key: &str, expected: &str) {
        if self.value(key).is_none() {
            self.fault(format!("`{key}` is missing: {expected} is expected"));
        }
    }

    fn read<T>(&mut self, key: &str, expected: &str, one: fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let read = one(value);
        if read.is_none() {
            self.fault(format!("`{key}` is {value}: {expected} is expected"));
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singles_are_the_decimals_that_were_meant() {
        for (single, double) in [(1e-5_f32, 1e-5_f64), (1e-6, 1e-6), (1e6, 1e6), (500_000.0, 500_000.0), (0.1, 0.1)] {
            assert_eq!(Value::Single(single).as_f64(), Some(double));
        }
    }
}
