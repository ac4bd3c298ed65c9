//! Products in single precision on tiles of bf16 (Intel AMX).
//!
//! A value of 24 bits is the sum of three of 8, its planes, each exact in bf16; a product of two values is then a sum
//! of products of planes, which are exact in f32
//! ([Henry, Tang & Heinecke 2019](https://arxiv.org/abs/1904.06376)). The left side has its three planes. A weight held
//! in bf16 is one plane and needs three products, one in f16 two and five, one in f32 three and six: planes `i` and `j`
//! with `i + j > 2` add less than 2^-25 of the product, which is below f32's own rounding. A tile instruction does the
//! work of 256 vector ones of f32, so that three or six of them are still far ahead.
//!
//! With two planes a side ([`Precision::Bf16x2`]) a value keeps 16 bits: a weight in bf16 needs two products, others
//! three. In bf16 ([`Precision::Bf16`]) only the first planes are multiplied. These are oneMKL's `bf16x3`, `bf16x2` and
//! `bf16` modes of computing.
//!
//! A value that is not finite has a plane that is no number, and so has every sum it is part of. Planes below 2^-126
//! count as 0.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::{bf16, f16};

use super::isa::InstructionSet;
use super::pack::{LeftSource, Order, Right, Values, avx512::flip, transpose, widen};
use super::product::Precision;
use super::scratch::Scratch;
use super::tile::{Target, sixteen};

/// `k` that a tile holds.
pub(super) const DEPTH: usize = 32;

/// Rows or columns of a tile.
const SIDE: usize = 16;

/// Rows that are taken at once: two tiles.
pub(super) const ROWS: usize = 2 * SIDE;

/// Halves in a tile, as they lie in memory.
const TILE: usize = SIDE * DEPTH;

/// Values of a left side's row that are asked for ahead of their use.
const AHEAD: usize = 64;

/// Lines across the columns that are asked for ahead of their use.
const NEXT: usize = 16;

/// Planes of a value in single precision: as many as there are.
const MOST: usize = 3;

/// Planes of both sides that a product takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    /// That the left side has.
    held: usize,
    left: usize,
    pub(super) right: usize,
}

impl Count {
    /// With a left side that was packed for `held` or less.
    pub(super) fn new(held: Precision, precision: Precision, right: Values<'_>) -> Self {
        let right = match right {
            Values::Bf16(_) => 1,
            Values::F16(_) => 2,
            Values::F32(_) | Values::Quantised { .. } => MOST,
        };
        Self { held: held.planes(), left: precision.planes(), right: right.min(precision.planes()) }
    }
}

/// Values of 4 bytes that the planes of a left side take.
pub(super) fn left_size(precision: Precision, rows: usize, k: usize) -> usize {
    rows.div_ceil(SIDE) * k.div_ceil(DEPTH) * precision.planes() * TILE / 2
}

/// Where a left side's rows from tile `index` on begin, and their stretch from `k` on, in halves.
pub(super) fn left_place(precision: Precision, index: usize, height: usize, whole: usize, k: usize) -> usize {
    (index * 2 * whole.div_ceil(DEPTH) + height.div_ceil(SIDE) * (k / DEPTH)) * precision.planes() * TILE
}

/// Values of 4 bytes that a panel of `halves` tiles' width takes over `k`.
pub(super) fn right_size(count: Count, halves: usize, k: &Range<usize>) -> usize {
    stretch(k).1 * count.right * halves * TILE / 2
}

/// A stretch of the left side's `k` in whole tiles: what comes before it in its first tile, and how many tiles.
fn stretch(k: &Range<usize>) -> (usize, usize) {
    let lead = k.start % DEPTH;
    (lead, (lead + k.len()).div_ceil(DEPTH))
}

