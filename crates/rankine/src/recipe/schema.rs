//! The recipe's JSON schema, from its types, and what the rest of the program reads in it.
//!
//! One source for four things: the schema that editors load, the check of a recipe before it is deserialised, the
//! list of keys that a misspelt one is compared with, and the reference table of the README.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json};

use super::Recipe;

/// The JSON schema of a recipe, as `rankine schema` prints it.
pub fn json_schema() -> Json {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Recipe>();
    let Json::Object(mut all) = schema.to_value() else { return Json::Null };
    // What a reader looks for first goes first.
    let mut ordered = Map::new();
    for key in ["$schema", "title", "description"] {
        ordered.extend(all.remove(key).map(|value| (key.to_owned(), value)));
    }
    ordered.append(&mut all);
    Json::Object(ordered)
}

/// The recipe's reference: one Markdown table row a key, as `rankine schema --markdown` prints it.
pub fn markdown() -> String {
    let mut rows = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let mut skipped: Option<String> = None;
    for PathKey { path, key } in all_keys(&Shape::recipe()) {
        if skipped.as_ref().is_some_and(|section| path.starts_with(section)) {
            continue;
        }
        let value = key.shape.describe().replace('|', "\\|");
        let default = match &key.default {
            Some(default) => format!("`{}`", flow(default)),
            None if key.required => "required".to_owned(),
            None => String::new(),
        };
        let mut meaning = key.doc.replace('|', "\\|");
        if let Some(names) = key.shape.key_names() {
            // A section with the same keys as an earlier one is not told again.
            match sections.iter().find(|(_, known)| *known == names) {
                Some((earlier, _)) => {
                    meaning.push_str(&format!(" The keys are those of `{earlier}`."));
                    skipped = Some(format!("{path}["));
                }
                None => sections.push((path.clone(), names)),
            }
        }
        rows.push_str(&format!("| `{path}` | {value} | {default} | {meaning} |\n"));
    }
    rows
}

/// A JSON value as it would stand in a recipe.
fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        // 2e-4 rather than 0.0002: people read learning rates in powers of ten.
        Json::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float != 0.0 && float.abs() < 1e-3 => format!("{float:e}"),
            Some(float) => format!("{float}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// What a key may hold, read from its JSON schema.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Any,
    Boolean,
    Integer {
        minimum: Option<i64>,
    },
    Number(Range),
    Text,
    /// One of a closed set of words.
    Choice(Vec<String>),
    List {
        item: Box<Shape>,
        /// Exactly this many.
        length: Option<usize>,
    },
    /// Free keys.
    Map(Box<Shape>),
    /// Fixed keys.
    Record(Vec<Key>),
    /// Any of these.
    Union(Vec<Shape>),
}

/// The numbers that a [`Shape::Number`] allows; a bound is exclusive where it is `true`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Range {
    pub(crate) from: Option<(f64, bool)>,
    pub(crate) to: Option<(f64, bool)>,
}

impl Range {
    fn read(schema: &Json) -> Self {
        let bound = |plain: &str, exclusive: &str| {
            let plain = schema[plain].as_f64().map(|bound| (bound, false));
            schema[exclusive].as_f64().map(|bound| (bound, true)).or(plain)
        };
        Self { from: bound("minimum", "exclusiveMinimum"), to: bound("maximum", "exclusiveMaximum") }
    }

    /// Whether the number is one of them.
    pub(crate) fn contains(self, number: f64) -> bool {
        let above = self.from.is_none_or(|(bound, exclusive)| number > bound || (number == bound && !exclusive));
        above && self.to.is_none_or(|(bound, exclusive)| number < bound || (number == bound && !exclusive))
    }

    fn describe(self) -> String {
        let from = self.from.map(
            |(bound, exclusive)| {
                if exclusive { format!(" above {bound}") } else { format!(" from {bound}") }
            },
        );
        let to = self.to.map(
            |(bound, exclusive)| {
                if exclusive { format!(" below {bound}") } else { format!(" up to {bound}") }
            },
        );
        let both = if from.is_some() && to.is_some() { " and" } else { "" };
        format!("a number{}{both}{}", from.unwrap_or_default(), to.unwrap_or_default())
    }
}

/// A key of a [`Shape::Record`].
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    pub(crate) default: Option<Json>,
    pub(crate) doc: String,
}

/// A key with its path from the top, `lora.r` or `datasets[].path`.
#[derive(Debug, Clone)]
pub(crate) struct PathKey {
    pub(crate) path: String,
    pub(crate) key: Key,
}

impl Shape {
    /// The shape of a whole recipe.
    pub(crate) fn recipe() -> Self {
        let schema = json_schema();
        Self::read(&schema, &schema["definitions"])
    }

