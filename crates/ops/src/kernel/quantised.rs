//! Weights in 4 or 8 bits, and their values again.
//!
//! NF4 is bitsandbytes' (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>; `functional.py: quantize_4bit` with
//! `compress_statistics`): the matrix row after row in blocks of 64, each value the nearest of 16 levels times its
//! block's largest magnitude; the magnitudes less their mean in 8 bits, 256 to a second scale. Two values a byte, the
//! first in the upper half.

use super::math::largest_magnitude;
use std::sync::LazyLock;

use super::{InstructionSet, Threads};

/// How a frozen weight is held in fewer bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantFormat {
    /// 16 levels at the quantiles of a normal distribution, blocks of 64, scales in 8 bits: 4.13 bits a weight.
    Nf4,
    /// `round(127 w / m)` with the largest magnitude `m` of each row: 8 bits a weight and 32 a row.
    Int8,
    /// `round(7 w / m)` with the largest magnitude `m` of each block of 64: 4.5 bits a weight.
    Int4,
}

/// A frozen weight [out, in] of which only the packed values are held.
#[derive(Clone, PartialEq)]
pub struct QuantWeight {
    format: QuantFormat,
    shape: [usize; 2],
    codes: Vec<u8>,
    scales: Scales,
}

/// What the codes of a block are multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scales {
    /// One for each block.
    Plain(Vec<f32>),
    /// `DYNAMIC_MAP[code] * outer + offset`.
    Nested { codes: Vec<u8>, outer: Vec<f32>, offset: f32 },
}

/// Values that share a scale.
const BLOCK: usize = 64;

/// Bytes that one task makes.
const BYTES: usize = 1 << 14;

/// Scales that share a second one.
const OUTER_BLOCK: usize = 256;

