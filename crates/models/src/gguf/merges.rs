//! The merges of a SentencePiece vocabulary, which the file has only as scores.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// A piece with its score, in the order of the vocabulary.
pub(super) type Piece<'a> = (&'a str, f32);

/// Every way to put a piece together from two others, best first: `generate_merges` in transformers'
/// `convert_slow_tokenizer.py`, to the order of equals. `skipped` are control tokens, which text never becomes.
pub(super) fn merges<'a>(pieces: &[Piece<'a>], skipped: &HashSet<&str>) -> Vec<(&'a str, &'a str)> {
    let places: HashMap<&str, usize> = pieces.iter().enumerate().map(|(place, (piece, _))| (*piece, place)).collect();
    let mut merges: Vec<Merge<'a>> = Vec::new();
    for (piece, score) in pieces.iter().filter(|(piece, _)| !skipped.contains(piece)) {
        let from = merges.len();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            let (Some(first), Some(second)) = (places.get(left), places.get(right)) else { continue };
            if skipped.contains(left) || skipped.contains(right) {
                continue;
            }
            let lengths = (left.chars().count(), right.chars().count());
            merges.push(Merge { left, right, score: *score, lengths, places: (*first, *second) });
        }
        merges[from..].sort_by_key(|merge| merge.places);
    }
    // Stable: equals stay in the order of the vocabulary.
    merges.sort_by(|a, b| {
        let scores = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        scores.then_with(|| b.lengths.cmp(&a.lengths))
    });
    merges.into_iter().map(|merge| (merge.left, merge.right)).collect()
}

struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
    /// In characters.
    lengths: (usize, usize),
    /// Of both halves in the vocabulary.
    places: (usize, usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_goes_first_and_control_tokens_nowhere() {
        let pieces = [
            ("<s>", 0.0),
            ("a", -4.0),
            ("b", -5.0),
            ("ab", -1.0),
            ("aba", -0.5),
            ("ba", -1.0),
            ("<", -9.0),
            ("s>", -9.0),
        ];
        let found = merges(&pieces, &HashSet::from(["<s>"]));
        assert_eq!(found, [("ab", "a"), ("a", "ba"), ("a", "b"), ("b", "a")]);
    }

    #[test]
    fn a_score_that_is_no_number_is_no_panic() {
        let pieces = [("a", f32::NAN), ("b", 1.0), ("ab", f32::NAN), ("ba", 0.0), ("aab", 2.0)];
        assert_eq!(merges(&pieces, &HashSet::new()).len(), 3);
    }
}
