//! A parsed tree against the recipe's shape: every wrong key and value at once, each at its place.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value as Json};

use super::hints;
use super::schema::{Key, Range, Shape};
use super::yaml::{Entry, Node, Value};
use crate::fault::{Fault, Place};

/// Where each key of a recipe stands, by its path (`lora.r`, `datasets[0].path`).
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// Whether the key itself was written, with a value.
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The place of a key; of the nearest parent that was written, where the key itself was not.
    pub fn of(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// What a check found.
pub(crate) struct Checked {
    /// The tree with every scalar typed as its key asks; complete only where there are no faults.
    pub(crate) json: Json,
    pub(crate) places: Places,
    pub(crate) faults: Vec<Fault>,
}

/// Checks a whole recipe.
pub(crate) fn check(root: &Node, shape: &Shape) -> Checked {
    let mut checker = Checker { root: shape, places: Places::default(), faults: Vec::new() };
    let root = match &root.value {
        // An empty file is a recipe that lacks its required keys.
        Value::Null => &Node { value: Value::Mapping(Vec::new()), place: root.place },
        _ => root,
    };
    let json = checker.value(root, shape, "").unwrap_or_default();
    Checked { json, places: checker.places, faults: checker.faults }
}

struct Checker<'s> {
    root: &'s Shape,
    places: Places,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    /// The typed value; `None` for a null (the same as a key that is not there) and where a fault was noted.
    fn value(&mut self, node: &Node, shape: &Shape, path: &str) -> Option<Json> {
        match (&node.value, shape) {
            (Value::Null, _) => None,
            (_, Shape::Union(shapes)) => self.union(node, shape, shapes, path),
            (Value::Mapping(entries), Shape::Record(keys)) => Some(self.record(node.place, entries, keys, path)),
            (Value::Mapping(entries), Shape::Map(item)) => {
                let mut map = Map::new();
                for entry in entries {
                    let path = join(path, &entry.key);
                    if let Some(value) = self.value(&entry.node, item, &path) {
                        map.insert(entry.key.clone(), value);
                    }
                }
                Some(Json::Object(map))
            }
            (Value::Sequence(items), Shape::List { item, length }) => {
                if length.is_some_and(|length| length != items.len()) {
                    let fault = Fault::new(format!("expected {}, found {}", shape.describe(), items.len()));
                    self.faults.push(named(fault, path).at(head(node)));
                    return None;
                }
                let mut list = Vec::new();
                for (index, node) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.places.0.insert(path.clone(), head(node));
                    if matches!(node.value, Value::Null) {
                        self.faults.push(Fault::new(format!("`{path}` is empty")).at(node.place));
                    }
                    list.extend(self.value(node, item, &path));
                }
                Some(Json::Array(list))
            }
            (_, Shape::Any) => Some(untyped(node)),
            (Value::Scalar { text, plain }, shape) if shape.is_scalar() => match scalar(text, *plain, shape) {
                Ok(value) => Some(value),
                Err(fault) => {
                    self.faults.push(named(fault, path).at(node.place));
                    None
                }
            },
            (found, expected) => {
                self.faults.push(kind_fault(found, expected, path).at(head(node)));
                None
            }
        }
    }

    fn record(&mut self, place: Place, entries: &[Entry], keys: &[Key], path: &str) -> Json {
        let mut map = Map::new();
        for entry in entries {
            let entry_path = join(path, &entry.key);
            let Some(key) = keys.iter().find(|key| key.name == entry.key) else {
                self.faults.push(hints::unknown_key(path, &entry.key, keys, self.root).at(entry.key_place));
                continue;
            };
            let place = match entry.node.value {
                Value::Scalar { .. } => entry.node.place,
                Value::Null | Value::Sequence(_) | Value::Mapping(_) => entry.key_place,
            };
            if !matches!(entry.node.value, Value::Null) {
                self.places.0.insert(entry_path.clone(), place);
            }
            if let Some(value) = self.value(&entry.node, &key.shape, &entry_path) {
                map.insert(key.name.clone(), value);
            }
        }
        for key in keys.iter().filter(|key| key.required) {
            let written = entries.iter().find(|entry| entry.key == key.name);
            let missing = match written {
                None => format!("`{}` is missing", join(path, &key.name)),
                Some(entry) if matches!(entry.node.value, Value::Null) => {
                    format!("`{}` has no value", join(path, &key.name))
                }
                Some(_) => continue,
            };
            let fault = Fault::new(missing).help(format!("expected {}: {}", key.shape.describe(), key.doc));
            // The top of the file is no place to show.
            let place = written.map(|entry| entry.key_place).or((!path.is_empty()).then_some(place));
            self.faults.push(fault.at(place.map(|place| first_line(place, entries))));
        }
        Json::Object(map)
    }

    /// The first alternative that fits the kind of value; its own faults are reported where none fits whole.
    fn union(&mut self, node: &Node, whole: &Shape, shapes: &[Shape], path: &str) -> Option<Json> {
        let same_kind = |shape: &&Shape| match &node.value {
            Value::Null => false,
            Value::Scalar { text, plain } => scalar(text, *plain, shape).is_ok(),
            Value::Sequence(_) => matches!(shape, Shape::List { .. } | Shape::Any),
            Value::Mapping(_) => matches!(shape, Shape::Record(_) | Shape::Map(_) | Shape::Any),
        };
        match shapes.iter().find(same_kind) {
            Some(shape) => self.value(node, shape, path),
            None => {
                let fault = Fault::new(format!("expected {}, found {}", whole.describe(), found(&node.value)));
                self.faults.push(named(fault, path).at(head(node)));
                None
            }
        }
    }
}

