//! The float formats of checkpoints, and their conversion to and from f32.

use std::fmt;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    BF16,
}

impl StoredDtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name in a safetensors header: `F32`, `F16`, `BF16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The name in `config.json`: `float32`, `float16`, `bfloat16`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// The format of that name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16].into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Values converted in one go by one thread.
const CHUNK: usize = 1 << 14;

/// Little-endian bytes of `values`, rounded to nearest, ties to even. A value beyond f16's range becomes infinite.
pub fn encode(dtype: StoredDtype, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.bytes()];
    bytes
        .par_chunks_mut(CHUNK * dtype.bytes())
        .zip(values.par_chunks(CHUNK))
        .for_each(|(bytes, values)| encode_chunk(dtype, values, bytes));
    bytes
}

/// Converts the little-endian `bytes` to f32, exactly.
///
/// # Panics
/// Where `bytes` does not hold `out.len()` values.
pub fn decode_into(dtype: StoredDtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.bytes(), "bytes of {} {dtype} values", out.len());
    out.par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * dtype.bytes()))
        .for_each(|(out, bytes)| decode_chunk(dtype, bytes, out));
}

fn encode_chunk(dtype: StoredDtype, values: &[f32], bytes: &mut [u8]) {
    match dtype {
        StoredDtype::F32 => {
            let (bytes, _) = bytes.as_chunks_mut::<4>();
            bytes.iter_mut().zip(values).for_each(|(b, v)| *b = v.to_le_bytes());
        }
        StoredDtype::BF16 => {
            let (bytes, _) = bytes.as_chunks_mut::<2>();
            bytes.iter_mut().zip(values).for_each(|(b, v)| *b = bf16_bits(*v).to_le_bytes());
        }
        StoredDtype::F16 => {
            let (bytes, _) = bytes.as_chunks_mut::<2>();
            let mut halves = [f16::ZERO; 256];
            for (bytes, values) in bytes.chunks_mut(256).zip(values.chunks(256)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                bytes.iter_mut().zip(halves).for_each(|(b, h)| *b = h.to_le_bytes());
            }
        }
    }
}

/// As [`decode_into`], on this thread.
pub(crate) fn decode_chunk(dtype: StoredDtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        StoredDtype::F32 => {
            let (bytes, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(bytes).for_each(|(v, b)| *v = f32::from_le_bytes(*b));
        }
        StoredDtype::BF16 => {
            let (bytes, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(bytes).for_each(|(v, b)| *v = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
        }
        StoredDtype::F16 => {
            let (bytes, _) = bytes.as_chunks::<2>();
            let mut bits = [0_u16; 256];
            for (out, bytes) in out.chunks_mut(256).zip(bytes.chunks(256)) {
                let bits = &mut bits[..out.len()];
                bits.iter_mut().zip(bytes).for_each(|(h, b)| *h = u16::from_le_bytes(*b));
                bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
            }
        }
    }
}

/// `half::bf16::from_f32` without its branch, so that the loop above is vectorised.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let quiet_nan = (bits >> 16) as u16 | 0x40;
    if value.is_nan() { quiet_nan } else { rounded }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn decode(dtype: StoredDtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / dtype.bytes()];
        decode_into(dtype, bytes, &mut out);
        out
    }

    /// Enough values to cross every chunk, with every kind of float among them.
    fn samples() -> Vec<f32> {
        let odd =
            [0.0, -0.0, 1.0, f32::MIN_POSITIVE, 1e-42, 65504.0, 65520.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY];
        let spread = (0..40_000_u32).map(|i| f32::from_bits(i.wrapping_mul(107_374_183))).filter(|v| !v.is_nan());
        odd.into_iter().chain(spread).collect()
    }

    #[test]
    fn ties_round_to_even() {
        // bf16 has 7 fraction bits: 1 + 2^-8 is half-way between 1 and 1 + 2^-7.
        let one = 1.0_f32;
        let cases = [(one + 2_f32.powi(-8), 1.0), (one + 3.0 * 2_f32.powi(-8), one + 2_f32.powi(-6))];
        for (value, expected) in cases {
            assert_eq!(decode(StoredDtype::BF16, &encode(StoredDtype::BF16, &[value])), [expected]);
        }
        // f16 has 10.
        let cases = [(one + 2_f32.powi(-11), 1.0), (one + 3.0 * 2_f32.powi(-11), one + 2_f32.powi(-9))];
        for (value, expected) in cases {
            assert_eq!(decode(StoredDtype::F16, &encode(StoredDtype::F16, &[value])), [expected]);
        }
    }

    #[test]
    fn conversions_equal_those_of_half() {
        let values = samples();
        let bytes = encode(StoredDtype::BF16, &values);
        let expected: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        assert!(bytes == expected);
        let bytes = encode(StoredDtype::F16, &values);
        let expected: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        assert!(bytes == expected);
        let bits: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        for (i, value) in decode(StoredDtype::F16, &bits).into_iter().enumerate() {
            assert!(same(value, f16::from_bits(i as u16).to_f32()), "f16 {i:#x}");
        }
        for (i, value) in decode(StoredDtype::BF16, &bits).into_iter().enumerate() {
            assert!(same(value, bf16::from_bits(i as u16).to_f32()), "bf16 {i:#x}");
        }
    }

    #[test]
    fn f32_is_kept_to_the_bit_and_nan_stays_nan() {
        let values = samples();
        assert!(decode(StoredDtype::F32, &encode(StoredDtype::F32, &values)) == values);
        for dtype in [StoredDtype::F16, StoredDtype::BF16] {
            assert!(decode(dtype, &encode(dtype, &[f32::NAN]))[0].is_nan());
            assert!(decode(dtype, &encode(dtype, &[f32::from_bits(0x7f80_0001)]))[0].is_nan());
        }
    }

    #[test]
    fn names_are_those_of_the_formats() {
        assert_eq!(StoredDtype::from_name("BF16"), Some(StoredDtype::BF16));
        assert_eq!(StoredDtype::from_name("I8"), None);
        assert_eq!(StoredDtype::F16.torch_name(), "float16");
    }
}
