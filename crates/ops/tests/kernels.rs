//! Each kernel against its composed body: values and every gradient.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use burn::tensor::{Device, Tensor, TensorData};
use rankine_ops::{self as ops, Angles, Attended, composed};

/// Relative to the largest value of the tensor, and at least to 1, the size of the inputs: some gradients are 0.
const TOLERANCE: f32 = 2e-6;

/// Values that repeat in no pattern of the shapes below.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101) as f32 * 0.618).sin() * 1.5).collect()
}

fn leaf(shape: [usize; 2], seed: usize) -> Tensor<2> {
    let data = TensorData::new(values(shape[0] * shape[1], seed), shape);
    Tensor::<2>::from_data(data, &Device::flex()).autodiff().require_grad()
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

fn assert_close(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1.0_f32, |max, v| max.max(v.abs()));
    let apart = found.iter().zip(expected).fold(0.0_f32, |max, (f, e)| max.max((f - e).abs()));
    assert!(apart <= TOLERANCE * scale, "{name}: {apart:.2e} apart, largest value {scale:.2e}");
}

/// Runs both bodies on the same leaves and compares the output and the gradient of a weighted sum by each leaf.
fn compare(
    name: &str,
    leaves: &[Tensor<2>],
    kernel: &dyn Fn(Vec<Tensor<2>>) -> Tensor<2>,
    reference: &dyn Fn(Vec<Tensor<2>>) -> Tensor<2>,
) {
    let run = |body: &dyn Fn(Vec<Tensor<2>>) -> Tensor<2>| {
        let y = body(leaves.to_vec());
        let weights =
            Tensor::<2>::from_data(TensorData::new(values(y.shape().num_elements(), 9), y.dims()), &Device::flex());
        let gradients = (y.clone() * weights).sum().backward();
        let gradients: Vec<Vec<f32>> = leaves.iter().map(|leaf| host(leaf.grad(&gradients).unwrap())).collect();
        (host(y.inner()), gradients)
    };
    let (found, found_gradients) = run(kernel);
    let (expected, expected_gradients) = run(reference);
    assert_close(name, &found, &expected);
    for (index, (found, expected)) in found_gradients.iter().zip(&expected_gradients).enumerate() {
        assert_close(&format!("{name}: gradient of input {index}"), found, expected);
    }
    // Untracked, the same values.
    let plain = host(kernel(leaves.iter().map(|leaf| leaf.clone().inner()).collect()));
    assert_close(&format!("{name}, untracked"), &plain, &expected);
}

#[test]
fn rms_norm() {
    for (n, d) in [(1, 4), (5, 33), (70, 64)] {
        let leaves = [leaf([n, d], 1), leaf([1, d], 2)];
        compare(
            &format!("rms_norm {n} x {d}"),
            &leaves,
            &|x| ops::rms_norm(x[0].clone(), x[1].clone().squeeze_dim(0), 1e-5),
            &|x| composed::rms_norm(x[0].clone(), x[1].clone().squeeze_dim(0), 1e-5),
        );
    }
}

#[test]
fn swiglu() {
    for shape in [[1, 3], [70, 301]] {
        let leaves = [leaf(shape, 1).mul_scalar(6.0).detach().require_grad(), leaf(shape, 2)];
        compare(&format!("swiglu {shape:?}"), &leaves, &|x| ops::swiglu(x[0].clone(), x[1].clone()), &|x| {
            composed::swiglu(x[0].clone(), x[1].clone())
        });
    }
}

#[test]
fn rotary() {
    let frequencies = [1.0, 0.31, 0.017];
    let positions: Vec<u32> = (0..40).chain(0..29).collect();
    let angles = Angles::new(&frequencies, &positions);
    let leaves = [leaf([positions.len(), 5 * 6], 3)];
    compare("rotary", &leaves, &|x| ops::rotary(x[0].clone(), &angles), &|x| composed::rotary(x[0].clone(), &angles));
}

