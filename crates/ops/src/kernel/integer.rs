//! Products in block fixed point: the left side's rows and the right side's columns are rounded to integers in blocks
//! along `k`, each block with its own scale, and the integer sums of a block are exact in 32 bits.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::isa::InstructionSet;
use super::math::{largest_magnitude, vectorised};
use super::pack::{LeftSource, Order, Panel, Right, Tiles, Values, transpose, widen};
use super::scratch::Scratch;
use super::tile::Target;
use super::{Shared, Threads};

/// How a frozen product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compute {
    /// In single precision.
    #[default]
    F32,
    /// In block fixed point of 14 bits (what is multiplied) and 12 bits (the weights), signs included.
    Int16,
    /// In block fixed point of 8 bits on both sides.
    Int8,
}

/// The integers of one way to compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Format {
    /// Largest magnitude on the left.
    left: f32,
    /// Largest magnitude on the right.
    right: f32,
    /// Integers of one 32-bit lane: 2 of 16 bits, or 4 of 8.
    group: usize,
}

/// `k` of one block. `BLOCK * left * right` stays below 2^31.
pub(crate) const BLOCK: usize = 128;

impl Compute {
    /// `None` for single precision. Without 8-bit dot products, 8-bit values are held in 16 bits: the sums are the same.
    pub(crate) fn format(self, set: InstructionSet) -> Option<Format> {
        match self {
            Self::F32 => None,
            Self::Int16 => Some(Format { left: 8191.0, right: 2047.0, group: 2 }),
            Self::Int8 => {
                let group = if set == InstructionSet::Avx512Vnni { 4 } else { 2 };
                Some(Format { left: 127.0, right: 127.0, group })
            }
        }
    }
}

/// Blocks of a sum over `k`, and the lanes of each: the last may be shorter.
fn blocks(k: usize, group: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    (0..k).step_by(BLOCK).map(move |start| {
        let block = start..k.min(start + BLOCK);
        let lanes = block.len().div_ceil(group);
        (block, lanes)
    })
}

/// Lanes of a whole sum over `k`.
fn lanes_of(k: usize, group: usize) -> usize {
    blocks(k, group).map(|(_, lanes)| lanes).sum()
}

/// The left side in integers: rows in tiles, each tile's lanes [lane, height] and scales [block, height].
#[derive(Debug)]
pub(crate) struct IntegerLeft {
    values: Scratch,
    scales: Scratch,
    pub(crate) k: usize,
    pub(crate) tiles: Tiles,
    pub(crate) set: InstructionSet,
    pub(crate) format: Format,
}

impl IntegerLeft {
    /// Rounds `rows` x `k` of a row-major matrix.
    pub(crate) fn pack(
        set: InstructionSet,
        format: Format,
        source: LeftSource<'_>,
        rows: usize,
        k: usize,
        threads: Threads,
    ) -> Self {
        assert!(!source.transposed && source.holds(rows, k), "rows of the left side lie within its values");
        let lanes = lanes_of(k, format.group);
        let tiles = Tiles::new(rows, set);
        let mut values = Scratch::new(rows * lanes);
        let mut scales = Scratch::new(rows * k.div_ceil(BLOCK));
        let (to_values, to_scales) = (Shared(values.as_mut_ptr()), Shared(scales.as_mut_ptr()));
        threads.each(tiles.count, rows * k, |index| {
            let (row, height) = tiles.place(index);
            // SAFETY: each tile writes its own part of both.
            let (values, scales) = unsafe {
                (to_values.get().add(row * lanes).cast::<u32>(), to_scales.get().add(row * k.div_ceil(BLOCK)))
            };
            // The dot product of bytes takes this side unsigned; the right side's sums take 128 back.
            let offset = if format.group == 4 { 128 } else { 0 };
            let mut rounded = [0_u32; BLOCK / 2];
            // A row at a time, as it lies in memory.
            for line in 0..height {
                let start = (row + line) * source.stride;
                let mut before = 0;
                for (index, (block, lanes)) in blocks(k, format.group).enumerate() {
                    let from = &source.values[start + block.start..start + block.end];
                    let (scale, inverse) = scales_of(largest_magnitude(set, from), format.left);
                    round_groups(set, from, inverse, &mut rounded[..lanes], format.group, offset);
                    // SAFETY: within this tile's lanes and scales.
                    unsafe {
                        *scales.add(index * height + line) = scale;
                        let values = values.add(before * height + line);
                        for (lane, value) in rounded[..lanes].iter().enumerate() {
                            *values.add(lane * height) = *value;
                        }
                    }
                    before += lanes;
                }
            }
        });
        Self { values, scales, k, tiles, set, format }
    }
}