/// NF4's levels (`bitsandbytes/functional.py: get_4bit_type`).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The values of codes `q + 8`.
const INT4: [f32; 16] = [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

impl QuantFormat {
    /// As recipes, cards and the metadata of adapters write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Of a code.
    pub(crate) fn bits(self) -> usize {
        8 / self.in_a_byte()
    }

    /// Values in a byte.
    fn in_a_byte(self) -> usize {
        match self {
            Self::Nf4 | Self::Int4 => 2,
            Self::Int8 => 1,
        }
    }

    /// Memory that a weight [out, in] takes, values and scales.
    pub fn bytes(self, [out, input]: [usize; 2]) -> usize {
        let count = out * input;
        let blocks = count.div_ceil(self.block(input));
        let scales = match self {
            // One byte each, and a second scale and the mean in f32.
            Self::Nf4 => blocks + 4 * (blocks.div_ceil(OUTER_BLOCK) + 1),
            Self::Int4 | Self::Int8 => 4 * blocks,
        };
        count.div_ceil(self.in_a_byte()) + scales
    }

    /// Values that share a scale, in rows of `input`.
    fn block(self, input: usize) -> usize {
        match self {
            Self::Nf4 | Self::Int4 => BLOCK,
            Self::Int8 => input.max(1),
        }
    }
}

impl QuantWeight {
    /// Rounds `values` [out, in], row-major.
    ///
    /// # Panics
    /// If there are not `out * in` values.
    pub fn quantise(format: QuantFormat, values: &[f32], shape: [usize; 2]) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "a whole matrix");
        let set = InstructionSet::current();
        let block = format.block(shape[1]);
        let mut magnitudes = vec![0.0; values.len().div_ceil(block)];
        Threads::All.chunks(&mut magnitudes, 1024, values.len(), |chunk, into| {
            for (magnitude, block) in into.iter_mut().zip(values.chunks(block).skip(chunk * 1024)) {
                *magnitude = largest_magnitude(set, block);
            }
        });
        let bounds = midpoints(&NF4);
        let code = |value: f32, magnitude: f32| match format {
            QuantFormat::Nf4 => nearest(&bounds, scaled(value, magnitude)),
            QuantFormat::Int8 => symmetric(value, magnitude, 127.0).cast_unsigned(),
            QuantFormat::Int4 => (symmetric(value, magnitude, 7.0) + 8).cast_unsigned(),
        };
        let at = |index: usize| match values.get(index) {
            Some(value) => code(*value, magnitudes[index / block]),
            // As bitsandbytes pads an odd count.
            None => code(0.0, 1.0),
        };
        let each = format.in_a_byte();
        let mut codes = vec![0; values.len().div_ceil(each)];
        Threads::All.chunks(&mut codes, BYTES, 16 * values.len(), |chunk, into| {
            for (byte, into) in into.iter_mut().enumerate() {
                let first = each * (chunk * BYTES + byte);
                *into = if each == 1 { at(first) } else { at(first) << 4 | at(first + 1) };
            }
        });
        let scales = match format {
            QuantFormat::Nf4 => Scales::nested(&magnitudes, mean(&magnitudes)),
            QuantFormat::Int8 => Scales::Plain(magnitudes.iter().map(|magnitude| magnitude / 127.0).collect()),
            QuantFormat::Int4 => Scales::Plain(magnitudes.iter().map(|magnitude| magnitude / 7.0).collect()),
        };
        Self { format, shape, codes, scales }
    }

    /// How it is held.
    pub fn format(&self) -> QuantFormat {
        self.format
    }

    /// [out, in].
    pub fn dims(&self) -> [usize; 2] {
        self.shape
    }

    /// Memory that its values and scales take.
    pub fn bytes(&self) -> usize {
        self.format.bytes(self.shape)
    }

    /// The codes, two a byte with the first in the upper half, or one a byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// NF4's nested scales: a code for each block, the largest magnitude of 256 of them, and their mean.
    pub fn nested_scales(&self) -> Option<(&[u8], &[f32], f32)> {
        match &self.scales {
            Scales::Plain(_) => None,
            Scales::Nested { codes, outer, offset } => Some((codes, outer, *offset)),
        }
    }

    /// Its values again, [out, in] row-major in f32.
    pub fn dequantise(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape[0] * self.shape[1]];
        self.widen(InstructionSet::current(), 0, &mut values);
        values
    }

    /// The values `range` (counted row by row) again, in f32.
    ///
    /// # Panics
    /// Where the range does not lie in the weight or `into` is not as long as it.
    pub fn read_into(&self, range: std::ops::Range<usize>, into: &mut [f32]) {
        assert!(range.end <= self.len() && range.len() == into.len(), "a range of the weight");
        self.widen(InstructionSet::current(), range.start, into);
    }

    /// Values that share a scale.
    pub(crate) fn block(&self) -> usize {
        self.format.block(self.shape[1])
    }

    /// The scale of each block, nested ones worked out.
    pub(crate) fn block_scales(&self) -> Vec<f32> {
        (0..self.len().div_ceil(self.block())).map(|block| self.scales.of(block)).collect()
    }

    /// What each code stands for, before it is scaled.
    pub(crate) fn levels(&self) -> Vec<f32> {
        match self.format {
            QuantFormat::Nf4 => NF4.to_vec(),
            QuantFormat::Int4 => INT4.to_vec(),
            QuantFormat::Int8 => (0..=u8::MAX).map(|code| f32::from(code.cast_signed())).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// `into` from value `start` on.
    pub(super) fn widen(&self, set: InstructionSet, start: usize, into: &mut [f32]) {
        let block = self.format.block(self.shape[1]);
        let mut at = start;
        let mut rest = into;
        while !rest.is_empty() {
            let count = (block - at % block).min(rest.len());
            let (own, after) = std::mem::take(&mut rest).split_at_mut(count);
            let scale = self.scales.of(at / block);
            match self.format {
                QuantFormat::Nf4 => widen_pairs(set, &NF4, &self.codes, at, scale, own),
                QuantFormat::Int4 => widen_pairs(set, &INT4, &self.codes, at, scale, own),
                QuantFormat::Int8 => {
                    let codes = &self.codes[at..at + count];
                    own.iter_mut().zip(codes).for_each(|(value, code)| *value = f32::from(code.cast_signed()) * scale);
                }
            }
            rest = after;
            at += count;
        }
    }
}

impl Scales {
    /// In 8 bits, less `offset` (`functional.py: quantize_blockwise` with the dynamic map).
    pub(crate) fn nested(scales: &[f32], offset: f32) -> Self {
        let bounds = midpoints(&DYNAMIC_MAP[..]);
        let set = InstructionSet::current();
        let (mut codes, mut outer) = (Vec::with_capacity(scales.len()), Vec::new());
        for block in scales.chunks(OUTER_BLOCK) {
            let block: Vec<f32> = block.iter().map(|scale| scale - offset).collect();
            let magnitude = largest_magnitude(set, &block);
            codes.extend(block.iter().map(|value| nearest(&bounds, scaled(*value, magnitude))));
            outer.push(magnitude);
        }
        Self::Nested { codes, outer, offset }
    }

    fn of(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested { codes, outer, offset } => {
                DYNAMIC_MAP[usize::from(codes[block])] * outer[block / OUTER_BLOCK] + offset
            }
        }
    }
}