/// Writes `height` rows of the left side over all of `k` as [k / DEPTH, plane, tile, 16 rows, DEPTH], as many planes as
/// the precision has.
///
/// # Safety
/// The rows lie within the source, `into` holds them as [`left_size`] says, and the machine has AVX-512.
pub(super) unsafe fn pack_left(
    precision: Precision,
    source: LeftSource<'_>,
    row: usize,
    height: usize,
    k: usize,
    into: *mut u16,
) {
    unsafe {
        let split = match precision {
            Precision::Single => split_rows::<3>,
            Precision::Bf16x2 => split_rows::<2>,
            Precision::Bf16 => split_rows::<1>,
        };
        if !source.transposed {
            let from = source.values.as_ptr().add(row * source.stride);
            return split(from, source.stride, height, k, into);
        }
        let halves = height.div_ceil(SIDE);
        let mut turned = Scratch::new(ROWS * DEPTH);
        for block in 0..k.div_ceil(DEPTH) {
            let first = block * DEPTH * source.stride + row;
            let lines = DEPTH.min(k - block * DEPTH);
            let values = Values::F32(source.values);
            let turned = turned.as_mut_ptr();
            transpose(InstructionSet::Avx512, values, first, source.stride, lines, height, turned, DEPTH);
            split(turned, DEPTH, height, DEPTH, into.add(block * precision.planes() * halves * TILE));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn split_rows<const PLANES: usize>(from: *const f32, stride: usize, height: usize, k: usize, into: *mut u16) {
    unsafe {
        let halves = height.div_ceil(SIDE);
        // Tile by tile as they lie in memory: rows one after the other would write to few sets of the cache.
        for block in 0..k.div_ceil(DEPTH) {
            let into = into.add(block * PLANES * halves * TILE);
            let lanes = first(DEPTH.min(k - block * DEPTH));
            for row in 0..halves * SIDE {
                let from = from.wrapping_add(row * stride + block * DEPTH);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD + 16).cast());
                let planes = f32::load(from, if row < height { lanes } else { 0 });
                let into = into.add(row / SIDE * TILE + row % SIDE * DEPTH);
                for (plane, values) in planes.into_iter().enumerate().take(PLANES) {
                    _mm512_store_si512(into.add(plane * halves * TILE).cast(), values);
                }
            }
        }
    }
}

/// The first `count` of 32 lanes.
#[inline(always)]
fn first(count: usize) -> u32 {
    ((1_u64 << count) - 1) as u32
}

/// Values that are read 32 at a time as planes of bf16.
trait Planes: Copy {
    /// The lanes of `mask`, the others zero and not read; as many planes as [`Count::new`] says, the rest zero.
    unsafe fn load(from: *const Self, mask: u32) -> [__m512i; 3];
}

impl Planes for bf16 {
    #[inline(always)]
    unsafe fn load(from: *const Self, mask: u32) -> [__m512i; 3] {
        unsafe { [_mm512_maskz_loadu_epi16(mask, from.cast()), _mm512_setzero_si512(), _mm512_setzero_si512()] }
    }
}

impl Planes for f16 {
    #[inline(always)]
    unsafe fn load(from: *const Self, mask: u32) -> [__m512i; 3] {
        unsafe {
            let halves = _mm512_maskz_loadu_epi16(mask, from.cast());
            let low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
            let high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves));
            let (top, low, high) = upper(low, high);
            // 11 bits less 8: the rest is exact.
            [top, high_halves(low, high), _mm512_setzero_si512()]
        }
    }
}

impl Planes for f32 {
    #[inline(always)]
    unsafe fn load(from: *const Self, mask: u32) -> [__m512i; 3] {
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, from);
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(16));
            let (top, low, high) = upper(low, high);
            let (middle, low, high) = upper(low, high);
            [top, middle, high_halves(low, high)]
        }
    }
}

/// Values rounded to bf16, and what is left of them, which f32 holds exactly.
#[inline(always)]
unsafe fn upper(low: __m512, high: __m512) -> (__m512i, __m512, __m512) {
    unsafe {
        let (low_top, high_top) = (rounded(low), rounded(high));
        (high_halves(low_top, high_top), _mm512_sub_ps(low, low_top), _mm512_sub_ps(high, high_top))
    }
}

/// The nearest value whose lower half is zero.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512 {
    unsafe {
        let half = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
        _mm512_castsi512_ps(_mm512_and_si512(half, _mm512_set1_epi32(0xffff_0000_u32.cast_signed())))
    }
}

