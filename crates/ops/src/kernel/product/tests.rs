//! Products of every set against sums in f64.

use half::{bf16, f16};

use super::*;
use crate::kernel::pack::LeftSource;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| bf16::from_f32(((i * 37 + seed * 101) as f32 * 0.618).sin()).to_f32()).collect()
}

/// Every order of the right side, every way to hold it, odd shapes, several terms; against sums in f64.
#[test]
fn products_are_sums_of_products() {
    for set in InstructionSet::available() {
        for (m, n, k) in [(1, 1, 1), (1, 33, 5), (15, 16, 17), (29, 70, 40), (64, 200, 130), (3, 5, 5000)] {
            check(set, m, n, k);
        }
    }
}

fn check(set: InstructionSet, m: usize, n: usize, k: usize) {
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let (a2, b2) = (values(m * 3, 3), values(3 * n, 4));
    let transposed = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
        (0..rows * columns).map(|i| x[(i % rows) * columns + i / rows]).collect()
    };
    let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
    let half: Vec<bf16> = bt.iter().map(|v| bf16::from_f32(*v)).collect();
    let across: Vec<f16> = b.iter().map(|v| f16::from_f32(*v)).collect();
    let rounded: Vec<f32> = across.iter().map(|v| v.to_f32()).collect();
    let expected = |b: &[f32], i: usize, j: usize| -> f64 {
        let dot = |a: &[f32], b: &[f32], k: usize| -> f64 {
            (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum()
        };
        dot(&a, b, k) + dot(&a2, &b2, 3)
    };
    let stride = n + 3;
    let mut first: Option<Vec<u32>> = None;
    for threads in [Threads::One, Threads::All] {
        for (name, left, right, reference) in [
            ("plain", LeftSource::new(&a, k), Right::new(Values::F32(&b), Order::AcrossColumns, n), &b),
            ("left transposed", LeftSource::transposed(&at, m), Right::new(Values::F32(&bt), Order::AlongK, k), &b),
            ("bf16", LeftSource::new(&a, k), Right::new(Values::Bf16(&half), Order::AlongK, k), &b),
            ("f16", LeftSource::new(&a, k), Right::new(Values::F16(&across), Order::AcrossColumns, n), &rounded),
        ] {
            let left = Left::pack(set, left, m, k, threads);
            let left_2 = Left::pack(set, LeftSource::new(&a2, 3), m, 3, threads);
            let terms = vec![
                Term::new(&left, right),
                Term::new(&left_2, Right::new(Values::F32(&b2), Order::AcrossColumns, n)),
            ];
            let two = vec![2.0; m * stride];
            for (write, start) in [(Write::Set, f32::NAN), (Write::Add, 2.0), (Write::Onto(&two), f32::NAN)] {
                let mut c = vec![start; m * stride];
                products(&mut c, stride, &[Job::float(2..n + 2, terms.clone(), write)], threads);
                for i in 0..m {
                    for j in 0..n {
                        let found = f64::from(c[i * stride + 2 + j]);
                        let expected = expected(reference, i, j) + if write == Write::Set { 0.0 } else { 2.0 };
                        assert!(
                            (found - expected).abs() < 1e-6 * (k as f64).max(4.0),
                            "{set} {name} {m}x{n}x{k} [{i},{j}]: {found}, {expected} expected"
                        );
                    }
                    let outside = [c[i * stride], c[i * stride + 1], c[i * stride + n + 2]];
                    assert!(outside.iter().all(|v| v.to_bits() == start.to_bits()), "columns outside stay");
                }
                // Bit by bit the same for any threads and any way to hold the right side.
                if write == Write::Set && name != "f16" {
                    let bits: Vec<u32> = c.iter().map(|v| v.to_bits()).collect();
                    assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits, "{set} {name} {m}x{n}x{k}");
                }
            }
        }
    }
}

/// Values with all 24 bits, of very different size.
fn full(count: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| (((i * 41 + seed * 97) as f32) * 0.731).sin() * 10_f32.powi((i * 7 + seed) as i32 % 5 - 2);
    (0..count).map(value).collect()
}

/// Value `place` of the product of `a` [m, k] and `b` [k, n], and the sum of its terms' magnitudes.
fn sum_and_size(a: &[f32], b: &[f32], n: usize, place: usize) -> (f64, f64) {
    let k = b.len() / n;
    let terms = || (0..k).map(|p| f64::from(a[place / n * k + p]) * f64::from(b[p * n + place % n]));
    (terms().sum(), terms().map(f64::abs).sum())
}

