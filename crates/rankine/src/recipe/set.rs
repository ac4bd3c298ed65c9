//! `--set key.path=value`: a change of the recipe from the command line.

use super::yaml::{self, Entry, Node, Value};
use crate::fault::{Fault, Place};

/// Applies one argument to a parsed recipe; `source` is its index among the sources.
///
/// A path is keys joined by dots; an item of a list is its number, `datasets.0.path` or `datasets[0].path`. The value
/// is YAML (`8`, `1e-5`, `[q_proj, v_proj]`, `{path: x.jsonl}`); an empty one takes the key back to its default.
pub(crate) fn apply(root: &mut Node, argument: &str, source: usize) -> Result<(), Fault> {
    let whole = Place { source, start: 0, end: argument.len() };
    let Some((path, text)) = argument.split_once('=') else {
        return Err(Fault::new(format!("`--set {argument}` has no `=`")).at(whole).help("--set key.path=value"));
    };
    let offset = path.len() + 1;
    let value = yaml::parse(text, source, offset)?;
    let segments = segments(path, source)?;
    if segments.is_empty() {
        return Err(Fault::new("`--set` names no key").at(whole).help("--set key.path=value"));
    }
    if matches!(root.value, Value::Null) {
        root.value = Value::Mapping(Vec::new());
    }
    put(root, &segments, value)
}

struct Segment {
    name: String,
    place: Place,
}

fn segments(path: &str, source: usize) -> Result<Vec<Segment>, Fault> {
    let mut segments = Vec::new();
    let mut start = 0;
    for part in path.split(['.', '[']) {
        let place = Place { source, start, end: start + part.len() };
        start += part.len() + 1;
        let name = part.trim_end_matches(']').trim();
        if name.is_empty() {
            return Err(Fault::new("a name is missing in the path").at(place).label("here"));
        }
        segments.push(Segment { name: name.to_owned(), place });
    }
    Ok(segments)
}

fn put(node: &mut Node, path: &[Segment], value: Node) -> Result<(), Fault> {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    let place = first.place;
    match &mut node.value {
        Value::Mapping(entries) => {
            let index = match entries.iter().position(|entry| entry.key == first.name) {
                Some(index) => index,
                None => {
                    let node = Node { value: Value::Null, place };
                    entries.push(Entry { key: first.name.clone(), key_place: place, node });
                    entries.len() - 1
                }
            };
            let entry = &mut entries[index];
            // From here on a fault in this key is the argument's, not the file's.
            if rest.is_empty() {
                entry.key_place = place;
            }
            put(&mut entry.node, rest, value)
        }
        Value::Sequence(items) => {
            let count = items.len();
            let Ok(index) = first.name.parse::<usize>() else {
                return Err(Fault::new(format!("`{}` is no position in a list", first.name))
                    .at(place)
                    .help("an item of a list is named by its number, from 0"));
            };
            match items.get_mut(index) {
                Some(item) => put(item, rest, value),
                None if index == count => {
                    let mut item = Node { value: Value::Null, place };
                    put(&mut item, rest, value)?;
                    items.push(item);
                    Ok(())
                }
                None => Err(Fault::new(format!("there is no item {index}: the list has {count}")).at(place)),
            }
        }
        Value::Null if first.name == "0" => {
            node.value = Value::Sequence(Vec::new());
            put(node, path, value)
        }
        Value::Null => {
            node.value = Value::Mapping(Vec::new());
            put(node, path, value)
        }
        Value::Scalar { text, .. } => {
            Err(Fault::new(format!("`{}` cannot be set inside the value `{text}`", first.name)).at(place))
        }
    }
}