/// The upper halves of 32 values, in order.
#[inline(always)]
unsafe fn high_halves(low: __m512, high: __m512) -> __m512i {
    const ODD: [u16; 32] = {
        let mut odd = [0; 32];
        let mut i = 0;
        while i < 32 {
            odd[i] = 2 * i as u16 + 1;
            i += 1;
        }
        odd
    };
    unsafe {
        let odd = _mm512_loadu_si512(ODD.as_ptr().cast());
        _mm512_permutex2var_epi16(_mm512_castps_si512(low), odd, _mm512_castps_si512(high))
    }
}

/// A panel of the right side.
pub(super) struct RightPart<'a> {
    pub(super) right: &'a Right<'a>,
    /// Rows of the right side.
    pub(super) rows: Range<usize>,
    /// The stretch of the left side's `k` that they meet.
    pub(super) k: Range<usize>,
    pub(super) columns: Range<usize>,
    /// Tiles that the panel is wide.
    pub(super) halves: usize,
    pub(super) count: Count,
}

impl RightPart<'_> {
    /// Writes the panel as [k / DEPTH, plane, tile, DEPTH / 2 pairs, 16 columns, 2], zero where there is nothing.
    ///
    /// # Safety
    /// The part lies within the right side, `into` holds it as [`right_size`] says, and the machine has AVX-512.
    pub(super) unsafe fn pack(&self, set: InstructionSet, into: *mut u16) {
        unsafe {
            match self.right.values {
                Values::F32(values) => self.pack_values(values.as_ptr(), self.right.stride, into),
                Values::Bf16(values) => self.pack_values(values.as_ptr(), self.right.stride, into),
                Values::F16(values) => self.pack_values(values.as_ptr(), self.right.stride, into),
                Values::Quantised { .. } => self.pack_quantised(set, into),
            }
        }
    }

    /// A tile of `k` at a time in f32.
    unsafe fn pack_quantised(&self, set: InstructionSet, into: *mut u16) {
        let mut widened = Scratch::new(ROWS * DEPTH);
        let (lead, blocks) = stretch(&self.k);
        for block in 0..blocks {
            let start = if block == 0 { 0 } else { block * DEPTH - lead };
            let end = self.rows.len().min((block + 1) * DEPTH - lead);
            let rows = self.rows.start + start..self.rows.start + end;
            let (lines, width) = match self.right.order {
                Order::AlongK => (self.columns.clone(), rows.clone()),
                Order::AcrossColumns => (rows.clone(), self.columns.clone()),
            };
            let strip = unsafe { std::slice::from_raw_parts_mut(widened.as_mut_ptr(), lines.len() * width.len()) };
            for (line, into) in lines.zip(strip.chunks_exact_mut(width.len())) {
                widen(set, self.right.values, line * self.right.stride + width.start, into);
            }
            let part = RightPart {
                right: &Right::new(Values::F32(strip), self.right.order, width.len()),
                rows: 0..rows.len(),
                k: self.k.start + start..self.k.start + end,
                columns: 0..self.columns.len(),
                ..*self
            };
            let place = block * self.count.right * self.halves * TILE;
            unsafe { part.pack_values(strip.as_ptr(), width.len(), into.add(place)) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn pack_values<T: Planes>(&self, from: *const T, stride: usize, into: *mut u16) {
        let (lead, blocks) = stretch(&self.k);
        for block in 0..blocks {
            // The tile's lines that there are, the first of them row `start` of the right side.
            let from_line = if block == 0 { lead } else { 0 };
            let to_line = DEPTH.min(lead + self.rows.len() - block * DEPTH);
            let start = self.rows.start + block * DEPTH + from_line - lead;
            unsafe {
                let into = into.add(block * self.count.right * self.halves * TILE);
                match self.right.order {
                    Order::AlongK => {
                        let mask = first(to_line) & !first(from_line);
                        self.turn(from.wrapping_add(start).wrapping_sub(from_line), stride, mask, into);
                    }
                    Order::AcrossColumns => {
                        let from = from.wrapping_add(self.columns.start + start * stride);
                        self.pair(from, stride, from_line..to_line, into);
                    }
                }
            }
        }
    }

    /// A tile of `k` of columns that lie along it.
    #[inline(always)]
    unsafe fn turn<T: Planes>(&self, from: *const T, stride: usize, mask: u32, into: *mut u16) {
        unsafe {
            for half in 0..self.halves {
                let count = SIDE.min(self.columns.len() - half * SIDE);
                let from = from.wrapping_add((self.columns.start + half * SIDE) * stride);
                let mut planes = [[_mm512_setzero_ps(); SIDE]; MOST];
                // Written out, here and below, so that no line passes through memory.
                sixteen!(COLUMN, {
                    let from = from.wrapping_add(COLUMN * stride);
                    // The same place in the panel after this: more rows than the hardware follows.
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(ROWS * stride).cast());
                    let [top, middle, bottom] = T::load(from, if COLUMN < count { mask } else { 0 });
                    planes[0][COLUMN] = _mm512_castsi512_ps(top);
                    planes[1][COLUMN] = _mm512_castsi512_ps(middle);
                    planes[2][COLUMN] = _mm512_castsi512_ps(bottom);
                });
                for (plane, columns) in planes.iter().enumerate().take(self.count.right) {
                    let into = into.add((plane * self.halves + half) * TILE);
                    let lines = flip(*columns);
                    sixteen!(PAIR, { _mm512_store_ps(into.add(PAIR * DEPTH).cast(), lines[PAIR]) });
                }
            }
        }
    }

    /// A tile of `k` of lines that lie across the columns, `from` the first of `lines`.
    #[inline(always)]
    unsafe fn pair<T: Planes>(&self, from: *const T, stride: usize, lines: Range<usize>, into: *mut u16) {
        const LOW: [u16; 32] = interleaved(0);
        const HIGH: [u16; 32] = interleaved(SIDE);
        unsafe {
            let columns = first(self.columns.len());
            let low = _mm512_loadu_si512(LOW.as_ptr().cast());
            let high = _mm512_loadu_si512(HIGH.as_ptr().cast());
            let from = from.wrapping_sub(lines.start * stride);
            for pair in 0..DEPTH / 2 {
                let line = 2 * pair;
                let there = |line: usize| if lines.contains(&line) { columns } else { 0 };
                for line in line + NEXT..line + NEXT + 2 {
                    let next = from.wrapping_add(line * stride);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    _mm_prefetch::<_MM_HINT_T0>(next.cast::<u8>().wrapping_add(64).cast());
                }
                let even = T::load(from.wrapping_add(line * stride), there(line));
                let odd = T::load(from.wrapping_add((line + 1) * stride), there(line + 1));
                for plane in 0..self.count.right {
                    let into = into.add(plane * self.halves * TILE + pair * DEPTH);
                    let (even, odd) = (even[plane], odd[plane]);
                    _mm512_store_si512(into.cast(), _mm512_permutex2var_epi16(even, low, odd));
                    if self.halves == 2 {
                        _mm512_store_si512(into.add(TILE).cast(), _mm512_permutex2var_epi16(even, high, odd));
                    }
                }
            }
        }
    }
}

/// Which halves of two lines lie side by side: those from `start` on, one of each in turn.
const fn interleaved(start: usize) -> [u16; 32] {
    let mut indices = [0; 32];
    let mut i = 0;
    while i < 32 {
        indices[i] = (start + i / 2 + 32 * (i % 2)) as u16;
        i += 1;
    }
    indices
}

/// A stretch of a tile's sum over `k`.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlaneRun {
    /// The left side's planes from the stretch's first tile on.
    pub(super) a: *const u16,
    /// The panel's.
    b: *const u16,
    /// Tiles of `k`.
    blocks: usize,
    count: Count,
}

