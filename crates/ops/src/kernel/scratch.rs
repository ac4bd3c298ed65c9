//! Buffers that are written before they are read.

use std::mem::MaybeUninit;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Room for values, aligned to a cache line, not initialised.
pub(crate) struct Scratch {
    lines: Vec<MaybeUninit<Line>>,
}

impl Scratch {
    /// Room for `count` values.
    pub(crate) fn new(count: usize) -> Self {
        let mut lines = Vec::with_capacity(count.div_ceil(16));
        // SAFETY: within the capacity, and `MaybeUninit` needs no value.
        unsafe { lines.set_len(count.div_ceil(16)) };
        Self { lines }
    }

    /// The first value.
    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// The first value.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({} lines)", self.lines.len())
    }
}

/// A vector of `count` values that are not initialised: clearing them would cost as much as many a kernel.
///
/// # Safety
/// Every value is written before it is read.
#[expect(clippy::uninit_vec, reason = "the point of it; the caller writes before it reads")]
pub(crate) unsafe fn fresh(count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    // SAFETY: within the capacity; the caller writes every value before it is read.
    unsafe { values.set_len(count) };
    values
}