/// The scale of a block and its inverse. A block with a value that is not finite has a scale that is not, so that the
/// product is not either.
fn scales_of(magnitude: f32, most: f32) -> (f32, f32) {
    if magnitude == 0.0 {
        (0.0, 0.0)
    } else if magnitude.is_finite() && magnitude >= f32::MIN_POSITIVE * 1e5 {
        (magnitude / most, most / magnitude)
    } else if magnitude.is_finite() {
        // Too small for an inverse; nothing of f32 is lost by taking it for 0.
        (0.0, 0.0)
    } else {
        (f32::NAN, 0.0)
    }
}

/// Added to a value below 2^22, leaves it rounded to the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;

vectorised! {
    /// Rounds values and lays `group` of them side by side in each lane, the last ones filled up with 0.
    fn round_groups(from: &[f32], inverse: f32, into: &mut [u32], group: usize, offset: u32) {
        if group == 2 {
            let (pairs, rest) = from.as_chunks::<2>();
            for (into, [low, high]) in into.iter_mut().zip(pairs) {
                *into = ((low * inverse + ROUND).to_bits() & 0xffff) | ((high * inverse + ROUND).to_bits() << 16);
            }
            if let ([low], Some(last)) = (rest, into.last_mut()) {
                *last = (low * inverse + ROUND).to_bits() & 0xffff;
            }
        } else {
            let byte = |value: f32| ((value * inverse + ROUND).to_bits().wrapping_add(offset)) & 0xff;
            let (fours, rest) = from.as_chunks::<4>();
            for (into, [a, b, c, d]) in into.iter_mut().zip(fours) {
                *into = byte(*a) | (byte(*b) << 8) | (byte(*c) << 16) | (byte(*d) << 24);
            }
            if let (false, Some(last)) = (rest.is_empty(), into.last_mut()) {
                *last = (0..4).map(|i| byte(rest.get(i).copied().unwrap_or(0.0)) << (8 * i)).sum();
            }
        }
    }
}

/// A panel of the right side in integers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntegerPanel {
    /// [lane, width].
    values: *const u32,
    /// [block, width].
    scales: *const f32,
    /// What a block's sums start from, [block, width]: `-128 * sum of the column's bytes`.
    starts: *const i32,
}

/// Values of 4 bytes that a panel takes.
pub(crate) fn panel_size(format: Format, k: usize, width: usize) -> usize {
    width * (lanes_of(k, format.group) + 2 * k.div_ceil(BLOCK))
}

/// A whole right side in integers, made once for a weight that does not change.
#[derive(Debug)]
pub(crate) struct IntegerPanels {
    room: Scratch,
    k: usize,
    columns: usize,
    set: InstructionSet,
    format: Format,
}

// SAFETY: the values are written once, before anything shares them.
unsafe impl Sync for IntegerPanels {}