    fn read(schema: &Json, definitions: &Json) -> Self {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return Self::read(&definitions[name], definitions);
        }
        if let Some(all) = schema["allOf"].as_array() {
            // A reference with a sibling (its description) is written as an `allOf` of one.
            return all.first().map_or(Self::Any, |only| Self::read(only, definitions));
        }
        if let Some(alternatives) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            let known = alternatives.iter().filter(|schema| schema["type"] != "null");
            return Self::union(known.map(|schema| Self::read(schema, definitions)).collect());
        }
        if let Some(word) = schema["const"].as_str() {
            return Self::Choice(vec![word.to_owned()]);
        }
        if let Some(words) = schema["enum"].as_array() {
            return Self::Choice(words.iter().filter_map(Json::as_str).map(str::to_owned).collect());
        }
        match &schema["type"] {
            Json::String(name) => Self::of_type(name, schema, definitions),
            Json::Array(names) => {
                let names = names.iter().filter_map(Json::as_str).filter(|name| *name != "null");
                Self::union(names.map(|name| Self::of_type(name, schema, definitions)).collect())
            }
            _ => Self::Any,
        }
    }

    fn of_type(name: &str, schema: &Json, definitions: &Json) -> Self {
        match name {
            "boolean" => Self::Boolean,
            "integer" => Self::Integer { minimum: schema["minimum"].as_i64() },
            "number" => Self::Number(Range::read(schema)),
            "string" => Self::Text,
            "array" => {
                let exact = (schema["minItems"] == schema["maxItems"]).then(|| schema["minItems"].as_u64()).flatten();
                let item = Box::new(Self::read(&schema["items"], definitions));
                Self::List { item, length: exact.and_then(|length| usize::try_from(length).ok()) }
            }
            "object" => match schema["properties"].as_object() {
                Some(properties) => {
                    let required = schema["required"].as_array();
                    let key = |(name, schema): (&String, &Json)| Key {
                        name: name.clone(),
                        shape: Self::read(schema, definitions),
                        required: required.is_some_and(|names| names.iter().any(|known| known == name)),
                        default: schema.get("default").filter(|default| !default.is_null()).cloned(),
                        doc: one_line(schema["description"].as_str().unwrap_or_default()),
                    };
                    Self::Record(properties.iter().map(key).collect())
                }
                None => Self::Map(Box::new(Self::read(&schema["additionalProperties"], definitions))),
            },
            _ => Self::Any,
        }
    }

    /// Flattens nested alternatives and joins the words of a closed set.
    fn union(shapes: Vec<Self>) -> Self {
        let mut flat = Vec::new();
        let mut words = Vec::new();
        for shape in shapes {
            match shape {
                Self::Union(inner) => flat.extend(inner),
                Self::Choice(more) => words.extend(more),
                shape => flat.push(shape),
            }
        }
        if !words.is_empty() {
            flat.insert(0, Self::Choice(words));
        }
        if flat.len() == 1 { flat.remove(0) } else { Self::Union(flat) }
    }

    /// The names of a record's keys, or of the records of a list.
    fn key_names(&self) -> Option<Vec<String>> {
        match self {
            Self::Record(keys) => Some(keys.iter().map(|key| key.name.clone()).collect()),
            Self::List { item, .. } => item.key_names(),
            _ => None,
        }
    }

    /// Whether it holds one word, number or text.
    pub(crate) fn is_scalar(&self) -> bool {
        !matches!(self, Self::List { .. } | Self::Map(_) | Self::Record(_))
    }

    /// What is expected, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Any => "anything".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { minimum: Some(minimum) } if *minimum > 0 => format!("a whole number from {minimum}"),
            Self::Integer { .. } => "a whole number".to_owned(),
            Self::Number(range) => range.describe(),
            Self::Text => "text".to_owned(),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                words.join(" or ")
            }
            Self::List { item, length } => {
                let many = length.map_or(String::new(), |length| format!("{length} "));
                match item.as_ref() {
                    Self::Record(_) => format!("a list of {many}mappings"),
                    Self::Text => format!("a list of {many}texts"),
                    Self::Integer { .. } => format!("a list of {many}whole numbers"),
                    Self::Number(_) => format!("a list of {many}numbers"),
                    other => format!("a list of {many}({})", other.describe()),
                }
            }
            Self::Map(value) => format!("a mapping of names to {}", value.describe().replacen("a ", "", 1)),
            Self::Record(_) => "a mapping".to_owned(),
            Self::Union(shapes) => shapes.iter().map(Self::describe).collect::<Vec<_>>().join(", or "),
        }
    }
}

/// Every key of a recipe, parents before children.
pub(crate) fn all_keys(shape: &Shape) -> Vec<PathKey> {
    let mut keys = Vec::new();
    collect_keys(shape, "", &mut keys);
    keys
}

fn collect_keys(shape: &Shape, prefix: &str, keys: &mut Vec<PathKey>) {
    match shape {
        Shape::Record(record) => {
            for key in record {
                let path = if prefix.is_empty() { key.name.clone() } else { format!("{prefix}.{}", key.name) };
                keys.push(PathKey { path: path.clone(), key: key.clone() });
                collect_keys(&key.shape, &path, keys);
            }
        }
        Shape::List { item, .. } => collect_keys(item, &format!("{prefix}[]"), keys),
        Shape::Union(shapes) => shapes.iter().for_each(|shape| collect_keys(shape, prefix, keys)),
        _ => {}
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
