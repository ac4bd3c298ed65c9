//! Copies of parts of matrices in the order in which tiles read them, in f32.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::Shared;
use super::isa::InstructionSet;
use super::math::vectorised;
#[cfg(target_arch = "x86_64")]
use super::planes;
use super::product::Precision;
use super::quantised::QuantWeight;
use super::scratch::{Scratch, fresh};

/// Values of a matrix as they are held in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper half of single precision: exact in f32.
    Bf16(&'a [bf16]),
    /// Half precision: exact in f32.
    F16(&'a [f16]),
    /// 4 or 8 bits, from value `start` on.
    Quantised {
        /// All of the weight.
        weight: &'a QuantWeight,
        start: usize,
    },
}

impl<'a> Values<'a> {
    /// From value `start` on.
    pub(crate) fn from(&self, start: usize) -> Values<'a> {
        match self {
            Self::F32(values) => Values::F32(&values[start..]),
            Self::Bf16(values) => Values::Bf16(&values[start..]),
            Self::F16(values) => Values::F16(&values[start..]),
            Self::Quantised { weight, start: first } => Values::Quantised { weight, start: first + start },
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Quantised { weight, start } => weight.len().saturating_sub(*start),
        }
    }

    /// As many of the first values as `into` takes, in f32.
    pub(crate) fn widen(&self, set: InstructionSet, into: &mut [f32]) {
        widen(set, *self, 0, into);
    }
}

/// Which way a matrix is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[k, columns]`: the columns of one `k` are side by side.
    AcrossColumns,
    /// `[columns, k]`: the `k` of one column are side by side, as a checkpoint's `[out, in]` in `x W^T`.
    AlongK,
}

/// The right side of a product, [k, columns] in either order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) order: Order,
    /// From one row of `values` to the next.
    pub(crate) stride: usize,
}

impl<'a> Right<'a> {
    /// A row-major matrix of `width` values a row.
    pub(crate) fn new(values: Values<'a>, order: Order, width: usize) -> Self {
        Self { values, order, stride: width }
    }

    /// Whether rows `0..k` and `columns` of the right side lie within the values.
    pub(crate) fn holds(&self, k: usize, columns: usize) -> bool {
        let (rows, width) = match self.order {
            Order::AcrossColumns => (k, columns),
            Order::AlongK => (columns, k),
        };
        rows == 0 || width == 0 || (rows - 1) * self.stride + width <= self.values.len()
    }

    /// Writes `k` and `columns` to `panel` as [k, width], the missing columns zero.
    ///
    /// # Safety
    /// The part lies within the matrix, and `panel` holds `k.len() * width` values.
    pub(crate) unsafe fn pack(
        &self,
        set: InstructionSet,
        k: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        panel: *mut f32,
        width: usize,
    ) {
        match self.order {
            Order::AcrossColumns => {
                for (line, k) in k.enumerate() {
                    let start = k * self.stride;
                    // SAFETY: the caller's panel holds this line.
                    let line = unsafe { std::slice::from_raw_parts_mut(panel.add(line * width), width) };
                    let (whole, rest) = line.split_at_mut(columns.len());
                    widen(set, self.values, start + columns.start, whole);
                    rest.fill(0.0);
                }
            }
            Order::AlongK => {
                let rows = columns.len();
                let first = columns.start * self.stride + k.start;
                // SAFETY: as the caller says.
                unsafe { transpose(set, self.values, first, self.stride, rows, k.len(), panel, width) };
            }
        }
    }
}

/// `into` from `values[start..]`.
pub(super) fn widen(set: InstructionSet, values: Values<'_>, start: usize, into: &mut [f32]) {
    match values {
        Values::F32(values) => into.copy_from_slice(&values[start..start + into.len()]),
        Values::Bf16(values) => widen_bf16(set, into, &values[start..start + into.len()]),
        Values::F16(values) => values[start..start + into.len()].convert_to_f32_slice(into),
        Values::Quantised { weight, start: first } => weight.widen(set, first + start, into),
    }
}

