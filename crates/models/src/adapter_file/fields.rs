//! A JSON object read field by field, so that all its faults are found.

use std::collections::BTreeMap;

use rankine_nn::lora::TargetModules;
use serde_json::{Map, Value};

use super::fault::ConfigFault;

/// What is left of the object, and what was wrong with what was taken.
pub(super) struct Fields {
    map: Map<String, Value>,
    pub(super) faults: Vec<ConfigFault>,
}

impl Fields {
    pub(super) const MODULES: &'static str = "a list of names or a regular expression";

    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self { map, faults: Vec::new() }
    }

    /// The field, unless it is absent or null.
    pub(super) fn take(&mut self, field: &'static str) -> Option<Value> {
        // Shifting keeps the order, in which unknown keys are reported.
        self.map.shift_remove(field).filter(|value| !value.is_null())
    }

    pub(super) fn optional<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(field)?;
        let read = read(&value);
        if read.is_none() {
            self.faults.push(ConfigFault::Type { field, expected, found: shortened(&value) });
        }
        read
    }

    pub(super) fn required<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if self.map.get(field).is_none_or(Value::is_null) {
            self.faults.push(ConfigFault::Missing { field, expected });
            return None;
        }
        self.optional(field, expected, read)
    }

    pub(super) fn flag(&mut self, field: &'static str) -> bool {
        self.optional(field, "true or false", Value::as_bool).unwrap_or_default()
    }

    pub(super) fn optional_text(&mut self, field: &'static str) -> Option<String> {
        self.optional(field, "text", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn by_module<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let read = |value: &Value| value.as_object()?.iter().map(|(k, v)| Some((k.clone(), read(v)?))).collect();
        self.optional(field, expected, read).unwrap_or_default()
    }

    pub(super) fn refuse_unless(
        &mut self,
        field: &'static str,
        supported: impl FnOnce(&Value) -> bool,
        reason: &'static str,
    ) {
        if let Some(value) = self.take(field).filter(|value| !supported(value)) {
            self.faults.push(ConfigFault::Unsupported { field, found: shortened(&value), reason });
        }
    }

    /// Whether the keys of an object stand in sorted order.
    pub(super) fn is_sorted(&self, field: &str) -> bool {
        self.map.get(field).and_then(Value::as_object).is_none_or(|map| map.keys().is_sorted())
    }

    /// Keys that nobody took and that say something.
    pub(super) fn unknown(&mut self) -> Vec<String> {
        let says = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        self.map.iter().filter(|(_, value)| says(value)).map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn index(value: &Value) -> Option<usize> {
        value.as_u64().and_then(|n| usize::try_from(n).ok())
    }

    pub(super) fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        value.as_array()?.iter().map(read).collect()
    }

    pub(super) fn names(value: &Value) -> Option<Vec<String>> {
        Self::list(value, |name| name.as_str().map(str::to_owned))
    }

    pub(super) fn modules(value: &Value) -> Option<TargetModules> {
        let pattern = value.as_str().map(|pattern| TargetModules::Pattern(pattern.to_owned()));
        pattern.or_else(|| Self::names(value).map(TargetModules::Names))
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
