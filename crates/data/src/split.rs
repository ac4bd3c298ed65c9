//! A part of the records held out for validation.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::examples::Examples;
use crate::record::RecordSource;

/// How much is held out: `0.1` is a tenth of the records, `50` is fifty of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValSize {
    /// A share, above 0 and below 1.
    Fraction(f64),
    /// A number of records.
    Count(usize),
}

/// Divides examples into those to train on and those to validate with, each in their order.
///
/// Which side a record is on depends on its tokens and the seed alone, so equal records are never on both
/// sides, nor are the several examples of one record, and new records do not move old ones far. Where records
/// repeat, the number held out may be a little off; at least one record stays to train on.
///
/// # Errors
/// A file of examples that cannot be read.
pub fn split_validation(examples: Examples, val_size: ValSize, seed: u64) -> Result<(Examples, Examples), DataError> {
    let mut records = records(&examples, seed)?;
    let wanted = match val_size {
        ValSize::Fraction(share) => ((share * records.len() as f64).round() as usize).max(1),
        ValSize::Count(count) => count,
    };
    records.sort_unstable();
    let groups: Vec<&[HashedRecord]> = records.chunk_by(|a, b| a.hash == b.hash).collect();
    let mut held_out = vec![false; examples.len()];
    let mut count = 0;
    for group in groups.iter().take(groups.len().saturating_sub(1)) {
        // A group that would overshoot by more than stopping here would fall short is left.
        if count >= wanted || (count + group.len()).saturating_sub(wanted) > wanted - count {
            continue;
        }
        count += group.len();
        for record in *group {
            held_out[record.first..record.end].fill(true);
        }
    }
    Ok(examples.divide(&held_out))
}

/// A record by its tokens, and which examples are its.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HashedRecord {
    hash: u128,
    first: usize,
    end: usize,
}

/// The records in the order of the examples; several examples of one follow one another.
fn records(examples: &Examples, seed: u64) -> Result<Vec<HashedRecord>, DataError> {
    let mut records = Vec::new();
    let mut current: Option<(u32, RecordSource, Sha256)> = None;
    let mut first = 0;
    let mut end_of = |hash: Sha256, first, end| {
        // Half of the hash keeps as many records apart as anyone has.
        let hash = hash.finalize().first_chunk().map_or(0, |half| u128::from_be_bytes(*half));
        records.push(HashedRecord { hash, first, end });
    };
    for (index, example) in examples.iter().enumerate() {
        let example = example?;
        let same =
            matches!(&current, Some((dataset, source, _)) if *dataset == example.dataset && *source == example.source);
        if !same {
            let mut hash = Sha256::new();
            hash.update("rankine validation\0");
            hash.update(seed.to_le_bytes());
            if let Some((.., hash)) = current.replace((example.dataset, example.source.clone(), hash)) {
                end_of(hash, first, index);
            }
            first = index;
        }
        if let Some((.., hash)) = &mut current {
            hash.update((example.input_ids.len() as u64).to_le_bytes());
            example.input_ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
    }
    if let Some((.., hash)) = current {
        end_of(hash, first, examples.len());
    }
    Ok(records)
}

impl Serialize for ValSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fraction(share) => serializer.serialize_f64(*share),
            Self::Count(count) => serializer.serialize_u64(*count as u64),
        }
    }
}

impl<'de> Deserialize<'de> for ValSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

const EXPECTED: &str = "a share above 0 and below 1, or a whole number of records";

