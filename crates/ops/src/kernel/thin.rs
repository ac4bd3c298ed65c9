//! Products of a few rows: the right side is read once, as it is held, and nothing is packed.

use half::bf16;

use super::math::vectorised;
use super::{InstructionSet, Shared, Threads, Values, Write};

/// Rows of the right side that one task takes.
const ROWS: usize = 64;

/// `c[i, j] = [c +] a[i] . b[j]` for the rows of `a` [m, k] and `b` [n, k]; rows of `c` are `stride` apart.
#[expect(clippy::too_many_arguments, reason = "three matrices")]
pub(crate) fn thin(
    set: InstructionSet,
    a: &[f32],
    k: usize,
    b: Values<'_>,
    n: usize,
    c: &mut [f32],
    stride: usize,
    write: Write<'_>,
) {
    let m = a.len() / k;
    assert!(b.len() >= n * k && (m == 0 || (m - 1) * stride + n <= c.len()), "bounds of a thin product");
    let target = Shared(c.as_mut_ptr());
    Threads::All.each(n.div_ceil(ROWS), m * n * k / 4, |task| {
        let rows = task * ROWS..n.min((task + 1) * ROWS);
        let mut sums = [0.0_f32; ROWS];
        for (i, a) in a.chunks_exact(k).enumerate() {
            let sums = &mut sums[..rows.len()];
            match b {
                Values::F32(b) => dots_f32(set, a, &b[rows.start * k..rows.end * k], sums),
                Values::Bf16(b) => dots_bf16(set, a, &b[rows.start * k..rows.end * k], sums),
                Values::F16(_) | Values::Quantised { .. } => {
                    let mut line = vec![0.0; k];
                    for (row, sum) in rows.clone().zip(&mut *sums) {
                        b.from(row * k).widen(set, &mut line);
                        dots_f32(set, a, &line, std::slice::from_mut(sum));
                    }
                }
            }
            // SAFETY: within `c`, as was checked; each task has columns of its own.
            let line = unsafe { std::slice::from_raw_parts_mut(target.get().add(i * stride + rows.start), rows.len()) };
            match write {
                Write::Set => line.copy_from_slice(sums),
                Write::Add => line.iter_mut().zip(sums).for_each(|(c, sum)| *c += *sum),
                Write::Onto(base) => {
                    let base = &base[i * stride + rows.start..];
                    line.iter_mut().zip(base).zip(sums).for_each(|((c, base), sum)| *c = base + *sum);
                }
            }
        }
    });
}

/// Partial sums of a dot product: enough chains to hide the latency of an addition.
const LANES: usize = 64;

/// The dot product of two slices, the second widened by `$widen`.
macro_rules! dot {
    ($a:expr, $b:expr, $widen:expr) => {{
        let mut lanes = [0.0_f32; LANES];
        let (a_whole, a_rest) = $a.as_chunks::<LANES>();
        let (b_whole, b_rest) = $b.as_chunks::<LANES>();
        for (a, b) in a_whole.iter().zip(b_whole) {
            for lane in 0..LANES {
                lanes[lane] += a[lane] * $widen(b[lane]);
            }
        }
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[lane] += a * $widen(*b);
        }
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }};
}

vectorised! {
    fn dots_f32(a: &[f32], b: &[f32], sums: &mut [f32]) {
        for (b, sum) in b.chunks_exact(a.len()).zip(sums) {
            *sum = dot!(a, b, |value: f32| value);
        }
    }
}

vectorised! {
    fn dots_bf16(a: &[f32], b: &[bf16], sums: &mut [f32]) {
        for (b, sum) in b.chunks_exact(a.len()).zip(sums) {
            *sum = dot!(a, b, |value: bf16| f32::from_bits(u32::from(value.to_bits()) << 16));
        }
    }
}
