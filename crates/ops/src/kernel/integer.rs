//! Products in block fixed point: the left side's rows and the right side's columns are rounded to integers in blocks
//! along `k`, each block with its own scale, and the integer sums of a block are exact in 32 bits.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]

mod microkernel;

use std::ops::Range;

use super::isa::InstructionSet;
use super::math::{largest_magnitude, vectorised};
use super::pack::{LeftSource, Order, Panel, Right, Tiles, Values, transpose, widen};
use super::product::Precision;
use super::scratch::Scratch;
use super::{Shared, Threads};

pub(crate) use microkernel::multiply_tile;

/// How a frozen product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compute {
    /// In single precision.
    #[default]
    F32,
    /// What is multiplied is rounded to bf16, and so are weights that are more than that.
    Bf16,
    /// What is multiplied is rounded to the sum of two bf16, which has 16 bits, and so are weights that are more than
    /// that.
    Bf16x2,
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
pub(crate) const BLOCK: usize = 64;

impl Compute {
    /// What a set of instructions computes where it is asked for this, since it is both closer and faster: on
    /// [`InstructionSet::Amx`] `Bf16x2` for integers of 16 bits and `Bf16` for those of 8, elsewhere `F32` for both kinds
    /// of bf16.
    pub fn on(self, set: InstructionSet) -> Self {
        match (self, set) {
            (Self::Int16 | Self::Bf16x2, InstructionSet::Amx) => Self::Bf16x2,
            (Self::Int8 | Self::Bf16, InstructionSet::Amx) => Self::Bf16,
            (Self::Bf16x2 | Self::Bf16, _) => Self::F32,
            (Self::F32 | Self::Int16 | Self::Int8, _) => self,
        }
    }

    /// Whether integers of every weight are held for it, on a processor that computes in them.
    pub fn keeps_integers(self) -> bool {
        matches!(self, Self::Int16 | Self::Int8)
    }

    /// The precision where [`Self::format`] is `None`.
    pub(crate) fn precision(self, set: InstructionSet) -> Precision {
        match self.on(set) {
            Self::Bf16 => Precision::Bf16,
            Self::Bf16x2 => Precision::Bf16x2,
            Self::F32 | Self::Int16 | Self::Int8 => Precision::Single,
        }
    }

    /// `None` where nothing is an integer. Without 8-bit dot products, 8-bit values are held in 16 bits: the sums are the
    /// same.
    pub(crate) fn format(self, set: InstructionSet) -> Option<Format> {
        match self.on(set) {
            Self::F32 | Self::Bf16 | Self::Bf16x2 => None,
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

#[cfg(test)]
mod tests;
