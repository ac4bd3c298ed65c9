//! Counts and lengths of examples, and how much of the batches is padding.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::example::{Example, IGNORED};
use crate::loader::Loader;
use crate::record::RecordSource;

/// Bars of a histogram at most.
const BARS: usize = 12;
/// Groups of equal records that are named.
const SHOWN: usize = 5;

/// What there is to count in a set of examples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetStatistics {
    /// Sequences for the model.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those that are trained on.
    pub trained_tokens: usize,
    /// How long they are.
    pub lengths: Lengths,
    /// Those that are there twice.
    pub duplicates: Duplicates,
}

/// Lengths in tokens, after cutting.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub shortest: usize,
    /// Half are shorter.
    pub median: usize,
    /// 95 of 100 are shorter.
    pub p95: usize,
    /// The longest.
    pub longest: usize,
    /// Neighbouring ranges, from the shortest to the longest.
    pub histogram: Vec<Bar>,
}

/// Examples of a range of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Fewest tokens.
    pub from: usize,
    /// Most tokens.
    pub to: usize,
    /// Examples.
    pub examples: usize,
}

/// Examples that repeat others.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Duplicates {
    /// Examples whose tokens an earlier one has.
    pub repeated: usize,
    /// The first of them, each with the record that it repeats.
    pub first: Vec<(RecordSource, RecordSource)>,
    /// Examples that begin with the prompt of another one and answer it differently.
    pub same_prompt: usize,
}

/// How full the rows of one epoch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// Rows.
    pub rows: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// Tokens and padding.
    pub places: usize,
}

impl Fill {
    /// The share of the rows that is no padding.
    pub fn share(self) -> f64 {
        self.tokens as f64 / self.places.max(1) as f64
    }
}

impl SetStatistics {
    /// Of these examples.
    pub fn of(examples: &[Example]) -> Self {
        Self {
            examples: examples.len(),
            tokens: examples.iter().map(|example| example.input_ids.len()).sum(),
            trained_tokens: examples.iter().map(Example::trained_tokens).sum(),
            lengths: Lengths::of(examples.iter().map(|example| example.input_ids.len()).collect()),
            duplicates: Duplicates::of(examples),
        }
    }
}

impl Lengths {
    fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let (Some(shortest), Some(longest)) = (lengths.first().copied(), lengths.last().copied()) else {
            return Self::default();
        };
        let at = |share: usize| lengths[(lengths.len() * share / 100).min(lengths.len() - 1)];
        let mut width = 1;
        while longest / width - shortest / width >= BARS {
            width *= 2;
        }
        let mut histogram: Vec<Bar> = (shortest / width..=longest / width)
            .map(|bar| Bar { from: bar * width, to: (bar + 1) * width - 1, examples: 0 })
            .collect();
        for length in &lengths {
            histogram[length / width - shortest / width].examples += 1;
        }
        Self { shortest, median: at(50), p95: at(95), longest, histogram }
    }
}

impl Duplicates {
    fn of(examples: &[Example]) -> Self {
        let mut first_of: HashMap<&[u32], &Example> = HashMap::with_capacity(examples.len());
        let mut found = Self::default();
        for example in examples {
            match first_of.get(example.input_ids.as_slice()) {
                Some(first) => {
                    found.repeated += 1;
                    if found.first.len() < SHOWN {
                        found.first.push((example.source.clone(), first.source.clone()));
                    }
                }
                None => {
                    first_of.insert(&example.input_ids, example);
                }
            }
        }
        let mut answers: HashMap<&[u32], HashSet<&[u32]>> = HashMap::new();
        for example in first_of.values() {
            // One token is no prompt: it is the beginning of every text.
            let prompt = example.labels.iter().position(|label| *label != IGNORED).filter(|start| *start > 1);
            if let Some(start) = prompt {
                answers.entry(&example.input_ids[..start]).or_default().insert(&example.input_ids[start..]);
            }
        }
        found.same_prompt = answers.values().map(HashSet::len).filter(|count| *count > 1).sum();
        found
    }
}

/// How full the rows of the first epoch are, with packing or without.
pub fn fill(loader: &Loader, packing: bool) -> Fill {
    let plan = loader.plan_rows(0, packing);
    let length = |row: &Vec<u32>| row.iter().map(|index| loader.examples()[*index as usize].input_ids.len()).sum();
    let lengths: Vec<usize> = plan.rows.iter().map(length).collect();
    let config = loader.config();
    // A batch is as long as its longest row.
    let places = lengths.chunks(config.micro_batch_size).map(|rows| rows.iter().max().unwrap_or(&0) * rows.len()).sum();
    Fill { rows: lengths.len(), tokens: lengths.iter().sum(), places }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], prompt: usize, line: usize) -> Example {
        let label = |(index, id): (usize, &u32)| if index < prompt { IGNORED } else { i64::from(*id) };
        Example {
            input_ids: ids.to_vec(),
            labels: ids.iter().enumerate().map(label).collect(),
            completion_start: None,
            source: RecordSource::new("a.jsonl", line),
            dataset: 0,
        }
    }

    #[test]
    fn a_histogram_has_every_example_in_one_bar() {
        let lengths = Lengths::of(vec![3, 100, 5, 7, 7, 99, 64, 63]);
        assert_eq!((lengths.shortest, lengths.median, lengths.longest), (3, 63, 100));
        assert_eq!(lengths.histogram.iter().map(|bar| bar.examples).sum::<usize>(), 8);
        assert!(lengths.histogram.len() <= BARS, "{lengths:?}");
        let bar = |length| lengths.histogram.iter().find(|bar| bar.from <= length && length <= bar.to).unwrap();
        assert_eq!((bar(63).examples, bar(64).examples, bar(99).examples), (1, 1, 2));
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
        assert_eq!(Lengths::of(vec![9]).histogram, [Bar { from: 9, to: 9, examples: 1 }]);
    }

    #[test]
    fn repeated_examples_and_contradictions_are_told_apart() {
        let examples = [
            example(&[1, 2, 3, 9], 2, 1),
            example(&[1, 2, 3, 9], 2, 2),
            example(&[1, 2, 4, 9], 2, 3),
            example(&[1, 5, 3, 9], 2, 4),
            example(&[1, 2, 3, 9], 2, 5),
        ];
        let found = Duplicates::of(&examples);
        assert_eq!((found.repeated, found.same_prompt), (2, 2));
        let line = |line| RecordSource::new("a.jsonl", line);
        assert_eq!(found.first, [(line(2), line(1)), (line(5), line(1))]);
    }
}