#[test]
fn low_rank_linear() {
    for (n, input, out, r) in [(1, 5, 7, 1), (130, 48, 33, 4)] {
        let weight = leaf([out, input], 4).inner();
        let leaves = [leaf([n, input], 1), leaf([r, input], 2), leaf([out, r], 3)];
        compare(
            &format!("low_rank_linear {n} x {input} x {out}, r {r}"),
            &leaves,
            &|x| ops::low_rank_linear(x[0].clone(), weight.clone(), x[1].clone(), x[2].clone(), 0.7),
            &|x| composed::low_rank_linear(x[0].clone(), weight.clone(), x[1].clone(), x[2].clone(), 0.7),
        );
    }
}

#[test]
fn attention_over_documents_windows_and_padding() {
    let (h, k, e) = (6, 2, 8);
    // Two rows of 150: more than two tiles of queries; three documents and padding; one document.
    let first = [vec![1; 70], vec![2; 3], vec![3; 65], vec![0; 12]].concat();
    let segments: Vec<u32> = [first, vec![1; 150]].concat();
    for window in [None, Some(1), Some(9), Some(100)] {
        let attended = Attended::from_segments(&segments, 2, window, h, k);
        let leaves = [leaf([300, h * e], 1), leaf([300, k * e], 2), leaf([300, k * e], 3)];
        compare(
            &format!("attention, window {window:?}"),
            &leaves,
            &|x| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), &attended),
            &|x| composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &attended),
        );
    }
}

#[test]
fn attention_after_cached_tokens() {
    let (h, k, e) = (4, 4, 6);
    for (past, queries, window) in [(0, 1, None), (77, 1, None), (77, 5, Some(20)), (77, 130, None)] {
        let attended = Attended::after_cache(past, queries, window, h, k);
        let s = past + queries;
        let leaves = [leaf([queries, h * e], 1), leaf([s, k * e], 2), leaf([s, k * e], 3)];
        compare(
            &format!("attention, {past} cached, {queries} new, window {window:?}"),
            &leaves,
            &|x| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), &attended),
            &|x| composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &attended),
        );
    }
}

#[test]
fn attention_takes_strided_keys() {
    let attended = Attended::after_cache(3, 2, None, 2, 1);
    let q = leaf([2, 8], 1).inner();
    let (k, v) = (leaf([9, 4], 2).inner(), leaf([9, 4], 3).inner());
    let found = ops::attention(q.clone(), k.clone().narrow(0, 0, 5), v.clone().narrow(0, 0, 5), &attended);
    let expected = composed::attention(q, k.narrow(0, 0, 5), v.narrow(0, 0, 5), &attended);
    assert_close("strided", &host(found), &host(expected));
}

#[test]
fn ranges_are_the_mask_of_documents_and_windows() {
    let segments = [1, 1, 1, 2, 2, 0, 0];
    let attended = Attended::from_segments(&segments, 1, Some(2), 1, 1);
    let blocked = attended.blocked();
    for query in 0..7 {
        for key in 0..7 {
            let seen = key <= query && segments[key] == segments[query] && query - key < 2;
            assert_eq!(blocked[query * 7 + key], !seen, "query {query}, key {key}");
        }
    }
}

#[test]
fn head_loss() {
    let (n, d, v) = (300, 24, 77);
    let weight = leaf([v, d], 5).inner();
    let targets: Vec<i64> = (0..n).map(|i| (i * 31 % v) as i64).collect();
    let hidden = leaf([n, d], 1);
    let logits = ops::linear(hidden.clone(), weight.clone());
    let whole = ops::cross_entropy(logits, &targets);
    let expected = host(hidden.grad(&whole.objective.backward()).unwrap());
    for (name, loss) in [
        ("kernel", ops::head_loss(hidden.clone(), &weight, &targets)),
        ("composed", composed::head_loss(hidden.clone(), &weight, &targets)),
    ] {
        assert_eq!(loss.tokens, n);
        assert_close(name, &host(loss.sum), &host(whole.sum.clone()));
        assert_close(name, &host(hidden.grad(&loss.objective.backward()).unwrap()), &expected);
    }
}
