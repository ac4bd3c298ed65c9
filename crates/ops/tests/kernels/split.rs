//! Matrices in several tensors, against the same in one.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rankine_ops::{self as ops, FrozenProduct, Projection, SplitWeight, Weight, rows_within};

use super::{DEEP, TOLERANCE, assert_close, compare, host, leaf, norm, projection};

/// In parts of `rows` rows each, and what is left.
fn in_parts(whole: &Tensor<2>, rows: usize) -> SplitWeight {
    let out = whole.dims()[0];
    let part = |start: usize| whole.clone().narrow(0, start, rows.min(out - start));
    SplitWeight::new((0..out).step_by(rows).map(part).collect())
}

/// Beside a layer whose weight is whole, with a bias and an update.
#[test]
fn linears() {
    let (n, input, out, r) = (37, 20, 33, 3);
    let (w_1, w_2) = (leaf([out, input], 4).inner(), leaf([5, input], 5).inner());
    let leaves = [leaf([n, input], 1), leaf([r, input], 2), leaf([out, r], 3), leaf([n, out + 5], 10)];
    for rows in [1, 8, out] {
        let layers = |x: &[Tensor<2>], weight: Weight| {
            let first = Projection { weight, ..projection(&w_1, Some(11), Some((&x[1], &x[2], 0.7))) };
            ops::linears(
                x[0].clone(),
                Some(&norm(input, 6)),
                &[first, projection(&w_2, None, None)],
                Some(x[3].clone()),
            )
        };
        let split = in_parts(&w_1, rows);
        assert_eq!((split.dims(), split.parts().len()), ([out, input], out.div_ceil(rows)));
        assert_eq!(host(split.dense()), host(w_1.clone()));
        compare(
            &format!("linears, {rows} rows a part"),
            &leaves,
            &|x| layers(&x, Weight::Split(split.clone())),
            &|x| layers(&x, w_1.clone().into()),
        );
    }
}

#[test]
fn rows_of_a_table() {
    let table = leaf([11, 6], 3).inner();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(vec![10_i64, 0, 3, 4, 4, 9, 7], [7]), &Device::flex());
    let expected = host(table.clone().select(0, ids.clone()));
    for rows in [1, 4, 5, 11] {
        assert_eq!(host(in_parts(&table, rows).select(&ids)), expected, "{rows} rows a part");
    }
}

/// A part that has none of the targets, and one that has one.
#[test]
fn head_loss() {
    let (n, d, v) = (70, 24, 90);
    let weight = leaf([v, d], 5).inner().mul_scalar(0.3);
    let targets: Vec<i64> = (0..n).map(|i| if i == 3 { 89 } else { i * 31 % 40 }).collect();
    let hidden = leaf([n as usize, d], 1);
    let run = |weight: &Weight| {
        let loss = ops::head_loss(hidden.clone(), weight, &targets, &FrozenProduct::default());
        (host(loss.sum), host(hidden.grad(&loss.objective.backward()).unwrap()))
    };
    let (sum, gradient) = run(&weight.clone().into());
    for rows in [1, 45, 64, 90] {
        let found = run(&Weight::Split(in_parts(&weight, rows)));
        assert_close("sum", &found.0, &sum, TOLERANCE);
        assert_close("gradient", &found.1, &gradient, DEEP);
    }
}

#[test]
fn parts_are_as_large_as_a_device_holds() {
    assert_eq!(rows_within(1 << 27, [128_256, 2048], DType::BF16), Some(32_768));
    assert_eq!(rows_within(1 << 30, [128_256, 2048], DType::BF16), None);
    assert_eq!(rows_within(240, [10, 6], DType::F32), None);
    assert_eq!(rows_within(239, [10, 6], DType::F32), Some(9));
    // No part is less than a row, which such a device refuses by itself.
    assert_eq!(rows_within(3, [10, 6], DType::F32), Some(1));
}
