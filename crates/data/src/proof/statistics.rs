//! Counts and lengths of examples, and how much of the batches is padding.

use serde::Serialize;

use super::held_out::hash_of;
use crate::error::DataError;
use crate::example::{Example, IGNORED};
use crate::examples::Examples;
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
    ///
    /// # Errors
    /// A file of examples that cannot be read.
    pub fn of(examples: &Examples) -> Result<Self, DataError> {
        let lengths: Vec<usize> = (0..examples.len()).map(|index| examples.tokens_of(index)).collect();
        let mut trained_tokens = 0;
        let mut hashes = Vec::with_capacity(examples.len());
        for example in examples.iter() {
            let example = example?;
            trained_tokens += example.trained_tokens();
            hashes.push(Hashes::of(&example));
        }
        Ok(Self {
            examples: examples.len(),
            tokens: lengths.iter().sum(),
            trained_tokens,
            lengths: Lengths::of(lengths),
            duplicates: Duplicates::of(&hashes, |index| Ok(examples.get(index)?.source.clone()))?,
        })
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

/// An example by its tokens, and by those of its prompt.
#[derive(Debug, Clone, Copy)]
struct Hashes {
    all: u128,
    prompt: Option<u128>,
}

impl Hashes {
    fn of(example: &Example) -> Self {
        // One token is no prompt: it is the beginning of every text.
        let prompt = example.labels.iter().position(|label| *label != IGNORED).filter(|start| *start > 1);
        Self { all: hash_of(&example.input_ids), prompt: prompt.map(|start| hash_of(&example.input_ids[..start])) }
    }
}

impl Duplicates {
    fn of(hashes: &[Hashes], source: impl Fn(usize) -> Result<RecordSource, DataError>) -> Result<Self, DataError> {
        let mut order: Vec<usize> = (0..hashes.len()).collect();
        order.sort_unstable_by_key(|index| (hashes[*index].all, *index));
        let (mut repeated, mut prompts) = (Vec::new(), Vec::new());
        for same in order.chunk_by(|a, b| hashes[*a].all == hashes[*b].all) {
            repeated.extend(same[1..].iter().map(|index| (*index, same[0])));
            prompts.extend(hashes[same[0]].prompt);
        }
        repeated.sort_unstable();
        let first = repeated.iter().take(SHOWN).map(|(again, first)| Ok((source(*again)?, source(*first)?)));
        prompts.sort_unstable();
        let same_prompt = prompts.chunk_by(|a, b| a == b).map(<[u128]>::len).filter(|count| *count > 1).sum();
        Ok(Self { repeated: repeated.len(), first: first.collect::<Result<_, DataError>>()?, same_prompt })
    }
}

/// How full the rows of the first epoch are, with packing or without.
pub fn fill(loader: &Loader, packing: bool) -> Fill {
    let plan = loader.plan_rows(0, packing);
    let length = |row: &Vec<u32>| row.iter().map(|index| loader.examples().tokens_of(*index as usize)).sum();
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
        let found = SetStatistics::of(&examples.to_vec().into()).unwrap().duplicates;
        assert_eq!((found.repeated, found.same_prompt), (2, 2));
        let line = |line| RecordSource::new("a.jsonl", line);
        assert_eq!(found.first, [(line(2), line(1)), (line(5), line(1))]);
    }
}
