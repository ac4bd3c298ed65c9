//! The innermost loop of a product: one tile of the result held in registers.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]

use super::isa::InstructionSet;
use super::simd::{Portable, Simd};

/// A stretch of a tile's sum over `k`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Packed rows, [k, height].
    pub(crate) a: *const f32,
    /// Columns: the panel's values of one `k` side by side.
    pub(crate) b: *const f32,
    /// From one `k` of `b` to the next.
    pub(crate) b_stride: usize,
    /// Its length.
    pub(crate) k: usize,
}

/// Where a tile goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// The tile's first value.
    pub(crate) c: *mut f32,
    /// From one row to the next.
    pub(crate) stride: usize,
    /// Rows of the tile.
    pub(crate) height: usize,
    /// Columns that are written.
    pub(crate) columns: usize,
    /// What the sum is added to, laid out as the target; null where it is 0.
    pub(crate) base: *const f32,
}

/// The tile's shape that an instruction set's registers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileShape {
    /// Rows at most.
    pub(crate) rows: usize,
    /// Values in a register.
    pub(crate) lanes: usize,
    /// Whether a tile of fewer rows takes as long: then all but the last are full.
    pub(crate) full: bool,
}

impl InstructionSet {
    pub(crate) fn tile(self) -> TileShape {
        match self {
            Self::Portable => TileShape { rows: 4, lanes: 8, full: false },
            Self::Neon => TileShape { rows: 12, lanes: 4, full: false },
            Self::Avx2 => TileShape { rows: 6, lanes: 8, full: false },
            Self::Avx512 | Self::Avx512Vnni => TileShape { rows: 14, lanes: 16, full: false },
            Self::Amx => TileShape { rows: 32, lanes: 16, full: true },
        }
    }

    /// `c = [base +] sum over the runs of a b`, for a panel of `vectors` registers (1 or 2). Each value is one chain of
    /// multiply-adds in the order of `k`, whatever the tile's shape.
    ///
    /// # Safety
    /// The runs and the target reach as far as they say (`b` to whole registers), the height is at most
    /// [`TileShape::rows`], and the machine runs this set.
    pub(crate) unsafe fn multiply_tile(self, vectors: usize, runs: &[Run], target: Target) {
        unsafe {
            match self {
                Self::Portable => portable(vectors, runs, target),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(vectors, runs, target),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 | Self::Avx512Vnni => avx512(vectors, runs, target),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon(vectors, runs, target),
                #[allow(unreachable_patterns, reason = "the sets of other machines")]
                _ => unreachable!("a set that this machine cannot run"),
            }
        }
    }
}

macro_rules! by_height {
    ($simd:ty, $vectors:expr, $runs:expr, $target:expr, [$($height:literal)*]) => {
        match ($vectors, $target.height) {
            $((1, $height) => tile::<$simd, $height, 1>($runs, $target),)*
            $((_, $height) => tile::<$simd, $height, 2>($runs, $target),)*
            _ => unreachable!("a tile higher than the registers hold"),
        }
    };
}

unsafe fn portable(vectors: usize, runs: &[Run], target: Target) {
    unsafe { by_height!(Portable, vectors, runs, target, [1 2 3 4]) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(vectors: usize, runs: &[Run], target: Target) {
    use super::simd::Avx2;
    unsafe { by_height!(Avx2, vectors, runs, target, [1 2 3 4 5 6]) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512(vectors: usize, runs: &[Run], target: Target) {
    use super::simd::Avx512;
    unsafe { by_height!(Avx512, vectors, runs, target, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(vectors: usize, runs: &[Run], target: Target) {
    use super::simd::Neon;
    unsafe { by_height!(Neon, vectors, runs, target, [1 2 3 4 5 6 7 8 9 10 11 12]) }
}

/// `$body` for each index from 0, written out: a loop over the rows of an array would keep the array in memory.
macro_rules! rows {
    ($rows:expr, $row:ident, $body:block) => {
        $crate::kernel::tile::rows!(@ $rows, $row, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:expr, $row:ident, $body:block, $($index:literal)*) => {
        $(if $index < $rows {
            const $row: usize = $index;
            $body
        })*
    };
}

pub(crate) use rows;

/// `$body` for each index of 16, written out.
#[cfg(target_arch = "x86_64")]
macro_rules! sixteen {
    ($index:ident, $body:block) => {
        $crate::kernel::tile::sixteen!(@ $index, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $index:ident, $body:block, $($literal:literal)*) => {
        $({
            const $index: usize = $literal;
            $body
        })*
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use sixteen;

#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(runs: &[Run], target: Target) {
    unsafe {
        // All 14 rows, whatever the height: those above it are never touched and cost nothing.
        let mut first = [S::zero(); 14];
        let mut second = [S::zero(); 14];
        for run in runs {
            let (mut a, mut b) = (run.a, run.b);
            for _ in 0..run.k {
                let column = S::load(b);
                if VECTORS == 2 {
                    let column_2 = S::load(b.add(S::LANES));
                    rows!(ROWS, ROW, {
                        let value = S::splat(a.add(ROW));
                        first[ROW] = S::fma(value, column, first[ROW]);
                        second[ROW] = S::fma(value, column_2, second[ROW]);
                    });
                } else {
                    rows!(ROWS, ROW, {
                        first[ROW] = S::fma(S::splat(a.add(ROW)), column, first[ROW]);
                    });
                }
                a = a.add(ROWS);
                b = b.add(run.b_stride);
            }
        }
        rows!(ROWS, ROW, {
            let line = ROW * target.stride;
            write::<S>(target, line, first[ROW], target.columns.min(S::LANES));
            if VECTORS == 2 {
                write::<S>(target, line + S::LANES, second[ROW], target.columns - S::LANES);
            }
        });
    }
}

/// The first `count` lanes to the target's `place`, on top of its base.
#[inline(always)]
unsafe fn write<S: Simd>(target: Target, place: usize, sum: S::V, count: usize) {
    unsafe {
        let to = target.c.add(place);
        if count == S::LANES {
            S::store(to, if target.base.is_null() { sum } else { S::add(sum, S::load(target.base.add(place))) });
        } else {
            let base = target.base;
            let sum = if base.is_null() { sum } else { S::add(sum, S::load_part(base.add(place), count)) };
            S::store_part(to, sum, count);
        }
    }
}