/// Within -1 to 1.
fn scaled(value: f32, magnitude: f32) -> f32 {
    (value * (1.0 / magnitude.max(1e-38))).clamp(-1.0, 1.0)
}

/// Half to even, as torch rounds.
fn symmetric(value: f32, magnitude: f32, most: f32) -> i8 {
    if magnitude == 0.0 { 0 } else { (value * (most / magnitude)).round_ties_even() as i8 }
}

/// Between each level and the next.
fn midpoints(levels: &[f32]) -> Vec<f32> {
    levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// The level whose stretch `value` lies in; on a bound, the lower.
fn nearest(bounds: &[f32], value: f32) -> u8 {
    bounds.partition_point(|bound| *bound < value) as u8
}

/// In f64, so that no order of summation shows.
fn mean(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    (sum / values.len().max(1) as f64) as f32
}

/// [`dynamic_map`], made once.
static DYNAMIC_MAP: LazyLock<[f32; 256]> = LazyLock::new(dynamic_map);

/// bitsandbytes' signed map of 8 bits with a dynamic exponent, ascending (`functional.py: create_dynamic_map`;
/// <https://arxiv.org/abs/1511.04561>).
fn dynamic_map() -> [f32; 256] {
    let mut levels = Vec::with_capacity(256);
    for exponent in 0..7_i32 {
        let count = (1_usize << exponent) + 1;
        let factor = 10_f64.powi(exponent - 6) as f32;
        // torch.linspace, which goes up from the start and down from the end.
        let step = (1.0_f32 - 0.1) / (count - 1) as f32;
        let boundary = |index: usize| {
            // One rounding, as torch's vector code has it.
            let from_end = (count - 1 - index) as f32;
            if index < count / 2 { step.mul_add(index as f32, 0.1) } else { (-step).mul_add(from_end, 1.0) }
        };
        for index in 0..count - 1 {
            let mean = (boundary(index) + boundary(index + 1)) / 2.0;
            levels.extend([factor * mean, -(factor * mean)]);
        }
    }
    levels.extend([0.0, 1.0]);
    levels.sort_by(f32::total_cmp);
    let mut map = [0.0; 256];
    map.copy_from_slice(&levels);
    map
}

/// Values from value `start` on, two codes a byte, the first in the upper half.
fn widen_pairs(set: InstructionSet, levels: &[f32; 16], codes: &[u8], start: usize, scale: f32, into: &mut [f32]) {
    let level = |code: u8| levels[usize::from(code)] * scale;
    let (odd, into) = into.split_at_mut((start % 2).min(into.len()));
    for value in odd {
        *value = level(codes[start / 2] & 15);
    }
    let codes = &codes[start.div_ceil(2)..];
    #[cfg(target_arch = "x86_64")]
    let (codes, into) = if set >= InstructionSet::Avx512 {
        let whole = into.len() / 16;
        let (codes, after) = codes.split_at(8 * whole);
        let (into, rest) = into.split_at_mut(16 * whole);
        // SAFETY: the set is available.
        unsafe { avx512::widen_pairs(levels, codes, scale, into) };
        (after, rest)
    } else {
        (codes, into)
    };
    let _ = set;
    for (pair, code) in into.chunks_mut(2).zip(codes) {
        pair[0] = level(code >> 4);
        if let Some(second) = pair.get_mut(1) {
            *second = level(code & 15);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    /// 16 values of 8 bytes at a time.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn widen_pairs(levels: &[f32; 16], codes: &[u8], scale: f32, into: &mut [f32]) {
        // SAFETY: 16 levels.
        let levels = unsafe { _mm512_loadu_ps(levels.as_ptr()) };
        let (low_half, scale) = (_mm_set1_epi8(15), _mm512_set1_ps(scale));
        for (codes, into) in codes.as_chunks::<8>().0.iter().zip(into.as_chunks_mut::<16>().0) {
            let bytes = _mm_set_epi64x(0, i64::from_le_bytes(*codes));
            let first = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low_half);
            let codes = _mm_unpacklo_epi8(first, _mm_and_si128(bytes, low_half));
            let values = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), levels);
            // SAFETY: 16 values.
            unsafe { _mm512_storeu_ps(into.as_mut_ptr(), _mm512_mul_ps(values, scale)) };
        }
    }
}