impl PlaneRun {
    /// A run over a stretch of the left side's `k`.
    pub(super) fn new(b: *const u16, count: Count, k: &Range<usize>) -> Self {
        Self { a: std::ptr::null(), b, blocks: stretch(k).1, count }
    }
}

/// The tile registers of this thread, all of full size while this lives. Without them a thread's state is small again.
pub(super) struct Registers(());

impl Registers {
    /// # Safety
    /// The machine has tiles, and this process may use them.
    pub(super) unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        static FULL: Config = {
            let mut config = [0; 64];
            config[0] = 1;
            let mut tile = 0;
            while tile < 8 {
                config[16 + 2 * tile] = (2 * DEPTH) as u8;
                config[48 + tile] = SIDE as u8;
                tile += 1;
            }
            Config(config)
        };
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack, preserves_flags)) };
        Self(())
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

/// `c = [base +] sum over the runs of a b`, for a panel of `halves` tiles (1 or 2).
///
/// # Safety
/// The runs and the target reach as far as they say, and the registers are configured.
pub(super) unsafe fn multiply_tile(_: &Registers, halves: usize, runs: &[PlaneRun], target: Target) {
    unsafe {
        match (target.height.div_ceil(SIDE), halves) {
            (1, 1) => multiply::<1, 1>(runs, target),
            (1, _) => multiply::<1, 2>(runs, target),
            (_, 1) => multiply::<2, 1>(runs, target),
            (_, _) => multiply::<2, 2>(runs, target),
        }
    }
}

