//! Blocks of quantised values to f32, to the bit as `gguf.quants.dequantize` of llama.cpp's Python package does it.
//!
//! Layouts: `ggml-common.h`; the order of operations: `gguf-py/gguf/quants.py`. Every product and sum is rounded on its
//! own, without fused multiply-add.

use half::f16;

use super::ggml_type::GgmlType;
use crate::weights::decode_chunk;

/// Decodes whole blocks.
///
/// # Panics
/// Where `bytes` does not hold `out.len()` values in whole blocks.
pub(crate) fn dequantize(kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    let blocks = out.len() / kind.block_values();
    let whole = out.len() == blocks * kind.block_values() && bytes.len() == blocks * kind.block_bytes();
    assert!(whole, "{} bytes for {} values of {kind}", bytes.len(), out.len());
    match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => decode_chunk(kind.float(), bytes, out),
        GgmlType::Q4_0 => each::<18, 32>(bytes, out, q4_0),
        GgmlType::Q4_1 => each::<20, 32>(bytes, out, q4_1),
        GgmlType::Q5_0 => each::<22, 32>(bytes, out, q5_0),
        GgmlType::Q5_1 => each::<24, 32>(bytes, out, q5_1),
        GgmlType::Q8_0 => each::<34, 32>(bytes, out, q8_0),
        GgmlType::Q4K => each::<144, 256>(bytes, out, q4_k),
        GgmlType::Q5K => each::<176, 256>(bytes, out, q5_k),
        GgmlType::Q6K => each::<210, 256>(bytes, out, q6_k),
    }
}

fn each<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let ((bytes, _), (out, _)) = (bytes.as_chunks::<BYTES>(), out.as_chunks_mut::<VALUES>());
    bytes.iter().zip(out).for_each(|(bytes, out)| block(bytes, out));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Value `i` of 32 four-bit ones: the low halves of 16 bytes, then the high ones.
fn nibble(quants: &[u8], i: usize) -> u8 {
    if i < 16 { quants[i] & 15 } else { quants[i - 16] >> 4 }
}

/// The fifth bit of value `i`, in its place.
fn fifth(high: u32, i: usize) -> u8 {
    ((high >> i & 1) << 4) as u8
}

fn high_bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(nibble(&block[2..], i)) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half_at(block, 0), high_bits(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(nibble(&block[6..], i) | fifth(high, i)) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, high) = (half_at(block, 0), half_at(block, 2), high_bits(block, 4));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[8..], i) | fifth(high, i)) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, quant) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*quant as i8) * d;
    }
}

/// Scale and minimum of each of the 8 groups of a block, six bits each:
/// ```text
/// 0..4   eeAAAAAA  (e: the upper two bits of the scale four groups on)
/// 4..8   ffBBBBBB  (the same of the minima)
/// 8..12  FFFFEEEE  (the lower four bits of minima and scales of groups 4 to 7)
/// ```
fn scales_and_minima(packed: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|group| match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let low = packed[group + 4];
            ((low & 15) | (packed[group - 4] >> 2 & 0x30), (low >> 4) | (packed[group] >> 2 & 0x30))
        }
    })
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let groups = scales_and_minima(&block[4..16]);
    let quants = &block[16..];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = groups[group];
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        let shift = 4 * (group % 2);
        for (out, quant) in out.iter_mut().zip(&quants[group / 2 * 32..]) {
            *out = scale * f32::from(quant >> shift & 15) - minimum;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let groups = scales_and_minima(&block[4..16]);
    let (high, quants) = (&block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = groups[group];
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        let shift = 4 * (group % 2);
        for ((out, quant), high) in out.iter_mut().zip(&quants[group / 2 * 32..]).zip(high) {
            *out = scale * f32::from((quant >> shift & 15) | (high >> group & 1) << 4) - minimum;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for (at, out) in out.chunks_exact_mut(32).enumerate() {
        // Each half of 128 values: 64 bytes of low bits, whose low halves come first, and 32 of high bits.
        let (half, part) = (at / 4, at % 4);
        let (low, low_shift) = (&low[64 * half + 32 * (part % 2)..], 4 * (part / 2));
        let (high, high_shift) = (&high[32 * half..], 2 * part);
        for (i, out) in out.iter_mut().enumerate() {
            let scale = d * f32::from(scales[2 * at + i / 16] as i8);
            let quant = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
            *out = scale * (f32::from(quant) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_whole_blocks_of_its_size() {
        for code in 0..64 {
            let Ok(kind) = GgmlType::from_code(code) else { continue };
            let bytes = vec![0x3c; 3 * kind.block_bytes()];
            let mut out = vec![f32::NAN; 3 * kind.block_values()];
            dequantize(kind, &bytes, &mut out);
            assert!(out.iter().all(|value| value.is_finite()), "{kind}: every value is written");
            assert!(GgmlType::NAMES.contains(&kind.name()));
            assert_eq!(kind.code(), code);
        }
    }

    #[test]
    fn a_block_of_q4_0_by_hand() {
        // Scale 0.5; the low halves are the first 16 values.
        let mut block = [0_u8; 18];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2] = 0xf1;
        let mut out = [0.0; 32];
        dequantize(GgmlType::Q4_0, &block, &mut out);
        assert_eq!((out[0], out[16], out[1]), (-3.5, 3.5, -4.0));
    }
}
