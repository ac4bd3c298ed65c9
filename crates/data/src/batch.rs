//! Rows of tokens as a training step takes them, still on the host.

use crate::example::{Example, IGNORED};
use crate::record::RecordSource;

/// `rows` rows of `length` tokens, row after row.
///
/// # Shapes
/// `input_ids`, `labels`, `position_ids` and `segment_ids` are [rows, length].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Tokens of a row, padding included.
    pub length: usize,
    /// Tokens; the padding token behind the last document of a row.
    pub input_ids: Vec<u32>,
    /// The token itself where it is trained on, else [`IGNORED`]. Not shifted: what predicts the label at t is
    /// the output at t - 1. The first label of every document is ignored, as nothing before it may predict it.
    pub labels: Vec<i64>,
    /// Place within the document, from 0 for each; 0 for padding.
    pub position_ids: Vec<u32>,
    /// 1, 2, ... for the documents of a row, 0 for padding.
    pub segment_ids: Vec<u32>,
    /// The records of the documents, in the order of rows and segments.
    pub sources: Vec<RecordSource>,
}

impl Batch {
    /// The same documents without padding, side by side in single rows of at most `tokens` tokens; a longer document
    /// has a row of its own. Losses and gradients add up to the whole batch's. A piece in which nothing is trained on
    /// is left out.
    pub fn pieces(&self, tokens: usize) -> Vec<Self> {
        let mut pieces: Vec<Self> = Vec::new();
        for (index, document) in self.documents().enumerate() {
            if self.labels[document.clone()].iter().all(|label| *label == IGNORED) {
                continue;
            }
            let fits = |piece: &Self| piece.length + document.len() <= tokens;
            if !pieces.last().is_some_and(fits) {
                pieces.push(Self { rows: 1, ..Self::default() });
            }
            let Some(piece) = pieces.last_mut() else { continue };
            let segment = piece.segment_ids.last().map_or(1, |last| last + 1);
            piece.length += document.len();
            piece.input_ids.extend(&self.input_ids[document.clone()]);
            piece.labels.extend(&self.labels[document.clone()]);
            piece.position_ids.extend(&self.position_ids[document.clone()]);
            piece.segment_ids.extend(std::iter::repeat_n(segment, document.len()));
            piece.sources.extend(self.sources.get(index).cloned());
        }
        pieces
    }

    /// The same rows, filled up to a multiple of `tokens` tokens: a device that compiles or tunes for each shape then
    /// meets few. Padding changes no loss and no gradient.
    pub fn filled_up(&self, tokens: usize, pad_id: u32) -> Self {
        let length = self.length.next_multiple_of(tokens.max(1));
        let mut batch = Self { rows: self.rows, length, sources: self.sources.clone(), ..Self::default() };
        for row in 0..self.rows {
            let (own, end) = (row * self.length..(row + 1) * self.length, (row + 1) * length);
            batch.input_ids.extend(&self.input_ids[own.clone()]);
            batch.labels.extend(&self.labels[own.clone()]);
            batch.position_ids.extend(&self.position_ids[own.clone()]);
            batch.segment_ids.extend(&self.segment_ids[own]);
            batch.pad_to(end, pad_id);
        }
        batch
    }

    /// Padding up to so many tokens in all.
    fn pad_to(&mut self, end: usize, pad_id: u32) {
        self.input_ids.resize(end, pad_id);
        self.labels.resize(end, IGNORED);
        self.position_ids.resize(end, 0);
        self.segment_ids.resize(end, 0);
    }

    /// The places of every document, row after row.
    fn documents(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut start = 0;
        std::iter::from_fn(move || {
            while start < self.segment_ids.len() && self.segment_ids[start] == 0 {
                start += 1;
            }
            let segment = *self.segment_ids.get(start)?;
            let row_end = (start / self.length + 1) * self.length;
            let length = self.segment_ids[start..row_end].iter().take_while(|other| **other == segment).count();
            let document = start..start + length;
            start = document.end;
            Some(document)
        })
    }

