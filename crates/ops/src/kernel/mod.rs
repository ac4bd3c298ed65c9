//! Kernels for the CPU over plain slices: products, and loops compiled for each instruction set.

mod crew;
mod integer;
mod isa;
pub(crate) mod math;
mod pack;
#[cfg(target_arch = "x86_64")]
mod planes;
mod product;
mod quantised;
mod scratch;
mod simd;
mod thin;
mod tile;

use rayon::prelude::*;

pub(crate) use crew::with_crew;
pub use integer::Compute;
pub(crate) use integer::{IntegerLeft, IntegerPanels};
pub use isa::InstructionSet;
pub(crate) use pack::{Left, LeftSource, Order, Right, Values, transposed};
pub(crate) use product::{IntegerRight, IntegerTerm, Job, Precision, Term, Write, products};
pub use quantised::{QuantFormat, QuantWeight};
pub(crate) use scratch::fresh;
pub(crate) use thin::thin;

/// How many threads a kernel may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller's, inside a parallel loop.
    One,
    /// All of the pool, where there is enough to do.
    All,
}

/// Operations below which a loop stays on one thread: waking another costs some microseconds.
const WORTH_SHARING: usize = 1 << 15;

impl Threads {
    /// Threads for `work` operations.
    pub(crate) fn count(self, work: usize) -> usize {
        match self {
            Self::All if work >= WORTH_SHARING => rayon::current_num_threads(),
            _ => 1,
        }
    }

    /// Calls `f` for each index below `count`, on several threads if there is `work` enough.
    pub(crate) fn each(self, count: usize, work: usize, f: impl Fn(usize) + Send + Sync) {
        if count < 2 || self.count(work) < 2 {
            (0..count).for_each(f);
        } else if !crew::each(count, &f) {
            (0..count).into_par_iter().for_each(f);
        }
    }

    /// Calls `f` with each `size` values of `into` and their index, on several threads if there is `work` enough.
    pub(crate) fn chunks<T: Send>(
        self,
        into: &mut [T],
        size: usize,
        work: usize,
        f: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let (size, len) = (size.max(1), into.len());
        let start = Shared(into.as_mut_ptr());
        self.each(len.div_ceil(size), work, |index| {
            let first = index * size;
            // SAFETY: within `into`, and no other index has these values.
            let chunk = unsafe { std::slice::from_raw_parts_mut(start.get().add(first), size.min(len - first)) };
            f(index, chunk);
        });
    }

    /// `f` of each index below `count`, in order, on several threads if there is `work` enough.
    pub(crate) fn map<T: Send>(self, count: usize, work: usize, f: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
        let mut found: Vec<Option<T>> = (0..count).map(|_| None).collect();
        self.chunks(&mut found, 1, work, |index, place| place.fill_with(|| Some(f(index))));
        found.into_iter().flatten().collect()
    }
}

/// A pointer that parallel parts of one kernel write through, each to places of its own.
#[derive(Debug)]
struct Shared<T = f32>(*mut T);

// SAFETY: the parts write disjoint places.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    /// By a method, so that a closure captures the whole and not the bare pointer.
    fn get(self) -> *mut T {
        self.0
    }
}