/// A scalar as the shape asks, or the fault without its place.
fn scalar(text: &str, plain: bool, shape: &Shape) -> Result<Json, Fault> {
    let expected = |help: Option<&str>| {
        let shown = if plain { format!("`{text}`") } else { format!("the text \"{text}\"") };
        let fault = Fault::new(format!("expected {}, found {shown}", shape.describe()));
        match help {
            Some(help) => fault.help(help),
            None if !plain && matches!(shape, Shape::Number(_) | Shape::Integer { .. } | Shape::Boolean) => {
                fault.help("without the quotes")
            }
            None => fault,
        }
    };
    match shape {
        Shape::Text => Ok(Json::String(text.to_owned())),
        Shape::Boolean if plain => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(Json::Bool(true)),
            "false" | "no" | "off" => Ok(Json::Bool(false)),
            _ => Err(expected(None)),
        },
        Shape::Number(range) if plain => {
            let number = parse_float(text).filter(|number| range.contains(*number)).ok_or_else(|| expected(None))?;
            Number::from_f64(number).map(Json::Number).ok_or_else(|| expected(Some("a finite number")))
        }
        Shape::Integer { minimum } if plain => {
            let whole = parse_integer(text).ok_or_else(|| expected(None))?;
            if minimum.is_some_and(|minimum| whole < i128::from(minimum)) {
                let minimum = minimum.unwrap_or_default();
                return Err(expected(Some(&format!("at least {minimum}"))));
            }
            let number = u64::try_from(whole).map(Number::from).or(i64::try_from(whole).map(Number::from));
            number.map(Json::Number).map_err(|_| expected(Some("this is beyond 64 bits")))
        }
        Shape::Choice(words) => {
            if words.iter().any(|word| word == text) {
                return Ok(Json::String(text.to_owned()));
            }
            let near =
                || hints::nearest(text, words.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
            Err(expected(hints::value_hint(text).map(str::to_owned).or_else(near).as_deref()))
        }
        Shape::Any => Ok(untyped_scalar(text, plain)),
        _ => Err(expected(None)),
    }
}

/// Every spelling of a finite or infinite decimal: `1e-5`, `1e-05`, `1.0E-5`, `2`, `.5`, `1_000`. Never `nan` or `inf`.
fn parse_float(text: &str) -> Option<f64> {
    let digits = text.replace('_', "");
    let decimal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    if decimal { digits.parse().ok() } else { None }
}

/// Whole numbers, also as `1_000`, `1e3` or `8.0`.
fn parse_integer(text: &str) -> Option<i128> {
    if let Ok(whole) = text.replace('_', "").parse() {
        return Some(whole);
    }
    let float = parse_float(text)?;
    // Above 2^53 a float no longer tells neighbouring integers apart.
    (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i128)
}

fn untyped(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar { text, plain } => untyped_scalar(text, *plain),
        Value::Sequence(items) => Json::Array(items.iter().map(untyped).collect()),
        Value::Mapping(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), untyped(&entry.node))).collect())
        }
    }
}

fn untyped_scalar(text: &str, plain: bool) -> Json {
    let kinds = [Shape::Boolean, Shape::Integer { minimum: None }, Shape::Number(Range::default())];
    let typed = kinds.iter().find_map(|shape| scalar(text, plain, shape).ok());
    typed.unwrap_or_else(|| Json::String(text.to_owned()))
}

fn kind_fault(value: &Value, expected: &Shape, path: &str) -> Fault {
    let fault = named(Fault::new(format!("expected {}, found {}", expected.describe(), found(value))), path);
    match expected {
        Shape::List { item, .. } if matches!(item.as_ref(), Shape::Record(_)) => {
            fault.help("each item begins with `- `")
        }
        _ => fault,
    }
}

fn named(mut fault: Fault, path: &str) -> Fault {
    if path.is_empty() {
        fault.what = format!("a recipe is a mapping of keys to values: {}", fault.what);
    } else {
        fault.what = format!("`{path}`: {}", fault.what);
    }
    fault
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar { text, plain: true } => format!("`{text}`"),
        Value::Scalar { text, plain: false } => format!("the text \"{text}\""),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A scalar's place, or where a collection starts: a label under many lines says less than one under the first.
fn head(node: &Node) -> Place {
    match &node.value {
        Value::Null | Value::Scalar { .. } => node.place,
        Value::Sequence(items) => items.first().map_or(node.place, head),
        Value::Mapping(entries) => entries.first().map_or(node.place, |entry| entry.key_place),
    }
}

fn first_line(place: Place, entries: &[Entry]) -> Place {
    entries.iter().map(|entry| entry.key_place).find(|key| key.start >= place.start).unwrap_or(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_float_is_a_float() {
        for (text, value) in
            [("1e-5", 1e-5), ("1e-05", 1e-5), ("1.0E-5", 1e-5), ("2", 2.0), (".5", 0.5), ("+3.", 3.0), ("1_000", 1e3)]
        {
            assert_eq!(scalar(text, true, &Shape::Number(Range::default())), Ok(Json::from(value)), "{text}");
        }
        for text in ["nan", "inf", ".inf", "1e400", "1e", "e5", "0x10", "two", ""] {
            assert!(scalar(text, true, &Shape::Number(Range::default())).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        let shape = Shape::Integer { minimum: Some(0) };
        for (text, value) in
            [("8", 8u64), ("1e3", 1000), ("8.0", 8), ("1_000", 1000), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(scalar(text, true, &shape), Ok(Json::from(value)), "{text}");
        }
        for text in ["-1", "0.5", "1e300", "eight", "18446744073709551616"] {
            assert!(scalar(text, true, &shape).is_err(), "{text}");
        }
    }
}
