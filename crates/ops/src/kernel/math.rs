//! Loops compiled for the instruction sets at hand, and a vectorisable exponential.

/// Defines a function whose body is compiled for AVX-512, AVX2 and the portable baseline; its first argument says
/// which one runs.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "slices that go side by side")]
        $vis fn $name(set: $crate::kernel::InstructionSet, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::kernel::InstructionSet::{Amx, Avx2, Avx512, Avx512Vnni};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                match set {
                    // SAFETY: a set is only current where the machine has it.
                    Avx512 | Avx512Vnni | Amx => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            let _ = set;
            portable($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// `exp(x)` within 2 units in the last place, without a branch or a call. Below -87 it is 0, above 88 it stays.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts so that r is exact (Cephes, expf.c).
    let clamped = if x < 88.3 { x } else { 88.3 };
    let clamped = if x.is_nan() { x } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let square = r * r;
    // Two halves of the polynomial side by side: half the chain of one after the other.
    let low = (0.5 + r * 1.666_666_5e-1) + square * (4.166_579_6e-2 + r * 8.333_452e-3);
    let p = low + square * square * (1.398_199_9e-3 + r * 1.987_569_1e-4);
    let y = p * square + r + 1.0;
    // The integer stands in the low bits of the shifted value.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y * scale }
}

/// Partial sums that the compiler may keep in one vector register.
const LANES: usize = 16;

/// `sum(a * b)`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The largest value.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, value| if *value > max { *value } else { max })
}

vectorised! {
    /// Replaces each value by `exp(value * scale - shift)` and returns their sum.
    pub(crate) fn exp_and_sum(values: &mut [f32], scale: f32, shift: f32) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let (whole, rest) = values.as_chunks_mut::<LANES>();
        for chunk in whole {
            for lane in 0..LANES {
                chunk[lane] = exp(chunk[lane] * scale - shift);
                lanes[lane] += chunk[lane];
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for value in rest {
            *value = exp(*value * scale - shift);
            sum += *value;
        }
        sum
    }
}

vectorised! {
    /// The largest value.
    pub(crate) fn maximum(values: &[f32]) -> f32 {
        max(values)
    }
}

vectorised! {
    /// The largest magnitude; infinite or NaN where a value is.
    pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
        // Magnitudes compare as their bits, and NaN is above infinity.
        let mut lanes = [0_u32; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for chunk in whole {
            for lane in 0..LANES {
                lanes[lane] = lanes[lane].max(chunk[lane].to_bits() & 0x7fff_ffff);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane = (*lane).max(value.to_bits() & 0x7fff_ffff);
        }
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] = lanes[lane].max(lanes[lane + half]);
            }
            half /= 2;
        }
        f32::from_bits(lanes[0])
    }
}

vectorised! {
    /// Multiplies every value.
    pub(crate) fn scale(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

vectorised! {
    /// `into += from`.
    pub(crate) fn add(into: &mut [f32], from: &[f32]) {
        for (into, from) in into.iter_mut().zip(from) {
            *into += from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::InstructionSet;

    #[test]
    fn exp_is_close_to_the_libraries() {
        for step in -8730..8830 {
            let x = step as f32 / 100.0;
            let (found, expected) = (exp(x), x.exp());
            assert!((found - expected).abs() <= 3e-7 * expected, "exp({x}) = {found}, {expected} expected");
        }
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_take_the_rest_too() {
        let values: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let expected: f32 = values.iter().map(|v| v * v).sum();
        assert!((dot(&values, &values) - expected).abs() < 1e-5);
        assert_eq!(
            maximum(InstructionSet::current(), &values),
            values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        );
        let mut powers = values.clone();
        let sum = exp_and_sum(InstructionSet::current(), &mut powers, 2.0, 0.5);
        let expected: f32 = values.iter().map(|v| (v * 2.0 - 0.5).exp()).sum();
        assert!((sum - expected).abs() < 1e-4);
    }
}