impl IntegerPanels {
    /// Rounds all `columns` of the right side over `k`.
    pub(crate) fn new(set: InstructionSet, format: Format, right: &Right<'_>, k: usize, columns: usize) -> Self {
        assert!(right.holds(k, columns), "the right side holds its columns");
        let lanes = set.tile().lanes;
        let panels: Vec<Panel> = Panel::cut(columns, lanes).collect();
        let size = panels.iter().map(|panel| panel_size(format, k, panel.vectors * lanes)).sum();
        let mut this = Self { room: Scratch::new(size), k, columns, set, format };
        let room = Shared(this.room.as_mut_ptr());
        Threads::All.each(panels.len(), k * columns, |index| {
            let panel = &panels[index];
            let place = room.get().wrapping_add(this.offset(panel.start));
            let columns = panel.start..panel.start + panel.count;
            // SAFETY: the columns are the right side's, and each panel has room of its own.
            unsafe { pack_panel(right, format, set, k, columns, place, panel.vectors * lanes) };
        });
        this
    }

    /// Whether these are the integers that a left side meets.
    pub(crate) fn fits(&self, left: &IntegerLeft) -> bool {
        (self.set, self.format) == (left.set, left.format)
    }

    /// Whether `k` (from a block's start) and `columns` (from a panel's start) lie within.
    pub(crate) fn holds(&self, k: Range<usize>, columns: Range<usize>) -> bool {
        let whole = k.end == self.k || k.len().is_multiple_of(BLOCK);
        let aligned = k.start.is_multiple_of(BLOCK) && columns.start.is_multiple_of(2 * self.set.tile().lanes);
        whole && aligned && k.end <= self.k && columns.end <= self.columns
    }

    /// Where the panel that begins at `column` lies: all before it are whole.
    fn offset(&self, column: usize) -> usize {
        column * panel_size(self.format, self.k, 1)
    }

    /// The panel that begins at `column`, from `k` on.
    pub(crate) fn panel(&self, column: usize, k: usize) -> IntegerPanel {
        let lanes = self.set.tile().lanes;
        let width = if self.columns - column > lanes { 2 * lanes } else { lanes };
        let count = self.k.div_ceil(BLOCK);
        let place = self.room.as_ptr().wrapping_add(self.offset(column));
        let scales = place.wrapping_add(lanes_of(self.k, self.format.group) * width);
        let block = k / BLOCK * width;
        IntegerPanel {
            values: place.cast::<u32>().wrapping_add(lanes_of(k, self.format.group) * width),
            scales: scales.wrapping_add(block),
            starts: scales.wrapping_add(count * width + block).cast(),
        }
    }
}