/// What single precision loses of the size of a sum of `k` terms: two units in the last place, and one for each doubling
/// of the terms.
fn rounding(k: usize) -> f64 {
    f64::from(f32::EPSILON) * (2.0 + (k as f64).log2())
}

/// No more is lost than single precision loses, whatever the products are composed of. Stretches of the left side begin
/// anywhere.
#[test]
fn products_keep_single_precision() {
    let (m, n) = (19, 37);
    for set in InstructionSet::available() {
        for k in [1, 4, 33, 70, 700, 2100] {
            let (a, b) = (full(m * k, 1), full(k * n, 2));
            let bf16: Vec<bf16> = b.iter().map(|v| bf16::from_f32(*v)).collect();
            let f16: Vec<f16> = b.iter().map(|v| f16::from_f32(*v)).collect();
            let left = Left::pack(set, LeftSource::new(&a, k), m, k, Threads::All);
            for values in [Values::F32(&b), Values::Bf16(&bf16), Values::F16(&f16)] {
                let mut held = vec![0.0; k * n];
                values.widen(set, &mut held);
                let cuts = [0, k / 7, k / 3, k];
                let terms = cuts.windows(2).map(|cut| {
                    let right = Right::new(values.from(cut[0] * n), Order::AcrossColumns, n);
                    Term::part(&left, cut[0]..cut[1], right)
                });
                let mut c = vec![f32::NAN; m * n];
                products(&mut c, n, &[Job::float(0..n, terms.collect(), Write::Set)], Threads::All);
                for (place, found) in c.iter().enumerate() {
                    let (sum, size) = sum_and_size(&a, &held, n, place);
                    let error = (f64::from(*found) - sum).abs();
                    let allowed = size * rounding(k);
                    assert!(error <= allowed, "{set} k {k} {place}: {found}, {sum} expected, {error} > {allowed}");
                }
            }
        }
    }
}

/// With two bf16 a value keeps 16 bits: what is rounded away of each side, and the product of both second halves, are
/// each at most 2^-16 of a product. Where there are no tiles nothing is rounded.
#[test]
fn pairs_of_bf16_keep_sixteen_bits() {
    let (m, n, k) = (19, 37, 130);
    let (a, b) = (full(m * k, 1), full(k * n, 2));
    let bf16: Vec<bf16> = b.iter().map(|v| bf16::from_f32(*v)).collect();
    let f16: Vec<f16> = b.iter().map(|v| f16::from_f32(*v)).collect();
    for set in InstructionSet::available() {
        let left = Left::pack(set, LeftSource::new(&a, k), m, k, Threads::All);
        for (values, rounded) in [(Values::F32(&b), 3.0), (Values::F16(&f16), 3.0), (Values::Bf16(&bf16), 1.0)] {
            let mut held = vec![0.0; k * n];
            values.widen(set, &mut held);
            let term = Term::new(&left, Right::new(values, Order::AcrossColumns, n)).at(Precision::Bf16x2);
            let mut c = vec![f32::NAN; m * n];
            products(&mut c, n, &[Job::float(0..n, vec![term], Write::Set)], Threads::All);
            let mut largest = 0.0_f64;
            for (place, found) in c.iter().enumerate() {
                let (sum, size) = sum_and_size(&a, &held, n, place);
                largest = largest.max((f64::from(*found) - sum).abs() / size);
            }
            let single = rounding(k);
            let allowed = if set == InstructionSet::Amx { rounded / 65536.0 + single } else { single };
            assert!(largest <= allowed, "{set}: {largest} of what is summed, {allowed} allowed");
            assert_eq!(
                largest > single,
                set == InstructionSet::Amx,
                "{set}: {largest}, rounded where it should not be"
            );
        }
    }
}

/// What is not finite is seen in every sum that it is part of.
#[test]
fn what_is_not_finite_stays_so() {
    let (m, n, k) = (5, 20, 40);
    for set in InstructionSet::available() {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            for on_left in [true, false] {
                let (mut a, mut b) = (values(m * k, 1), values(k * n, 2));
                if on_left {
                    a[3 * k + 7] = bad
                } else {
                    b[7 * n + 3] = bad
                }
                let left = Left::pack(set, LeftSource::new(&a, k), m, k, Threads::One);
                let right = Right::new(Values::F32(&b), Order::AcrossColumns, n);
                let mut c = vec![0.0; m * n];
                products(&mut c, n, &[Job::float(0..n, vec![Term::new(&left, right)], Write::Set)], Threads::One);
                for (place, found) in c.iter().enumerate() {
                    let part = if on_left { place / n == 3 } else { place % n == 3 };
                    assert_eq!(found.is_finite(), !part, "{set} {bad} {on_left} {place}: {found}");
                }
            }
        }
    }
}