vectorised! {
    fn widen_bf16(into: &mut [f32], from: &[bf16]) {
        for (into, from) in into.iter_mut().zip(from) {
            *into = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
}

/// The left side of a product: rows in tiles of nearly equal height, each tile [k, height].
#[derive(Debug)]
pub(crate) struct Left {
    packed: Scratch,
    pub(crate) k: usize,
    pub(crate) tiles: Tiles,
    pub(crate) set: InstructionSet,
    /// Of the products that it is for.
    pub(crate) precision: Precision,
}

/// Rows in as few tiles as the registers allow: of heights that differ by 1 at most, or all but the last full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    rows: usize,
    pub(crate) count: usize,
    /// The height of a full tile, where they are.
    full: Option<usize>,
}

impl Tiles {
    pub(crate) fn new(rows: usize, set: InstructionSet) -> Self {
        let shape = set.tile();
        Self { rows, count: rows.div_ceil(shape.rows), full: shape.full.then_some(shape.rows) }
    }

    /// All of them.
    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    /// The first row of tile `index`, and its height.
    pub(crate) fn place(self, index: usize) -> (usize, usize) {
        if let Some(height) = self.full {
            return (index * height, height.min(self.rows - index * height));
        }
        let (height, higher) = (self.rows / self.count, self.rows % self.count);
        (index * height + index.min(higher), height + usize::from(index < higher))
    }
}

/// Where the left side's values come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeftSource<'a> {
    pub(crate) values: &'a [f32],
    /// From one row of `values` to the next.
    pub(crate) stride: usize,
    /// `false`: `values` is [rows, k]. `true`: it is [k, rows], the transpose.
    pub(crate) transposed: bool,
}

impl<'a> LeftSource<'a> {
    /// A row-major matrix [rows, width].
    pub(crate) fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, transposed: false }
    }

    /// The transpose of a row-major matrix of `width` values a row.
    pub(crate) fn transposed(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, transposed: true }
    }

    /// Whether `rows` x `k` lie within the values.
    pub(crate) fn holds(&self, rows: usize, k: usize) -> bool {
        let (lines, width) = if self.transposed { (k, rows) } else { (rows, k) };
        lines == 0 || width == 0 || (lines - 1) * self.stride + width <= self.values.len()
    }
}

impl Left {
    /// Packs `rows` x `k` in single precision, on the caller's thread or on all.
    pub(crate) fn pack(
        set: InstructionSet,
        source: LeftSource<'_>,
        rows: usize,
        k: usize,
        threads: super::Threads,
    ) -> Self {
        Self::pack_at(Precision::Single, set, source, rows, k, threads)
    }

    /// As [`Self::pack`], for products of no more than this precision: what they don't read is not written.
    pub(crate) fn pack_at(
        precision: Precision,
        set: InstructionSet,
        source: LeftSource<'_>,
        rows: usize,
        k: usize,
        threads: super::Threads,
    ) -> Self {
        assert!(source.holds(rows, k), "the left side of a product lies within its values");
        let tiles = Tiles::new(rows, set);
        #[cfg(target_arch = "x86_64")]
        if set == InstructionSet::Amx {
            let mut packed = Scratch::new(planes::left_size(precision, rows, k));
            let into = Shared(packed.as_mut_ptr());
            threads.each(tiles.count, 2 * rows * k, |index| {
                let (row, height) = tiles.place(index);
                let place = planes::left_place(precision, index, height, k, 0);
                // SAFETY: the source was checked to hold all rows; each tile writes its own part of the scratch.
                unsafe { planes::pack_left(precision, source, row, height, k, into.get().cast::<u16>().add(place)) };
            });
            return Self { packed, k, tiles, set, precision };
        }
        let mut packed = Scratch::new(rows * k);
        let into = Shared(packed.as_mut_ptr());
        threads.each(tiles.count, rows * k, |index| {
            let (row, height) = tiles.place(index);
            // SAFETY: the source was checked to hold all rows; each tile writes its own part of the scratch.
            unsafe {
                let into = into.get().add(row * k);
                if source.transposed {
                    for line in 0..k {
                        let from = source.values.as_ptr().add(line * source.stride + row);
                        std::ptr::copy_nonoverlapping(from, into.add(line * height), height);
                    }
                } else {
                    let values = Values::F32(source.values);
                    transpose(set, values, row * source.stride, source.stride, height, k, into, height);
                }
            }
        });
        Self { packed, k, tiles, set, precision }
    }

    /// The planes of tile `index` from `k` on, a multiple of [`planes::DEPTH`].
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn planes(&self, index: usize, k: usize) -> *const u16 {
        let (_, height) = self.tiles.place(index);
        // Within the scratch: as it was packed.
        self.packed.as_ptr().cast::<u16>().wrapping_add(planes::left_place(self.precision, index, height, self.k, k))
    }

    /// The packed values of the tile that begins at `row`, [k, height].
    pub(crate) fn values(&self, row: usize) -> *const f32 {
        // Within the scratch: the tiles before hold `row` rows.
        self.packed.as_ptr().wrapping_add(row * self.k)
    }
}

/// Columns that a tile takes at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel {
    pub(crate) start: usize,
    pub(crate) count: usize,
    /// Registers: 2, or 1 for a narrow rest.
    pub(crate) vectors: usize,
}