/// Rounds `columns` of the right side over `k` into `room`.
///
/// # Safety
/// The part lies within the matrix, and `room` holds [`panel_size`] values.
pub(crate) unsafe fn pack_panel(
    right: &Right<'_>,
    format: Format,
    set: InstructionSet,
    k: usize,
    columns: Range<usize>,
    room: *mut f32,
    width: usize,
) -> IntegerPanel {
    let lanes = lanes_of(k, format.group);
    let count = k.div_ceil(BLOCK);
    // SAFETY: the room holds the three one after the other.
    let (values, scales, starts) = unsafe {
        let scales = room.add(lanes * width);
        (room.cast::<u32>(), scales, scales.add(count * width).cast::<i32>())
    };
    let mut widened = vec![0.0_f32; BLOCK * width];
    let mut rounded = vec![0_u32; BLOCK / 2 * width];
    let mut inverses = vec![0.0_f32; width];
    let mut magnitudes = vec![0.0_f32; width];
    let mut lane = 0;
    for (index, (block, lanes)) in blocks(k, format.group).enumerate() {
        // SAFETY: each block has its own lines of the three.
        let (into, scale, start) = unsafe {
            (
                std::slice::from_raw_parts_mut(values.add(lane * width), lanes * width),
                std::slice::from_raw_parts_mut(scales.add(index * width), width),
                std::slice::from_raw_parts_mut(starts.add(index * width), width),
            )
        };
        lane += lanes;
        match right.order {
            Order::AlongK => {
                let length = block.len();
                for column in 0..width {
                    let line = &mut rounded[column * lanes..(column + 1) * lanes];
                    if column >= columns.len() {
                        line.fill(0);
                        scale[column] = 0.0;
                        continue;
                    }
                    let first = (columns.start + column) * right.stride + block.start;
                    let from = match right.values {
                        Values::F32(values) => &values[first..first + length],
                        other => {
                            widen(set, other, first, &mut widened[..length]);
                            &widened[..length]
                        }
                    };
                    let (own, inverse) = scales_of(largest_magnitude(set, from), format.right);
                    scale[column] = own;
                    round_groups(set, from, inverse, line, format.group, 0);
                }
                // SAFETY: bits of 32 are moved, whatever their type; both hold `width` columns of `lanes`.
                unsafe {
                    let from = Values::F32(std::slice::from_raw_parts(rounded.as_ptr().cast(), width * lanes));
                    transpose(set, from, 0, lanes, width, lanes, into.as_mut_ptr().cast(), width);
                }
            }
            Order::AcrossColumns => {
                magnitudes.fill(0.0);
                widened[block.len() * width..].fill(0.0);
                for (line, k) in block.clone().enumerate() {
                    let line = &mut widened[line * width..(line + 1) * width];
                    let (whole, rest) = line.split_at_mut(columns.len());
                    widen(set, right.values, k * right.stride + columns.start, whole);
                    rest.fill(0.0);
                    raise(set, &mut magnitudes, line);
                }
                for ((scale, inverse), magnitude) in scale.iter_mut().zip(&mut inverses).zip(&magnitudes) {
                    (*scale, *inverse) = scales_of(*magnitude, format.right);
                }
                for (into, lines) in into.chunks_exact_mut(width).zip(widened.chunks_exact(format.group * width)) {
                    round_lines(set, lines, &inverses, into, format.group);
                }
            }
        }
        start.fill(0);
        if format.group == 4 {
            for line in into.chunks_exact(width) {
                for (start, bytes) in start.iter_mut().zip(line) {
                    *start -= 128 * bytes.to_le_bytes().iter().map(|byte| i32::from(*byte as i8)).sum::<i32>();
                }
            }
        }
    }
    IntegerPanel { values, scales, starts }
}

vectorised! {
    /// `most = max(most, |values|)`; NaN stays.
    fn raise(most: &mut [f32], values: &[f32]) {
        for (most, value) in most.iter_mut().zip(values) {
            let value = value.abs();
            *most = if value <= *most { *most } else { value };
        }
    }
}

vectorised! {
    /// As [`round_groups`] for `group` lines of columns, each column with its own scale.
    fn round_lines(lines: &[f32], inverses: &[f32], into: &mut [u32], group: usize) {
        let width = inverses.len();
        if group == 2 {
            let (low, high) = lines.split_at(width);
            for ((into, inverse), (low, high)) in into.iter_mut().zip(inverses).zip(low.iter().zip(high)) {
                *into = ((low * inverse + ROUND).to_bits() & 0xffff) | ((high * inverse + ROUND).to_bits() << 16);
            }
        } else {
            for (column, (into, inverse)) in into.iter_mut().zip(inverses).enumerate() {
                let byte = |line: usize| (lines[line * width + column] * inverse + ROUND).to_bits() & 0xff;
                *into = byte(0) | (byte(1) << 8) | (byte(2) << 16) | (byte(3) << 24);
            }
        }
    }
}

