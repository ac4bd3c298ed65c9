//! Products in block fixed point against sums of integers.

use super::*;
use crate::kernel::{IntegerRight, IntegerTerm, Job, Write, products};

/// A block's sum is exact, so that every bit is known: what rounds is each side, and the total of the scaled sums.
#[test]
fn products_are_totals_of_scaled_sums_to_the_bit() {
    for set in InstructionSet::available() {
        for compute in [Compute::Int16, Compute::Int8] {
            let Some(format) = compute.format(set) else { continue };
            // Every height of a tile, one register and two, whole and in part; blocks and lanes in part.
            for m in 1..=15 {
                for n in [1, 4, 7, 8, 16, 31, 64] {
                    let (a, b) = (values(m * 261, 1), values(n * 261, 2));
                    check(&format!("{compute:?}, {set}"), set, format, &a, &b, [m, n, 261]);
                }
            }
            // The largest sum there is.
            let ones = [vec![1.0; 5 * 256], vec![-1.0; 9 * 256]];
            check(&format!("{compute:?}, {set}, ones"), set, format, &ones[0], &ones[1], [5, 9, 256]);
        }
    }
}

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101) as f32 * 0.618).sin() * (1.0 + (i % 97) as f32)).collect()
}

/// `a` [m, k] and `b` [n, k].
fn check(name: &str, set: InstructionSet, format: Format, a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) {
    let expected: Vec<u32> =
        a.chunks_exact(k).flat_map(|a| b.chunks_exact(k).map(move |b| expected(set, format, a, b).to_bits())).collect();
    let transposed: Vec<f32> = (0..k * n).map(|i| b[i % n * k + i / n]).collect();
    let left = IntegerLeft::pack(set, format, LeftSource::new(a, k), m, k, Threads::One);
    for (values, order, width) in [(b, Order::AlongK, k), (&transposed, Order::AcrossColumns, n)] {
        let right = Right::new(Values::F32(values), order, width);
        let panels = IntegerPanels::new(set, format, &right, k, n);
        for right in [IntegerRight::Values(right), IntegerRight::Panels { panels: &panels, k: 0, column: 0 }] {
            let integer = vec![IntegerTerm { left: &left, right }];
            let mut c = vec![f32::NAN; m * n];
            products(&mut c, n, &[Job { columns: 0..n, integer, terms: Vec::new(), write: Write::Set }], Threads::One);
            let found: Vec<u32> = c.iter().map(|value| value.to_bits()).collect();
            assert!(found == expected, "{name}, {order:?}, {m}x{n}x{k}");
        }
    }
}

/// One value of the product.
fn expected(set: InstructionSet, format: Format, a: &[f32], b: &[f32]) -> f32 {
    let mut total = None;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let ((scale_a, a), (scale_b, b)) = (rounded(a, format.left), rounded(b, format.right));
        let sum: i64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        let (sum, scale) = (i32::try_from(sum).unwrap() as f32, scale_a * scale_b);
        total = Some(match total {
            None => sum * scale,
            Some(total) if set == InstructionSet::Portable => total + sum * scale,
            Some(total) => sum.mul_add(scale, total),
        });
    }
    total.unwrap()
}

/// A block's scale and integers.
fn rounded(block: &[f32], most: f32) -> (f32, Vec<i64>) {
    let magnitude = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    (magnitude / most, block.iter().map(|value| (value * (most / magnitude)).round_ties_even() as i64).collect())
}
