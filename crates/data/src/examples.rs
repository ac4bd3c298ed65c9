//! Examples wherever they are: in memory, or in a file and read one by one.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::DataError;
use crate::example::Example;
use crate::store::{StoredExamples, Window};

/// Examples in an order, by their number.
#[derive(Debug, Clone)]
pub enum Examples {
    /// All of them in memory.
    Memory(Vec<Example>),
    /// Some of those of a file, by their number there.
    Stored(Arc<StoredExamples>, Vec<u32>),
}

impl Examples {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(examples) => examples.len(),
            Self::Stored(_, chosen) => chosen.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of an example.
    pub fn tokens_of(&self, index: usize) -> usize {
        match self {
            Self::Memory(examples) => examples[index].input_ids.len(),
            Self::Stored(stored, chosen) => stored.tokens_of(chosen[index] as usize),
        }
    }

    /// The dataset of an example.
    pub fn dataset_of(&self, index: usize) -> u32 {
        match self {
            Self::Memory(examples) => examples[index].dataset,
            Self::Stored(stored, chosen) => stored.dataset_of(chosen[index] as usize),
        }
    }

    /// An example.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn get(&self, index: usize) -> Result<Cow<'_, Example>, DataError> {
        match self {
            Self::Memory(examples) => Ok(Cow::Borrowed(&examples[index])),
            Self::Stored(stored, chosen) => stored.get(chosen[index] as usize).map(Cow::Owned),
        }
    }

    /// All of them, in order and one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Result<Cow<'_, Example>, DataError>> {
        let mut window = Window::default();
        (0..self.len()).map(move |index| match self {
            Self::Memory(examples) => Ok(Cow::Borrowed(&examples[index])),
            Self::Stored(stored, chosen) => stored.get_near(chosen[index] as usize, &mut window).map(Cow::Owned),
        })
    }

    /// All of them in memory.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn into_memory(self) -> Result<Vec<Example>, DataError> {
        match self {
            Self::Memory(examples) => Ok(examples),
            stored @ Self::Stored(..) => stored.iter().map(|example| example.map(Cow::into_owned)).collect(),
        }
    }

    /// Those for which `apart` is false, and those for which it is true, each in their order.
    pub(crate) fn divide(self, apart: &[bool]) -> (Self, Self) {
        let is_apart = |index: usize| apart.get(index).copied().unwrap_or_default();
        match self {
            Self::Memory(examples) => {
                let mut index = 0..;
                let (apart, kept) = examples.into_iter().partition(|_| index.next().is_some_and(is_apart));
                (Self::Memory(kept), Self::Memory(apart))
            }
            Self::Stored(stored, chosen) => {
                let mut index = 0..;
                let (apart, kept) = chosen.into_iter().partition(|_| index.next().is_some_and(is_apart));
                (Self::Stored(Arc::clone(&stored), kept), Self::Stored(stored, apart))
            }
        }
    }
}

impl Default for Examples {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl From<Vec<Example>> for Examples {
    fn from(examples: Vec<Example>) -> Self {
        Self::Memory(examples)
    }
}

impl From<StoredExamples> for Examples {
    fn from(stored: StoredExamples) -> Self {
        let all = (0u32..).take(stored.len()).collect();
        Self::Stored(Arc::new(stored), all)
    }
}