/// `c = [base +] sum over blocks of scale_a scale_b (a b)`, for one tile and a panel of `vectors` registers.
///
/// # Safety
/// The panel was packed over the left side's `k` and format, the target reaches as far as it says, and the machine runs
/// the left side's set.
pub(crate) unsafe fn multiply_tile(
    left: &IntegerLeft,
    tile: usize,
    vectors: usize,
    panel: IntegerPanel,
    target: Target,
) {
    let (row, height) = left.tiles.place(tile);
    let format = left.format;
    let count = left.k.div_ceil(BLOCK);
    // SAFETY: the tiles before hold `row` rows.
    let call = unsafe {
        Call {
            a: left.values.as_ptr().add(row * lanes_of(left.k, format.group)).cast(),
            a_scales: left.scales.as_ptr().add(row * count),
            panel,
            k: left.k,
            target,
        }
    };
    debug_assert_eq!(height, target.height, "the target is the tile's");
    // SAFETY: as the caller says.
    unsafe {
        match (left.set, format.group) {
            (InstructionSet::Portable, _) => portable(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx2, _) => x86::avx2(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512, _) => x86::avx512(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512Vnni, 2) => x86::vnni16(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512Vnni, _) => x86::vnni8(vectors, &call),
            #[cfg(target_arch = "aarch64")]
            (InstructionSet::Neon, _) => arm::neon(vectors, &call),
            #[allow(unreachable_patterns, reason = "the sets of other machines")]
            _ => unreachable!("a set that this machine cannot run"),
        }
    }
}

/// One tile's work.
struct Call {
    a: *const i32,
    a_scales: *const f32,
    panel: IntegerPanel,
    k: usize,
    target: Target,
}

/// Vectors of 32-bit integers as the microkernel sees them.
trait IntegerSimd: Copy {
    type V: Copy;
    type F: Copy;
    const LANES: usize;
    /// Integers of one lane.
    const GROUP: usize;
    unsafe fn load(from: *const i32) -> Self::V;
    /// `sums + a . b`, where the group at `a` meets the group of each lane.
    unsafe fn dot(sums: Self::V, a: *const i32, b: Self::V) -> Self::V;
    unsafe fn load_f32(from: *const f32) -> Self::F;
    /// `sums * (scale * scales)`.
    unsafe fn scaled(sums: Self::V, scale: *const f32, scales: Self::F) -> Self::F;
    /// `total + sums * (scale * scales)`.
    unsafe fn scale(total: Self::F, sums: Self::V, scale: *const f32, scales: Self::F) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
}

#[inline(always)]
unsafe fn tile<S: IntegerSimd, const ROWS: usize, const VECTORS: usize>(call: &Call) {
    unsafe {
        let width = VECTORS * S::LANES;
        // The totals of a tile between blocks: in the first-level cache, since the registers hold the block's sums.
        let mut totals = MaybeUninit::<[[f32; 32]; 14]>::uninit();
        // Opaque: kept in an array of its own, the compiler would give it registers that the sums need.
        let totals: *mut f32 = std::hint::black_box(totals.as_mut_ptr().cast());
        let (mut a, mut a_scales) = (call.a, call.a_scales);
        let IntegerPanel { mut values, mut scales, mut starts } = call.panel;
        for (block, lanes) in blocks(call.k, S::GROUP) {
            let mut first = [S::load(starts); 14];
            let mut second = [S::load(starts.add(width - S::LANES)); 14];
            for _ in 0..lanes {
                let column = S::load(values.cast());
                if VECTORS == 2 {
                    let column_2 = S::load(values.add(S::LANES).cast());
                    super::tile::rows!(ROWS, ROW, {
                        first[ROW] = S::dot(first[ROW], a.add(ROW), column);
                        second[ROW] = S::dot(second[ROW], a.add(ROW), column_2);
                    });
                } else {
                    super::tile::rows!(ROWS, ROW, {
                        first[ROW] = S::dot(first[ROW], a.add(ROW), column);
                    });
                }
                a = a.add(ROWS);
                values = values.add(width);
            }
            let column = S::load_f32(scales);
            let column_2 = S::load_f32(scales.add(width - S::LANES));
            if block.start == 0 {
                super::tile::rows!(ROWS, ROW, {
                    let total = totals.add(ROW * 32);
                    S::store(total, S::scaled(first[ROW], a_scales.add(ROW), column));
                    if VECTORS == 2 {
                        S::store(total.add(S::LANES), S::scaled(second[ROW], a_scales.add(ROW), column_2));
                    }
                });
            } else {
                super::tile::rows!(ROWS, ROW, {
                    let total = totals.add(ROW * 32);
                    S::store(total, S::scale(S::load_f32(total), first[ROW], a_scales.add(ROW), column));
                    if VECTORS == 2 {
                        let total = total.add(S::LANES);
                        S::store(total, S::scale(S::load_f32(total), second[ROW], a_scales.add(ROW), column_2));
                    }
                });
            }
            a_scales = a_scales.add(ROWS);
            scales = scales.add(width);
            starts = starts.add(width);
        }
        let whole = call.target.columns == width && call.target.base.is_null();
        for row in 0..ROWS {
            let totals = totals.add(row * 32).cast_const();
            let place = row * call.target.stride;
            let line = call.target.c.add(place);
            if whole {
                for vector in 0..VECTORS {
                    S::store(line.add(vector * S::LANES), S::load_f32(totals.add(vector * S::LANES)));
                }
                continue;
            }
            for column in 0..call.target.columns {
                let base = if call.target.base.is_null() { 0.0 } else { *call.target.base.add(place + column) };
                *line.add(column) = base + *totals.add(column);
            }
        }
    }
}

