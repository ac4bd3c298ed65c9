//! f32 to blocks of quantised values, to the bit as `gguf.quants.quantize` of llama.cpp's Python package does it, which
//! is what `quantize_row_*_ref` in `ggml-quants.c` computes.

use half::f16;
use rayon::prelude::*;

use super::ggml_type::GgmlType;
use crate::weights::encode;

/// The largest magnitude that each format's scale, a half, leaves room for.
fn largest(kind: GgmlType) -> Option<f32> {
    let half = f32::from(f16::MAX);
    match kind {
        GgmlType::Q8_0 => Some(half * 127.0),
        GgmlType::Q4_0 => Some(half * 8.0),
        _ => None,
    }
}

/// Packs whole rows. A value that the format cannot hold is given back with its place.
///
/// # Panics
/// Where `values` are not whole blocks, or for a format that is only read (every one but F32, F16, BF16, Q8_0, Q4_0).
pub fn quantize(kind: GgmlType, values: &[f32]) -> Result<Vec<u8>, usize> {
    if let Some(largest) = largest(kind)
        && let Some(at) = values.iter().position(|value| value.is_nan() || value.abs() > largest)
    {
        return Err(at);
    }
    assert!(values.len().is_multiple_of(kind.block_values()), "{} values in blocks of {kind}", values.len());
    Ok(match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => encode(kind.float(), values),
        GgmlType::Q8_0 => each(values, q8_0),
        GgmlType::Q4_0 => each(values, q4_0),
        other => unreachable!("{other} is read and not written"),
    })
}

fn each<const BYTES: usize>(values: &[f32], block: fn(&[f32; 32], &mut [u8; BYTES])) -> Vec<u8> {
    let (values, _) = values.as_chunks::<32>();
    let mut bytes = vec![0; values.len() * BYTES];
    let (blocks, _) = bytes.as_chunks_mut::<BYTES>();
    // Many small blocks for one thread at a time.
    blocks.par_iter_mut().with_min_len(512).zip(values).for_each(|(bytes, values)| block(values, bytes));
    bytes
}

fn q8_0(values: &[f32; 32], block: &mut [u8; 34]) {
    let d = values.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
    let inverse = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        // To nearest, halves away from zero.
        *byte = (value * inverse).round() as i8 as u8;
    }
}

fn q4_0(values: &[f32; 32], block: &mut [u8; 18]) {
    // The value that is farthest from zero, the first of equals, becomes -8.
    let farthest = values.iter().copied().reduce(|best, value| if value.abs() > best.abs() { value } else { best });
    let d = farthest.unwrap_or(0.0) / -8.0;
    let inverse = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let nibble = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = nibble(values[i]) | nibble(values[i + 16]) << 4;
    }
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests {
    use super::super::dequantize::dequantize;
    use super::*;

    #[test]
    fn what_was_quantised_is_at_most_half_a_step_off() {
        let values: Vec<f32> = (0..640).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        for (kind, step) in [(GgmlType::Q8_0, 1.0 / 127.0), (GgmlType::Q4_0, 1.0 / 8.0)] {
            let bytes = quantize(kind, &values).unwrap();
            assert_eq!(bytes.len(), 640 / kind.block_values() * kind.block_bytes());
            let mut back = vec![f32::NAN; values.len()];
            dequantize(kind, &bytes, &mut back);
            let apart = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Q4_0 has no +8: the farthest value of the other sign may be a whole step off.
            let most = if kind == GgmlType::Q4_0 { step * 1.001 } else { step * 0.51 };
            assert!(apart > 0.0 && apart <= most, "{kind}: {apart}");
        }
    }

    #[test]
    fn zeros_stay_and_what_has_no_room_is_told() {
        for kind in [GgmlType::Q8_0, GgmlType::Q4_0] {
            let mut back = vec![f32::NAN; 32];
            dequantize(kind, &quantize(kind, &[0.0; 32]).unwrap(), &mut back);
            assert_eq!(back, [0.0; 32]);
            let mut values = [0.0; 64];
            values[40] = 1e9;
            assert_eq!(quantize(kind, &values), Err(40));
            values[40] = f32::NAN;
            assert_eq!(quantize(kind, &values), Err(40));
        }
    }
}
