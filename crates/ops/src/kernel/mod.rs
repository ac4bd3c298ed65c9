//! Kernels for the CPU over plain slices: products, and loops compiled for each instruction set.

mod integer;
mod isa;
pub(crate) mod math;
mod pack;
mod product;
mod scratch;
mod simd;
mod thin;
mod tile;

use rayon::prelude::*;

pub use integer::Compute;
pub(crate) use integer::{IntegerLeft, IntegerPanels};
pub use isa::InstructionSet;
pub(crate) use pack::{Left, LeftSource, Order, Right, Values, transposed};
pub(crate) use product::{IntegerRight, IntegerTerm, Job, Term, Write, products};
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
        if self.count(work) > 1 {
            (0..count).into_par_iter().for_each(f);
        } else {
            (0..count).for_each(f);
        }
    }
}

/// A pointer that parallel parts of one kernel write through, each to places of its own.
#[derive(Debug, Clone, Copy)]
struct Shared<T = f32>(*mut T);

// SAFETY: the parts write disjoint places.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// By a method, so that a closure captures the whole and not the bare pointer.
    fn get(self) -> *mut T {
        self.0
    }
}