impl Visitor<'_> for NumberVisitor {
    type Value = ValSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ValSize, E> {
        usize::try_from(number).map(ValSize::Count).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ValSize, E> {
        usize::try_from(number)
            .map(ValSize::Count)
            .map_err(|_| E::custom(format_args!("{number} is negative: expected {EXPECTED}")))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<ValSize, E> {
        if number > 0.0 && number < 1.0 {
            Ok(ValSize::Fraction(number))
        } else if number >= 0.0 && number.fract() == 0.0 && number < 1e15 {
            Ok(ValSize::Count(number as usize))
        } else {
            Err(E::custom(format_args!("{number}: expected {EXPECTED}")))
        }
    }
}

impl JsonSchema for ValSize {
    fn schema_name() -> Cow<'static, str> {
        "ValSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How much is held out: a share (0.1) or a number of records (50).",
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": "integer", "minimum": 0}
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::Example;

    fn examples(count: u32) -> Vec<Example> {
        (0..count)
            .map(|index| {
                // Every third record stands there twice.
                let content = if index % 3 == 2 { index - 1 } else { index };
                Example {
                    input_ids: vec![content, content * 31 % 17, 5],
                    labels: vec![-100, 1, 2],
                    completion_start: None,
                    source: RecordSource::new("a", index as usize + 1),
                    dataset: 0,
                }
            })
            .collect()
    }

    fn split(examples: Vec<Example>, val_size: ValSize, seed: u64) -> (Vec<Example>, Vec<Example>) {
        let (train, validation) = split_validation(examples.into(), val_size, seed).unwrap();
        (train.into_memory().unwrap(), validation.into_memory().unwrap())
    }

    #[test]
    fn the_split_is_that_of_the_seed_and_equal_records_stay_together() {
        let (train, validation) = split(examples(300), ValSize::Fraction(0.1), 7);
        assert_eq!(train.len() + validation.len(), 300);
        assert!((29..=31).contains(&validation.len()), "{}", validation.len());
        assert!(train.iter().all(|a| validation.iter().all(|b| a.input_ids != b.input_ids)));
        assert!(train.windows(2).all(|pair| pair[0].source.line < pair[1].source.line));
        assert_eq!(split(examples(300), ValSize::Fraction(0.1), 7), (train, validation.clone()));
        assert_ne!(split(examples(300), ValSize::Fraction(0.1), 8).1, validation);
        let mut reversed = examples(300);
        reversed.reverse();
        let mut other = split(reversed, ValSize::Fraction(0.1), 7).1;
        other.reverse();
        assert_eq!(other, validation, "the order of the data does not matter");
    }

    #[test]
    fn counts_are_kept_and_something_is_left() {
        assert_eq!(split(examples(2), ValSize::Count(1), 0).1.len(), 1);
        assert_eq!(split(examples(90), ValSize::Count(0), 0).1.len(), 0);
        let held_out = split(examples(90), ValSize::Count(10), 0).1.len();
        assert!((9..=11).contains(&held_out), "{held_out}");
        assert!(!split(examples(3), ValSize::Count(100), 0).0.is_empty());
        assert_eq!(split(examples(1), ValSize::Fraction(0.9), 0).0.len(), 1);
    }

    #[test]
    fn the_examples_of_one_record_stay_together() {
        let mut list = examples(60);
        for example in &mut list {
            example.source.line = example.source.line.div_ceil(2);
        }
        let (train, validation) = split(list, ValSize::Fraction(0.3), 3);
        assert!(!validation.is_empty());
        assert!(train.iter().all(|a| validation.iter().all(|b| a.source != b.source)));
    }

    #[test]
    fn sizes_are_read_as_they_are_meant() {
        let read = |text: &str| serde_json::from_str::<ValSize>(text).map_err(|error| error.to_string());
        assert_eq!(read("0.1"), Ok(ValSize::Fraction(0.1)));
        assert_eq!(read("50"), Ok(ValSize::Count(50)));
        assert_eq!(read("2.0"), Ok(ValSize::Count(2)));
        assert_eq!(read("0"), Ok(ValSize::Count(0)));
        for bad in ["-1", "1.5", "-0.5", "\"x\"", "1e300"] {
            let message = read(bad).unwrap_err();
            assert!(message.contains("a share above 0 and below 1, or a whole number"), "{message}");
        }
        assert_eq!(serde_json::to_string(&ValSize::Count(3)).unwrap(), "3");
    }
}
