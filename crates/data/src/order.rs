//! Seeded order: pure functions of the seed and what it is for, the same on every platform and for ever.

use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// What random numbers are for: each purpose has its own stream, so that one more use of one does not move
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Which records of a dataset with a broken weight an epoch sees.
    Sample,
    /// The order of examples.
    Examples,
    /// The order of packed rows.
    Rows,
    /// The order of a stream's files.
    Files,
    /// The order of the examples of one block of a stream.
    Block,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Examples => "examples",
            Self::Rows => "rows",
            Self::Files => "files",
            Self::Block => "block",
        }
    }
}

/// The stream for one purpose in one epoch; `part` tells datasets apart.
pub(crate) fn stream(seed: u64, epoch: usize, purpose: Purpose, part: usize) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update("rankine data order\0");
    hash.update(purpose.name());
    for number in [seed, epoch as u64, part as u64] {
        hash.update(number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// Fisher-Yates, written out: a shuffle of a library may change with its version, and a resumed run would see
/// other batches.
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(random, last + 1));
    }
}

/// A number below `bound`; the bias of the multiplication is under bound / 2^64.
fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_pinned() {
        let mut items: Vec<u32> = (0..10).collect();
        shuffle(&mut items, &mut stream(42, 0, Purpose::Examples, 0));
        assert_eq!(items, PINNED);
        let mut again: Vec<u32> = (0..10).collect();
        shuffle(&mut again, &mut stream(42, 1, Purpose::Examples, 0));
        assert_ne!(items, again);
    }

    const PINNED: [u32; 10] = [0, 4, 5, 1, 3, 2, 7, 9, 8, 6];

    #[test]
    fn every_order_of_three_is_about_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut items, &mut stream(1, epoch, Purpose::Examples, 0));
            *counts.entry(items).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