impl Panel {
    /// All columns, the last panel narrower.
    pub(crate) fn cut(n: usize, lanes: usize) -> impl Iterator<Item = Self> {
        (0..n).step_by(2 * lanes).map(move |start| {
            let count = (n - start).min(2 * lanes);
            Self { start, count, vectors: if count > lanes { 2 } else { 1 } }
        })
    }
}

/// The transpose of a row-major matrix.
pub(crate) fn transposed(set: InstructionSet, values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns, "a whole matrix");
    // SAFETY: the transpose writes every value, and both hold the matrix.
    unsafe {
        let mut into = fresh(values.len());
        transpose(set, Values::F32(values), 0, columns, rows, columns, into.as_mut_ptr(), rows);
        into
    }
}

/// Values of a row that are widened ahead of a transpose: with all rows of a panel they stay in the first-level cache.
const STRIP: usize = 128;

/// `into[j * width + i] = values[first + i * stride + j]` for `i < rows` and `j < k`; for `rows <= i < width` zero.
///
/// # Safety
/// Source and target reach that far; `rows <= width`.
#[expect(clippy::too_many_arguments, reason = "two strided matrices")]
pub(super) unsafe fn transpose(
    set: InstructionSet,
    values: Values<'_>,
    first: usize,
    stride: usize,
    rows: usize,
    k: usize,
    into: *mut f32,
    width: usize,
) {
    if let Values::Quantised { .. } = values {
        // A strip at a time in f32, which then goes the way of any other.
        let mut strip = Scratch::new(rows * STRIP);
        for column in (0..k).step_by(STRIP) {
            let length = STRIP.min(k - column);
            // SAFETY: within the strip, which is written before it is read; the target as the caller says.
            unsafe {
                let strip = std::slice::from_raw_parts_mut(strip.as_mut_ptr(), rows * length);
                for (row, line) in strip.chunks_exact_mut(length).enumerate() {
                    widen(set, values, first + row * stride + column, line);
                }
                transpose(set, Values::F32(strip), 0, length, rows, length, into.add(column * width), width);
            }
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if set >= InstructionSet::Avx512 {
        // SAFETY: the set is available, the rest as the caller says.
        unsafe {
            match values {
                Values::F32(values) => {
                    avx512::transpose::<f32>(values.as_ptr().add(first), stride, rows, k, into, width);
                }
                Values::Bf16(values) => {
                    avx512::transpose::<bf16>(values.as_ptr().add(first), stride, rows, k, into, width);
                }
                Values::F16(values) => {
                    avx512::transpose::<f16>(values.as_ptr().add(first), stride, rows, k, into, width);
                }
                Values::Quantised { .. } => unreachable!("returned above"),
            }
        }
        return;
    }
    const SIDE: usize = 16;
    let mut block = [[0.0_f32; SIDE]; SIDE];
    for start in (0..width).step_by(SIDE) {
        let height = rows.saturating_sub(start).min(SIDE);
        let lanes = SIDE.min(width - start);
        for from in (0..k).step_by(SIDE) {
            let length = SIDE.min(k - from);
            for (row, line) in block.iter_mut().enumerate() {
                if row < height {
                    widen(set, values, first + (start + row) * stride + from, &mut line[..length]);
                } else {
                    line.fill(0.0);
                }
            }
            for j in 0..length {
                // SAFETY: within the target, as the caller says.
                let line = unsafe { into.add((from + j) * width + start) };
                for (i, row) in block.iter().enumerate().take(lanes) {
                    // SAFETY: as above.
                    unsafe { *line.add(i) = row[j] };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    /// What a register's worth of each row becomes once it is transposed.
    pub(super) trait Widen: Copy {
        /// Values of one row in a register: 16, or 32 halves.
        const WIDE: usize;

        /// The first `count <= WIDE` values, the rest zero.
        unsafe fn load(from: *const Self, count: usize) -> __m512;

        /// Writes the lines of the transpose that came of register `j` of 16, in f32, `line` values apart: those below
        /// `count` of [`Self::WIDE`].
        unsafe fn store(flipped: __m512, j: usize, count: usize, into: *mut f32, line: usize, lanes: u16);
    }

    impl Widen for f32 {
        const WIDE: usize = 16;

        #[inline(always)]
        unsafe fn load(from: *const f32, count: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
        }

        #[inline(always)]
        unsafe fn store(flipped: __m512, j: usize, count: usize, into: *mut f32, line: usize, lanes: u16) {
            if j < count {
                unsafe { _mm512_mask_storeu_ps(into.wrapping_add(j * line), lanes, flipped) }
            }
        }
    }

    // Halves are transposed in pairs, and a pair parts into two lines: half the shuffles, and a whole cache line of
    // each row at once.
    impl Widen for bf16 {
        const WIDE: usize = 32;

        #[inline(always)]
        unsafe fn load(from: *const bf16, count: usize) -> __m512 {
            unsafe { load_halves(from.cast(), count) }
        }

        #[inline(always)]
        unsafe fn store(flipped: __m512, j: usize, count: usize, into: *mut f32, line: usize, lanes: u16) {
            unsafe {
                let pair = _mm512_castps_si512(flipped);
                let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
                let high = _mm512_and_si512(pair, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
                store_pair(low, _mm512_castsi512_ps(high), 2 * j, count, into, line, lanes);
            }
        }
    }

    impl Widen for f16 {
        const WIDE: usize = 32;

        #[inline(always)]
        unsafe fn load(from: *const f16, count: usize) -> __m512 {
            unsafe { load_halves(from.cast(), count) }
        }

        #[inline(always)]
        unsafe fn store(flipped: __m512, j: usize, count: usize, into: *mut f32, line: usize, lanes: u16) {
            unsafe {
                let pair = _mm512_castps_si512(flipped);
                let low = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pair));
                let high = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pair)));
                store_pair(low, high, 2 * j, count, into, line, lanes);
            }
        }
    }

    /// Lines `place` and `place + 1`, those below `count`.
    #[inline(always)]
    unsafe fn store_pair(
        low: __m512,
        high: __m512,
        place: usize,
        count: usize,
        into: *mut f32,
        line: usize,
        lanes: u16,
    ) {
        unsafe {
            let into = into.wrapping_add(place * line);
            if place < count {
                _mm512_mask_storeu_ps(into, lanes, low);
            }
            if place + 1 < count {
                _mm512_mask_storeu_ps(into.wrapping_add(line), lanes, high);
            }
        }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const i16, count: usize) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(((1_u64 << count) - 1) as u32, from)) }
    }

    /// The first `count` of 16 lanes.
    #[inline(always)]
    fn mask(count: usize) -> u16 {
        ((1_u32 << count) - 1) as u16
    }

    /// As [`super::transpose`], 16 rows at a time in registers.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn transpose<T: Widen>(
        from: *const T,
        stride: usize,
        rows: usize,
        k: usize,
        into: *mut f32,
        width: usize,
    ) {
        for start in (0..width).step_by(16) {
            let height = rows.saturating_sub(start).min(16);
            let lanes = mask(16.min(width - start));
            for column in (0..k).step_by(T::WIDE) {
                let length = T::WIDE.min(k - column);
                // SAFETY: rows and columns within the source, lines within the target, as the caller says; nothing is
                // read of a row that is not there.
                unsafe {
                    let row = |row: usize| {
                        let from = from.wrapping_add((start + row) * stride + column);
                        // The same place 16 rows on: more rows than the hardware follows. A hint may point anywhere.
                        _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(16 * stride).cast());
                        T::load(from, if row < height { length } else { 0 })
                    };
                    // Written out, so that no line passes through memory.
                    let lines = flip([
                        row(0),
                        row(1),
                        row(2),
                        row(3),
                        row(4),
                        row(5),
                        row(6),
                        row(7),
                        row(8),
                        row(9),
                        row(10),
                        row(11),
                        row(12),
                        row(13),
                        row(14),
                        row(15),
                    ]);
                    let into = into.wrapping_add(column * width + start);
                    super::super::tile::sixteen!(J, { T::store(lines[J], J, length, into, width, lanes) });
                }
            }
        }
    }

    /// The transpose of 16 x 16 values.
    #[inline(always)]
    pub(crate) unsafe fn flip(r: [__m512; 16]) -> [__m512; 16] {
        unsafe {
            let mut pairs = r;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut fours = pairs;
            for i in 0..4 {
                let p = |j: usize| _mm512_castps_pd(pairs[4 * i + j]);
                fours[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p(0), p(2)));
                fours[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p(0), p(2)));
                fours[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(p(1), p(3)));
                fours[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(p(1), p(3)));
            }
            let mut out = fours;
            for i in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(fours[i], fours[4 + i]);
                let high = _mm512_shuffle_f32x4::<0xdd>(fours[i], fours[4 + i]);
                let low_2 = _mm512_shuffle_f32x4::<0x88>(fours[8 + i], fours[12 + i]);
                let high_2 = _mm512_shuffle_f32x4::<0xdd>(fours[8 + i], fours[12 + i]);
                out[i] = _mm512_shuffle_f32x4::<0x88>(low, low_2);
                out[8 + i] = _mm512_shuffle_f32x4::<0xdd>(low, low_2);
                out[4 + i] = _mm512_shuffle_f32x4::<0x88>(high, high_2);
                out[12 + i] = _mm512_shuffle_f32x4::<0xdd>(high, high_2);
            }
            out
        }
    }
}