macro_rules! load {
    ($tile:literal, $from:expr) => {
        asm!(concat!("tileloadd tmm", $tile, ", [{from} + {line}]"), from = in(reg) $from, line = in(reg) 2 * DEPTH,
            options(nostack, readonly, preserves_flags))
    };
}

macro_rules! product {
    ($sum:literal, $a:literal, $b:literal) => {
        asm!(concat!("tdpbf16ps tmm", $sum, ", tmm", $a, ", tmm", $b), options(nostack, nomem, preserves_flags))
    };
}

macro_rules! store {
    ($tile:literal, $to:expr, $line:expr) => {
        asm!(concat!("tilestored [{to} + {line}], tmm", $tile), to = in(reg) $to, line = in(reg) $line,
            options(nostack, preserves_flags))
    };
}

/// Sums are tiles 0 (first rows, first columns), 1, 2 (second rows) and 3; the left side's 4 and 5, the right's 6, 7.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply<const TALL: usize, const WIDE: usize>(runs: &[PlaneRun], target: Target) {
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, nomem, preserves_flags)
        );
        for run in runs {
            let (mut a, mut b) = (run.a, run.b);
            for _ in 0..run.blocks {
                for right in 0..run.count.right {
                    load!(6, b);
                    if WIDE == 2 {
                        load!(7, b.add(TILE));
                    }
                    b = b.add(WIDE * TILE);
                    for left in 0..run.count.left - right {
                        let a = a.add(left * TALL * TILE);
                        load!(4, a);
                        product!(0, 4, 6);
                        if WIDE == 2 {
                            product!(1, 4, 7);
                        }
                        if TALL == 2 {
                            load!(5, a.add(TILE));
                            product!(2, 5, 6);
                            if WIDE == 2 {
                                product!(3, 5, 7);
                            }
                        }
                    }
                }
                a = a.add(run.count.held * TALL * TILE);
            }
        }
        let whole = target.height == TALL * SIDE && target.columns == WIDE * SIDE && target.base.is_null();
        let mut sums = MaybeUninit::<[f32; ROWS * ROWS]>::uninit();
        let (to, width) = if whole { (target.c, target.stride) } else { (sums.as_mut_ptr().cast(), ROWS) };
        let line = width * size_of::<f32>();
        store!(0, to, line);
        if WIDE == 2 {
            store!(1, to.add(SIDE), line);
        }
        if TALL == 2 {
            store!(2, to.add(SIDE * width), line);
            if WIDE == 2 {
                store!(3, to.add(SIDE * width + SIDE), line);
            }
        }
        if whole {
            return;
        }
        for row in 0..target.height {
            for half in 0..WIDE {
                let mask = first(target.columns.saturating_sub(half * SIDE).min(SIDE)) as u16;
                let sum = _mm512_loadu_ps(to.add(row * ROWS + half * SIDE));
                let place = row * target.stride + half * SIDE;
                let sum = if target.base.is_null() {
                    sum
                } else {
                    _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, target.base.wrapping_add(place)))
                };
                _mm512_mask_storeu_ps(target.c.wrapping_add(place), mask, sum);
            }
        }
    }
}