    /// One row for each list of documents, filled up to the longest.
    pub fn from_examples(rows: &[Vec<&Example>], pad_id: u32) -> Self {
        let tokens = |row: &Vec<&Example>| row.iter().map(|example| example.input_ids.len()).sum::<usize>();
        let length = rows.iter().map(tokens).max().unwrap_or_default();
        let size = rows.len() * length;
        let mut batch = Self {
            rows: rows.len(),
            length,
            input_ids: Vec::with_capacity(size),
            labels: Vec::with_capacity(size),
            position_ids: Vec::with_capacity(size),
            segment_ids: Vec::with_capacity(size),
            sources: Vec::with_capacity(rows.len()),
        };
        for (index, row) in rows.iter().enumerate() {
            for (segment, example) in (1u32..).zip(row) {
                let first = batch.labels.len();
                batch.input_ids.extend(&example.input_ids);
                batch.labels.extend(&example.labels);
                if let Some(label) = batch.labels.get_mut(first) {
                    *label = IGNORED;
                }
                batch.position_ids.extend((0u32..).take(example.input_ids.len()));
                batch.segment_ids.extend(std::iter::repeat_n(segment, example.input_ids.len()));
                batch.sources.push(example.source.clone());
            }
            batch.pad_to((index + 1) * length, pad_id);
        }
        batch
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.segment_ids.iter().filter(|segment| **segment != 0).count()
    }

    /// Tokens that are trained on.
    pub fn trained_tokens(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORED).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], line: usize) -> Example {
        Example {
            input_ids: ids.to_vec(),
            // All trained, the first too: the batch itself has to ignore that one.
            labels: ids.iter().map(|id| i64::from(*id)).collect(),
            completion_start: None,
            source: RecordSource::new("a", line),
            dataset: 0,
        }
    }

    #[test]
    fn documents_restart_and_padding_is_marked() {
        let (a, b, c) = (example(&[5, 6, 7], 1), example(&[8, 9], 2), example(&[3, 4], 3));
        let batch = Batch::from_examples(&[vec![&a, &b], vec![&c]], 99);
        assert_eq!((batch.rows, batch.length), (2, 5));
        assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 3, 4, 99, 99, 99]);
        assert_eq!(batch.labels, [-100, 6, 7, -100, 9, -100, 4, -100, -100, -100]);
        assert_eq!(batch.position_ids, [0, 1, 2, 0, 1, 0, 1, 0, 0, 0]);
        assert_eq!(batch.segment_ids, [1, 1, 1, 2, 2, 1, 1, 0, 0, 0]);
        assert_eq!(batch.sources.iter().map(|source| source.line).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((batch.tokens(), batch.trained_tokens()), (7, 4));
    }

    #[test]
    fn rows_are_filled_up_to_few_lengths() {
        let (a, b, c) = (example(&[5, 6, 7], 1), example(&[8, 9], 2), example(&[3, 4], 3));
        let batch = Batch::from_examples(&[vec![&a, &b], vec![&c]], 99);
        let filled = batch.filled_up(4, 98);
        assert_eq!((filled.rows, filled.length), (2, 8));
        assert_eq!(filled.input_ids, [5, 6, 7, 8, 9, 98, 98, 98, 3, 4, 99, 99, 99, 98, 98, 98]);
        assert_eq!(filled.segment_ids, [1, 1, 1, 2, 2, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(filled.pieces(100), batch.pieces(100), "the same documents");
        assert_eq!((filled.tokens(), filled.trained_tokens()), (batch.tokens(), batch.trained_tokens()));
        assert_eq!(batch.filled_up(5, 98), batch);
    }

    #[test]
    fn nothing_is_a_batch_without_rows() {
        assert_eq!(Batch::from_examples(&[], 0), Batch::default());
    }
}
