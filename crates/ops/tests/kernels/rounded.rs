//! Products that round what they multiply: how far from single precision they may be.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rankine_ops::{self as ops, Compute, FrozenProduct, InstructionSet, Projection, composed};

use super::{TOLERANCE, assert_close, host, leaf, projection, run, values};

/// Rounded products against single precision: the error that their bits leave, and no more.
#[test]
fn rounded_products_are_close_and_the_same_on_every_set() {
    let (n, input, out, r) = (45, 300, 70, 4);
    let weight = leaf([out, input], 4).inner().cast(DType::BF16);
    let leaves = [leaf([n, input], 1), leaf([r, input], 2), leaf([out, r], 3)];
    let layers = |x: &[Tensor<2>], compute| {
        let product = FrozenProduct::new(&weight, compute);
        [Projection { product, ..projection(&weight, None, Some((&x[1], &x[2], 0.5))) }]
    };
    let (expected, expected_gradients) =
        run(&leaves, &|x| composed::linears(x[0].clone(), None, &layers(&x, Compute::F32), None));
    let limit = |computed: Compute| match computed {
        Compute::F32 => 1e-6,
        Compute::Bf16x2 => 1e-5,
        Compute::Bf16 => 1e-2,
        Compute::Int16 => 1e-3,
        Compute::Int8 => 2e-2,
    };
    for compute in [Compute::Bf16x2, Compute::Bf16, Compute::Int16, Compute::Int8] {
        let mut first: Option<Vec<f32>> = None;
        for set in InstructionSet::available() {
            let (computed, limit) = (compute.on(set), limit(compute.on(set)));
            let (found, gradients) =
                set.scope(|| run(&leaves, &|x| ops::linears(x[0].clone(), None, &layers(&x, compute), None)));
            for (name, found, expected) in
                [("output", &found, &expected), ("input's gradient", &gradients[0], &expected_gradients[0])]
            {
                let distance = relative_distance(found, expected);
                assert!(distance < limit, "{compute:?}, {set}: {name} {distance:.2e} apart");
                let is_rounded = computed == Compute::F32 || distance > limit / 1e3;
                assert!(is_rounded, "{compute:?}, {set}: {name} was not rounded at all, {distance:.2e} apart");
            }
            // No frozen product is in these: all bits, or beside bf16 a hundredth of its error at most.
            let limit = if computed == Compute::Bf16 { limit / 100.0 } else { 1e-6 };
            for (name, found, expected) in
                [("A", &gradients[1], &expected_gradients[1]), ("B", &gradients[2], &expected_gradients[2])]
            {
                let distance = relative_distance(found, expected);
                assert!(distance < limit, "{compute:?}, {set}: gradient of {name} {distance:.2e} apart");
            }
            if computed != compute {
                continue;
            }
            // Integers are exact; what is left is the order and the rounding of what is scaled.
            let first = first.get_or_insert_with(|| found.clone());
            assert_close(&format!("{compute:?}, {set} and the first"), &found, first, TOLERANCE);
        }
    }
}

/// Over several tiles of the vocabulary, each a part of the weight's blocks and panels; with the weight's integers made
/// before, and made anew.
#[test]
fn integer_heads_are_close() {
    let (n, d, v) = (70, 150, 4500);
    let weight = leaf([v, d], 5).inner().mul_scalar(0.2).cast(DType::BF16);
    let targets: Vec<i64> = (0..n).map(|i| (i * 631 % v) as i64).collect();
    let hidden = leaf([n, d], 1);
    let run = |product: &FrozenProduct| {
        let loss = ops::head_loss(hidden.clone(), &weight.clone().into(), &targets, product);
        (host(loss.sum)[0], host(hidden.grad(&loss.objective.backward()).unwrap()))
    };
    let (sum, gradient) = run(&FrozenProduct::default());
    for (compute, limit) in [(Compute::Int16, 1e-3), (Compute::Int8, 3e-2)] {
        let Some(set) = InstructionSet::available().filter(|set| compute.on(*set) == compute).last() else { continue };
        let made_before = set.scope(|| FrozenProduct::new(&weight, compute));
        let (found, found_gradient) = set.scope(|| run(&made_before));
        assert!((found - sum).abs() < limit as f32 * sum, "{compute:?}: {found}, {sum} in f32");
        let distance = relative_distance(&found_gradient, &gradient);
        assert!(distance < limit, "{compute:?}: gradient {distance:.2e} apart");
        // Integers made for another set do not fit, and are made anew: on the narrower set the sums are the same.
        let anew = InstructionSet::Portable.scope(|| run(&made_before).1);
        let distance = relative_distance(&anew, &found_gradient);
        assert!(distance < 1e-5, "{compute:?}: made anew, {distance:.2e} apart");
    }
}

/// Blocks with outliers, zeros, the smallest numbers, and numbers that are none.
#[test]
fn integer_products_of_hard_blocks() {
    let (n, input, out) = (20, 260, 40);
    let mut x = values(n * input, 1);
    x[..input].fill(0.0);
    x[input + 3] = 5e4;
    x[2 * input..3 * input].fill(1e-42);
    let weight = leaf([out, input], 4).inner();
    let tensor = |x: &[f32]| Tensor::<2>::from_data(TensorData::new(x.to_vec(), [n, input]), &Device::flex());
    let product = |x: &[f32], compute| {
        let product = FrozenProduct::new(&weight, compute);
        host(ops::linears(tensor(x), None, &[Projection { product, ..projection(&weight, None, None) }], None))
    };
    for compute in [Compute::Int16, Compute::Int8] {
        for set in InstructionSet::available() {
            set.scope(|| {
                let (found, expected) = (product(&x, compute), product(&x, Compute::F32));
                assert!(found[..out].iter().all(|y| *y == 0.0), "{set}: a row of zeros");
                assert!(found[2 * out..3 * out].iter().all(|y| y.abs() < 1e-38), "{set}: a row of tiny values");
                let distance = relative_distance(&found[3 * out..], &expected[3 * out..]);
                assert!(distance < 2e-2, "{compute:?}, {set}: an outlier in one row spoils another, {distance:.2e}");
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut x = x.clone();
                    x[5 * input + 200] = bad;
                    let found = product(&x, compute);
                    assert!(found[5 * out..6 * out].iter().all(|y| !y.is_finite()), "{set}: {bad} is lost");
                    assert!(found[6 * out..].iter().all(|y| y.is_finite()), "{set}: {bad} spreads");
                }
            });
        }
    }
}

fn relative_distance(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let apart = square(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    (apart / square(&mut expected.iter().copied())).sqrt()
}
