//! Bounded reading of the little-endian bytes of a header.

use super::fault::GgufProblem;

/// Elements of all arrays of a file together. The largest vocabularies have 300,000 tokens and 600,000 merges; a file
/// that claims more than this is not a model, and would only take memory.
const ELEMENT_BUDGET: u64 = 1 << 23;

/// A place in the bytes of a file. Every length is compared with what is left before anything is allocated.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    elements: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, elements: ELEMENT_BUDGET }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes; `what` is named where the file ends before.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], GgufProblem> {
        let left = self.left();
        match usize::try_from(count) {
            Ok(count) if count <= left => {
                let taken = &self.bytes[self.at..self.at + count];
                self.at += count;
                Ok(taken)
            }
            _ => Err(GgufProblem::Truncated {
                what: what.to_owned(),
                at: self.at as u64,
                needed: count,
                left: left as u64,
            }),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufProblem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufProblem> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufProblem> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length and that many bytes.
    pub(super) fn bytes(&mut self, what: &str) -> Result<&'a [u8], GgufProblem> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// A string that must be text: a key or the name of a tensor.
    pub(super) fn name(&mut self, what: &str) -> Result<String, GgufProblem> {
        let at = self.at as u64;
        let bytes = self.bytes(what)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| GgufProblem::NotText { what: what.to_owned(), at })
    }

    /// A count of things of at least `least` bytes each, as far as the file can hold them.
    pub(super) fn count(&mut self, least: u64, what: &str) -> Result<usize, GgufProblem> {
        let at = self.at as u64;
        let count = self.u64(what)?;
        let most = (self.left() as u64) / least;
        match usize::try_from(count) {
            Ok(fits) if count <= most => Ok(fits),
            _ => Err(GgufProblem::Count { what: what.to_owned(), at, count, most }),
        }
    }

    /// Takes `count` elements of the budget.
    pub(super) fn spend(&mut self, count: usize, what: &str) -> Result<(), GgufProblem> {
        match self.elements.checked_sub(count as u64) {
            Some(left) => {
                self.elements = left;
                Ok(())
            }
            None => Err(GgufProblem::TooLarge { what: what.to_owned(), most: ELEMENT_BUDGET }),
        }
    }
}
