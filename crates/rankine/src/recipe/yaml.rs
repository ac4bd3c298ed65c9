//! YAML text to a tree whose every key and value knows its place.
//!
//! Scalars stay as they were written: what `1e-5` or `no` means is decided by the key's type (`check.rs`), so that
//! a version number stays a string and every spelling of a float is a float.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::fault::{Fault, Place};

/// Aliases may repeat a part of the file; a tree above this many nodes is refused.
const MAX_NODES: usize = 100_000;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// What stands there.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    /// `plain` is false for quoted and block text, which is never a number.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

/// Parses one document; `offset` is where `text` begins in its source. An empty text is an empty mapping.
pub(crate) fn parse(text: &str, source: usize, offset: usize) -> Result<Node, Fault> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), source, offset, text, anchors: HashMap::new(), nodes: 0 };
    reader.document()
}

struct Reader<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> {
    parser: I,
    source: usize,
    offset: usize,
    text: &'a str,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> Reader<'a, I> {
    fn document(&mut self) -> Result<Node, Fault> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    let place = self.place(&span);
                    return Err(Fault::new("there is a second document after `---`; a recipe is one").at(place));
                }
                event => root = Some(self.node(event, &span)?),
            }
        }
        let start = Place { source: self.source, start: self.offset, end: self.offset };
        Ok(root.unwrap_or(Node { value: Value::Null, place: start }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax_fault(&error)),
            None => Err(Fault::new("the YAML text ends in the middle")),
        }
    }

    fn syntax_fault(&self, error: &ScanError) -> Fault {
        let mark = error.marker();
        // The end of the text is a place without a character; the label then stands on the last one.
        let mut start = mark.byte_offset().unwrap_or(0).min(self.text.len().saturating_sub(1));
        // The parser's place is where the value began, the tab is on a later line.
        if error.info().contains("tab") {
            start += self.text.get(start..).and_then(|rest| rest.find('\t')).unwrap_or(0);
        }
        let place = Place { source: self.source, start: self.offset + start, end: self.offset + start };
        Fault::new(format!("this is not YAML: {}", error.info())).at(place).label("here").help(
            "indentation is by spaces; text that holds `: `, `#`, `{`, `[` or begins with `*`, `&` goes in quotes",
        )
    }

    fn place(&self, span: &Span) -> Place {
        let range = span.byte_range().unwrap_or(0..0);
        Place { source: self.source, start: self.offset + range.start, end: self.offset + range.end.max(range.start) }
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Fault> {
        let mut place = self.place(span);
        self.count(1, place)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged_string = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !tagged_string;
                let null = plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar { text: text.into_owned(), plain } };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        place.end = self.place(&span).end.max(place.end);
                        break;
                    }
                    items.push(self.node(event, &span)?);
                }
                (Value::Sequence(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (self.mapping(&mut place)?, anchor),
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned();
                let node = node.ok_or_else(|| Fault::new("an alias inside the value that it names").at(place))?;
                self.count(size(&node), place)?;
                return Ok(node);
            }
            _ => return Err(Fault::new("unexpected YAML").at(place)),
        };
        let node = Node { value, place };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, place: &mut Place) -> Result<Value, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = self.place(&span);
            let key = match event {
                Event::MappingEnd => {
                    place.end = key_place.end.max(place.end);
                    break;
                }
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(Fault::new("a key is a plain word").at(key_place)),
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span)?;
            if key == "<<" {
                merged.extend(merge_sources(node)?);
            } else if entries.iter().any(|entry| entry.key == key) {
                return Err(Fault::new(format!("`{key}` is given twice")).at(key_place).label("the second time"));
            } else {
                entries.push(Entry { key, key_place, node });
            }
        }
        // What is written here wins over what is merged in, earlier merges over later ones.
        for entry in merged {
            if entries.iter().all(|known| known.key != entry.key) {
                entries.push(entry);
            }
        }
        Ok(Value::Mapping(entries))
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Fault::new(format!("the file unfolds to more than {MAX_NODES} values")).at(place));
        }
        Ok(())
    }
}

fn merge_sources(node: Node) -> Result<Vec<Entry>, Fault> {
    match node.value {
        Value::Mapping(entries) => Ok(entries),
        Value::Sequence(items) => {
            let lists: Result<Vec<_>, _> = items.into_iter().map(merge_sources).collect();
            Ok(lists?.into_iter().flatten().collect())
        }
        Value::Null | Value::Scalar { .. } => Err(Fault::new("`<<` merges mappings").at(node.place)),
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar { .. } => 1,
        Value::Sequence(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| size(&entry.node)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar<'a>(node: &'a Node, key: &str) -> &'a str {
        let Value::Mapping(entries) = &node.value else { panic!("not a mapping") };
        match &entries.iter().find(|entry| entry.key == key).expect("the key").node.value {
            Value::Scalar { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_are_byte_ranges_of_the_source() {
        let text = "# é\nlora:\n  r: 8\n";
        let node = parse(text, 0, 0).expect("YAML");
        let Value::Mapping(entries) = &node.value else { panic!() };
        let Value::Mapping(inner) = &entries[0].node.value else { panic!() };
        assert_eq!(&text[inner[0].key_place.start..inner[0].key_place.end], "r");
        assert_eq!(&text[inner[0].node.place.start..inner[0].node.place.end], "8");
    }

    #[test]
    fn aliases_and_merges_are_unfolded() {
        let node = parse("a: &x {r: 8, alpha: 1}\nb:\n  <<: *x\n  alpha: 2\n", 0, 0).expect("YAML");
        let Value::Mapping(entries) = &node.value else { panic!() };
        assert_eq!((scalar(&entries[1].node, "r"), scalar(&entries[1].node, "alpha")), ("8", "2"));
    }

    #[test]
    fn a_billion_laughs_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let alias = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
        }
        assert!(parse(&text, 0, 0).expect_err("too large").what.contains("unfolds"));
    }

    #[test]
    fn twice_the_same_key_is_a_fault_at_the_second() {
        let fault = parse("r: 1\nr: 2\n", 0, 0).expect_err("twice");
        assert_eq!(fault.place.map(|place| place.start), Some(5));
    }
}