/// Arrays of 8 lanes of two 16-bit integers.
#[derive(Clone, Copy)]
struct Portable16;

impl IntegerSimd for Portable16 {
    type V = [i32; 8];
    type F = [f32; 8];
    const LANES: usize = 8;
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const i32) -> [i32; 8] {
        unsafe { from.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(sums: [i32; 8], a: *const i32, b: [i32; 8]) -> [i32; 8] {
        let a = unsafe { *a };
        let low = |pair: i32| i32::from(pair as i16);
        std::array::from_fn(|lane| sums[lane] + low(a) * low(b[lane]) + (a >> 16) * (b[lane] >> 16))
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn scaled(sums: [i32; 8], scale: *const f32, scales: [f32; 8]) -> [f32; 8] {
        let scale = unsafe { *scale };
        std::array::from_fn(|lane| sums[lane] as f32 * (scale * scales[lane]))
    }
    #[inline(always)]
    unsafe fn scale(total: [f32; 8], sums: [i32; 8], scale: *const f32, scales: [f32; 8]) -> [f32; 8] {
        let scale = unsafe { *scale };
        std::array::from_fn(|lane| total[lane] + sums[lane] as f32 * (scale * scales[lane]))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
}

macro_rules! by_height {
    ($simd:ty, $vectors:expr, $call:expr, [$($height:literal)*]) => {
        match ($vectors, $call.target.height) {
            $((1, $height) => tile::<$simd, $height, 1>($call),)*
            $((_, $height) => tile::<$simd, $height, 2>($call),)*
            _ => unreachable!("a tile higher than the registers hold"),
        }
    };
}

unsafe fn portable(vectors: usize, call: &Call) {
    unsafe { by_height!(Portable16, vectors, call, [1 2 3 4]) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Call, IntegerSimd, tile};

    macro_rules! avx512_simd {
        ($name:ident, $group:literal, |$sums:ident, $a:ident, $b:ident| $dot:expr) => {
            #[derive(Clone, Copy)]
            struct $name;

            impl IntegerSimd for $name {
                type V = __m512i;
                type F = __m512;
                const LANES: usize = 16;
                const GROUP: usize = $group;

                #[inline(always)]
                unsafe fn load(from: *const i32) -> __m512i {
                    unsafe { _mm512_loadu_si512(from.cast()) }
                }
                #[inline(always)]
                unsafe fn dot($sums: __m512i, $a: *const i32, $b: __m512i) -> __m512i {
                    unsafe { $dot }
                }
                #[inline(always)]
                unsafe fn load_f32(from: *const f32) -> __m512 {
                    unsafe { _mm512_loadu_ps(from) }
                }
                #[inline(always)]
                unsafe fn scaled(sums: __m512i, scale: *const f32, scales: __m512) -> __m512 {
                    unsafe {
                        let factor = _mm512_mul_ps(_mm512_set1_ps(*scale), scales);
                        _mm512_mul_ps(_mm512_cvtepi32_ps(sums), factor)
                    }
                }
                #[inline(always)]
                unsafe fn scale(total: __m512, sums: __m512i, scale: *const f32, scales: __m512) -> __m512 {
                    unsafe {
                        let factor = _mm512_mul_ps(_mm512_set1_ps(*scale), scales);
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factor, total)
                    }
                }
                #[inline(always)]
                unsafe fn store(to: *mut f32, v: __m512) {
                    unsafe { _mm512_storeu_ps(to, v) }
                }
            }
        };
    }

    avx512_simd!(Vnni16, 2, |sums, a, b| _mm512_dpwssd_epi32(sums, _mm512_set1_epi32(*a), b));
    avx512_simd!(Vnni8, 4, |sums, a, b| _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(*a), b));
    avx512_simd!(Avx512, 2, |sums, a, b| _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_set1_epi32(*a), b)));

    #[derive(Clone, Copy)]
    struct Avx2;

    impl IntegerSimd for Avx2 {
        type V = __m256i;
        type F = __m256;
        const LANES: usize = 8;
        const GROUP: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const i32) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn dot(sums: __m256i, a: *const i32, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_set1_epi32(*a), b)) }
        }
        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn scaled(sums: __m256i, scale: *const f32, scales: __m256) -> __m256 {
            unsafe {
                let factor = _mm256_mul_ps(_mm256_set1_ps(*scale), scales);
                _mm256_mul_ps(_mm256_cvtepi32_ps(sums), factor)
            }
        }
        #[inline(always)]
        unsafe fn scale(total: __m256, sums: __m256i, scale: *const f32, scales: __m256) -> __m256 {
            unsafe {
                let factor = _mm256_mul_ps(_mm256_set1_ps(*scale), scales);
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), factor, total)
            }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) unsafe fn vnni16(vectors: usize, call: &Call) {
        unsafe { by_height!(Vnni16, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) unsafe fn vnni8(vectors: usize, call: &Call) {
        unsafe { by_height!(Vnni8, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn avx512(vectors: usize, call: &Call) {
        unsafe { by_height!(Avx512, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(vectors: usize, call: &Call) {
        unsafe { by_height!(Avx2, vectors, call, [1 2 3 4 5 6]) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::{Call, IntegerSimd, tile};

    #[derive(Clone, Copy)]
    struct Neon;

    impl IntegerSimd for Neon {
        type V = int32x4_t;
        type F = float32x4_t;
        const LANES: usize = 4;
        const GROUP: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const i32) -> int32x4_t {
            unsafe { vld1q_s32(from) }
        }
        #[inline(always)]
        unsafe fn dot(sums: int32x4_t, a: *const i32, b: int32x4_t) -> int32x4_t {
            unsafe {
                let a = vreinterpretq_s16_s32(vld1q_dup_s32(a));
                let b = vreinterpretq_s16_s32(b);
                let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
                vaddq_s32(sums, vpaddq_s32(low, vmull_high_s16(a, b)))
            }
        }
        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn scale(total: float32x4_t, sums: int32x4_t, scale: *const f32, scales: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(total, vcvtq_f32_s32(sums), vmulq_f32(vld1q_dup_f32(scale), scales)) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(to, v) }
        }
    }

    #[target_feature(enable = "neon")]
    pub(super) unsafe fn neon(vectors: usize, call: &Call) {
        unsafe { by_height!(Neon, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12]) }
    }
}
