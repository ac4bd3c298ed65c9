//! Examples by their tokens, so that the same ones are found again without any being in memory.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use crate::error::{DataError, Faults};
use crate::example::Example;
use crate::examples::Examples;
use crate::record::RecordSource;

/// The validation data, known by its tokens.
#[derive(Debug, Default)]
pub struct HeldOut {
    records: Vec<(u32, RecordSource)>,
    places: HashMap<u128, Vec<usize>>,
}

impl HeldOut {
    /// Of these examples.
    ///
    /// # Errors
    /// A file of examples that cannot be read.
    pub fn of(validation: &Examples) -> Result<Self, DataError> {
        let mut held_out = Self::default();
        for (index, example) in validation.iter().enumerate() {
            let example = example?;
            held_out.records.push((example.dataset, example.source.clone()));
            held_out.places.entry(hash_of(&example.input_ids)).or_default().push(index);
        }
        Ok(held_out)
    }

    /// The validation examples whose tokens this one has.
    fn like(&self, example: &Example) -> &[usize] {
        // Nothing is hashed where nothing is held out.
        match self.places.is_empty() {
            true => &[],
            false => self.places.get(&hash_of(&example.input_ids)).map_or(&[], Vec::as_slice),
        }
    }
}

/// Validation examples that are trained on, each with the first training record that is like it.
#[derive(Debug, Default)]
pub(super) struct Leaks(BTreeMap<usize, RecordSource>);

impl Leaks {
    pub(super) fn look(&mut self, held_out: &HeldOut, trained: &Example) {
        for place in held_out.like(trained) {
            self.0.entry(*place).or_insert_with(|| trained.source.clone());
        }
    }

    /// One for each validation record.
    pub(super) fn faults(&self, held_out: &HeldOut) -> Faults {
        let mut faults = Faults::default();
        let mut last = None;
        for (place, trained) in &self.0 {
            let Some(record) = held_out.records.get(*place).filter(|record| last != Some(*record)) else { continue };
            faults.push(record.1.clone(), format!("the same tokens as {trained}, which is trained on"));
            last = Some(record);
        }
        faults
    }
}

/// Half of a hash keeps as many sequences apart as anyone has.
pub(super) fn hash_of(ids: &[u32]) -> u128 {
    let mut hash = Sha256::new();
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    hash.finalize().first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}