/// Short: a module's display would print every value.
impl std::fmt::Debug for QuantWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantWeight({:?}, {:?})", self.format, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + 11) as f32 * 0.618).sin() * (1.0 + (i % 97) as f32 / 10.0)).collect()
    }

    const FORMATS: [QuantFormat; 3] = [QuantFormat::Nf4, QuantFormat::Int8, QuantFormat::Int4];

    #[test]
    fn any_stretch_has_the_same_values_on_every_instruction_set() {
        let (out, input) = (7, 83);
        for format in FORMATS {
            let weight = QuantWeight::quantise(format, &values(out * input), [out, input]);
            let mut whole = vec![0.0; out * input];
            weight.widen(InstructionSet::Portable, 0, &mut whole);
            for set in InstructionSet::available() {
                for (start, count) in [(0, out * input), (1, 5), (63, 2), (64, 64), (7, 200), (581, 0), (83, 83)] {
                    let mut part = vec![f32::NAN; count];
                    weight.widen(set, start, &mut part);
                    assert_eq!(part, whole[start..start + count], "{format:?} {set:?} {start} {count}");
                }
            }
        }
    }

    #[test]
    fn every_value_is_within_half_a_level() {
        let given = values(64 * 40);
        for (format, widest) in
            [(QuantFormat::Nf4, 0.304 / 2.0), (QuantFormat::Int8, 0.5 / 127.0), (QuantFormat::Int4, 0.5 / 7.0)]
        {
            let weight = QuantWeight::quantise(format, &given, [40, 64]);
            for (block, (given, found)) in given.chunks(64).zip(weight.dequantise().chunks(64)).enumerate() {
                let magnitude = given.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                for (given, found) in given.iter().zip(found) {
                    // The nested scales are themselves rounded.
                    let slack = if format == QuantFormat::Nf4 { 0.02 } else { 1e-6 };
                    assert!(
                        (given - found).abs() <= (widest + slack) * magnitude,
                        "{format:?}, block {block}: {given}, {found}"
                    );
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_odd_counts_are_padded() {
        for format in FORMATS {
            let weight = QuantWeight::quantise(format, &[0.0; 15], [3, 5]);
            assert_eq!(weight.dequantise(), [0.0; 15], "{format:?}");
        }
    }

    #[test]
    fn memory_is_what_was_promised() {
        let count = 1536 * 576;
        let given = values(count);
        for (format, most) in [(QuantFormat::Nf4, 0.52), (QuantFormat::Int8, 1.01), (QuantFormat::Int4, 0.563)] {
            let weight = QuantWeight::quantise(format, &given, [1536, 576]);
            let held = match &weight.scales {
                Scales::Plain(scales) => 4 * scales.len(),
                Scales::Nested { codes, outer, .. } => codes.len() + 4 * (outer.len() + 1),
            };
            assert_eq!(weight.bytes(), weight.codes.len() + held, "{format:?}");
            let each = weight.bytes() as f64 / count as f64;
            assert!(each <= most, "{format:?}: {each} bytes a weight");
        }
    }
}
