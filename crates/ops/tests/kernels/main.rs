//! Each kernel against its composed body, values and every gradient, with every instruction set of this machine; against
//! finite differences; and against itself on other numbers of threads.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod rounded;
mod split;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rankine_ops::{
    self as ops, Angles, Attended, Compute, FrozenProduct, InstructionSet, Keep, LowRank, Norm, Projection,
    QuantFormat, QuantWeight, Weight, composed,
};

/// Relative to the largest value of the tensor, and at least to 1, the size of the inputs: some gradients are 0.
const TOLERANCE: f32 = 2e-6;
/// Of operations that are several products deep.
const DEEP: f32 = 1e-5;

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

fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1.0_f32, |max, v| max.max(v.abs()));
    let apart = found.iter().zip(expected).fold(0.0_f32, |max, (f, e)| max.max((f - e).abs()));
    assert!(apart <= tolerance * scale, "{name}: {apart:.2e} apart, largest value {scale:.2e}");
}

type Body<'a> = &'a dyn Fn(Vec<Tensor<2>>) -> Tensor<2>;

/// The output, and the gradient of a weighted sum of it by each leaf.
fn run(leaves: &[Tensor<2>], body: Body<'_>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let y = body(leaves.to_vec());
    let weights =
        Tensor::<2>::from_data(TensorData::new(values(y.shape().num_elements(), 9), y.dims()), &Device::flex());
    let gradients = (y.clone() * weights).sum().backward();
    let gradients = leaves.iter().map(|leaf| host(leaf.grad(&gradients).unwrap())).collect();
    (host(y.inner()), gradients)
}

/// Runs both bodies on the same leaves and compares outputs and gradients, on every instruction set.
fn compare(name: &str, leaves: &[Tensor<2>], kernel: Body<'_>, reference: Body<'_>) {
    compare_within(TOLERANCE, name, leaves, kernel, reference);
}

fn compare_within(tolerance: f32, name: &str, leaves: &[Tensor<2>], kernel: Body<'_>, reference: Body<'_>) {
    let (expected, expected_gradients) = run(leaves, reference);
    for set in InstructionSet::available() {
        let name = format!("{name}, {set}");
        let (found, found_gradients) = set.scope(|| run(leaves, kernel));
        assert_close(&name, &found, &expected, tolerance);
        for (index, (found, expected)) in found_gradients.iter().zip(&expected_gradients).enumerate() {
            assert_close(&format!("{name}: gradient of input {index}"), found, expected, tolerance);
        }
        // Untracked, the same values.
        let plain = set.scope(|| host(kernel(leaves.iter().map(|leaf| leaf.clone().inner()).collect())));
        assert_eq!(plain, found, "{name}, untracked");
    }
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

fn projection(weight: &Tensor<2>, bias: Option<usize>, update: Option<(&Tensor<2>, &Tensor<2>, f64)>) -> Projection {
    let [out, _] = weight.dims();
    Projection {
        weight: Weight::Dense(weight.clone()),
        bias: bias.map(|seed| Tensor::from_data(TensorData::new(values(out, seed), [out]), &Device::flex())),
        update: update.map(|(a, b, scale)| LowRank { a: a.clone(), b: b.clone(), scale }),
        product: FrozenProduct::default(),
    }
}

fn norm(width: usize, seed: usize) -> Norm {
    Norm { weight: Tensor::from_data(TensorData::new(values(width, seed), [width]), &Device::flex()), eps: 1e-5 }
}

/// One layer and three, with and without updates, biases, norm and residual; 1 token, few, many; r 1 and odd widths.
#[test]
fn linears() {
    for (n, input, out, r) in [(1, 5, 7, 1), (3, 16, 16, 2), (5, 33, 18, 3), (130, 48, 33, 4), (61, 70, 130, 40)] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let weight = |out: usize, seed: usize| leaf([out, input], seed).inner().cast(dtype);
            let (w_1, w_2, w_3) = (weight(out, 4), weight(out + 3, 5), weight(1, 6));
            let leaves = [
                leaf([n, input], 1),
                leaf([r, input], 2),
                leaf([out, r], 3),
                leaf([r + 1, input], 7),
                leaf([1, r + 1], 8),
                leaf([n, 2 * out + 4], 10),
            ];
            let name = format!("linears {n} x {input} x {out}, r {r}, {dtype:?}");
            let three = |x: &[Tensor<2>]| {
                [
                    projection(&w_1, Some(11), Some((&x[1], &x[2], 0.7))),
                    projection(&w_2, None, None),
                    projection(&w_3, Some(12), Some((&x[3], &x[4], 1.3))),
                ]
            };
            let norm = norm(input, 13);
            compare_within(
                DEEP,
                &name,
                &leaves,
                &|x| ops::linears(x[0].clone(), Some(&norm), &three(&x), Some(x[5].clone())),
                &|x| composed::linears(x[0].clone(), Some(&norm), &three(&x), Some(x[5].clone())),
            );
            let one = |x: &[Tensor<2>]| [projection(&w_1, None, Some((&x[1], &x[2], 0.7)))];
            compare_within(
                DEEP,
                &format!("{name}, one"),
                &leaves[..3],
                &|x| ops::linears(x[0].clone(), None, &one(&x), None),
                &|x| composed::linears(x[0].clone(), None, &one(&x), None),
            );
            compare(&format!("{name}, plain"), &leaves[..1], &|x| ops::linear(x[0].clone(), w_2.clone()), &|x| {
                composed::linear(x[0].clone(), w_2.clone())
            });
        }
    }
}

/// A frozen input has no gradient, and the updates' are the same without it.
/// Weights in 4 and 8 bits: outputs and gradients are those of their values written out; odd widths, few and many rows.
#[test]
fn quantised_weights() {
    for (n, input, out, r) in [(1, 5, 7, 1), (3, 64, 48, 2), (40, 83, 70, 3), (130, 300, 33, 4)] {
        for format in [QuantFormat::Nf4, QuantFormat::Int8, QuantFormat::Int4] {
            let quantised = |out: usize, seed: usize| {
                let weight = QuantWeight::quantise(format, &values(out * input, seed), [out, input]);
                Weight::Quantised(std::sync::Arc::new(weight))
            };
            let (w_1, w_2) = (quantised(out, 4), quantised(out + 3, 5));
            let leaves = [leaf([n, input], 1), leaf([r, input], 2), leaf([out, r], 3)];
            let layers = |x: &[Tensor<2>], dense: bool| {
                [&w_1, &w_2].map(|weight| {
                    let update = LowRank { a: x[1].clone(), b: x[2].clone(), scale: 0.7 };
                    let own = weight.dims()[0] == out;
                    let weight = if dense { Weight::Dense(weight.dense(&Device::flex())) } else { weight.clone() };
                    Projection { weight, bias: None, update: own.then_some(update), product: FrozenProduct::default() }
                })
            };
            compare_within(
                DEEP,
                &format!("{format:?} {n} x {input} x {out}"),
                &leaves,
                &|x| ops::linears(x[0].clone(), None, &layers(&x, false), None),
                &|x| composed::linears(x[0].clone(), None, &layers(&x, true), None),
            );
            // To the bit, the kernels over the values written out.
            let both = [false, true].map(|dense| {
                run(&leaves, &|x: Vec<Tensor<2>>| ops::linears(x[0].clone(), None, &layers(&x, dense), None))
            });
            assert!(both[0] == both[1], "{format:?} {n} x {input} x {out}");
        }
    }
}

#[test]
fn linears_over_a_frozen_input() {
    let (x, w) = (leaf([40, 24], 1).inner(), leaf([30, 24], 2).inner());
    let leaves = [leaf([4, 24], 3), leaf([30, 4], 4)];
    let layers = |x: &[Tensor<2>]| [projection(&w, None, Some((&x[0], &x[1], 2.0)))];
    compare("linears, frozen input", &leaves, &|l| ops::linears(x.clone().autodiff(), None, &layers(&l), None), &|l| {
        composed::linears(x.clone().autodiff(), None, &layers(&l), None)
    });
}

#[test]
fn mlp() {
    for (n, d, f, r) in [(1, 8, 5, 1), (37, 24, 50, 3), (90, 40, 17, 2)] {
        let weights = [leaf([f, d], 1).inner(), leaf([f, d], 2).inner(), leaf([d, f], 3).inner()];
        let leaves = [
            leaf([n, d], 4),
            leaf([r, d], 5),
            leaf([f, r], 6),
            leaf([2, d], 7),
            leaf([f, 2], 8),
            leaf([r, f], 9),
            leaf([d, r], 10),
        ];
        let norm = norm(d, 11);
        let layers = |x: &[Tensor<2>]| {
            [
                projection(&weights[0], Some(12), Some((&x[1], &x[2], 0.5))),
                projection(&weights[1], None, Some((&x[3], &x[4], 0.25))),
                projection(&weights[2], Some(13), Some((&x[5], &x[6], 0.75))),
            ]
        };
        compare_within(
            DEEP,
            &format!("mlp {n} x {d} x {f}"),
            &leaves,
            &|x| {
                let [gate, up, down] = layers(&x);
                ops::mlp(x[0].clone(), &norm, [&gate, &up, &down], Keep::Intermediates)
            },
            &|x| {
                let [gate, up, down] = layers(&x);
                composed::mlp(x[0].clone(), &norm, &gate, &up, &down)
            },
        );
        // Without updates only the input has a gradient.
        let plain = weights.each_ref().map(|weight| projection(weight, None, None));
        let [gate, up, down] = &plain;
        compare_within(
            DEEP,
            &format!("mlp {n} x {d} x {f}, frozen"),
            &leaves[..1],
            &|x| ops::mlp(x[0].clone(), &norm, [gate, up, down], Keep::Intermediates),
            &|x| composed::mlp(x[0].clone(), &norm, gate, up, down),
        );
    }
}

/// 1 key/value head, a head size that is not hidden / heads, documents, a window, 1 token.
#[test]
fn attention_layer() {
    for (tokens, d, h, k, e, window) in
        [(1, 6, 2, 1, 4, None), (75, 20, 6, 2, 8, None), (75, 20, 3, 1, 10, Some(7)), (130, 16, 4, 4, 6, None)]
    {
        let segments: Vec<u32> = (0..tokens).map(|i| if i < tokens / 3 { 1 } else { 2 }).collect();
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let frequencies: Vec<f32> = (0..e / 2).map(|i| 0.9_f32.powi(i)).collect();
        let angles = Angles::new(&frequencies, &positions);
        let attended = Attended::from_segments(&segments, 1, window, h as usize, k as usize);
        let (h, k, e) = (h as usize, k as usize, e as usize);
        let weights = [
            leaf([h * e, d], 1).inner(),
            leaf([k * e, d], 2).inner(),
            leaf([k * e, d], 3).inner(),
            leaf([d, h * e], 4).inner(),
        ];
        let leaves = [
            leaf([tokens, d], 5),
            leaf([2, d], 6),
            leaf([h * e, 2], 7),
            leaf([1, d], 8),
            leaf([k * e, 1], 9),
            leaf([3, d], 10),
            leaf([k * e, 3], 11),
            leaf([2, h * e], 12),
            leaf([d, 2], 13),
        ];
        let norm = norm(d, 14);
        let layers = |x: &[Tensor<2>]| {
            [
                projection(&weights[0], Some(15), Some((&x[1], &x[2], 0.05))),
                projection(&weights[1], Some(16), Some((&x[3], &x[4], 0.05))),
                projection(&weights[2], None, Some((&x[5], &x[6], 0.25))),
                projection(&weights[3], None, Some((&x[7], &x[8], 0.25))),
            ]
        };
        compare_within(
            DEEP,
            &format!("attention layer, {tokens} tokens, {h} heads, {k} shared, size {e}, window {window:?}"),
            &leaves,
            &|x| ops::attention_layer(x[0].clone(), &norm, &layers(&x), &angles, &attended, Keep::Intermediates),
            &|x| composed::attention_layer(x[0].clone(), &norm, &layers(&x), &angles, &attended),
        );
        let with =
            |keep| run(&leaves, &|x| ops::attention_layer(x[0].clone(), &norm, &layers(&x), &angles, &attended, keep));
        assert!(with(Keep::Input) == with(Keep::Intermediates), "{tokens} tokens, computed again");
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

/// More keys than scores are held of at once, more queries than one part has: sums go on from block to block, and a
/// document or a window begins within one.
#[test]
fn attention_over_many_keys() {
    let (h, k, e) = (3, 1, 4);
    let documents: Vec<u32> = [vec![1; 40], vec![2; 1_010], vec![3; 550]].concat();
    for (segments, window) in [(vec![1; 1_100], None), (vec![1; 1_100], Some(600)), (documents, None)] {
        let t = segments.len();
        let attended = Attended::from_segments(&segments, 1, window, h, k);
        compare(
            &format!("attention over {t}, window {window:?}"),
            &[leaf([t, h * e], 1), leaf([t, k * e], 2), leaf([t, k * e], 3)],
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
    assert_close("strided", &host(found), &host(expected), TOLERANCE);
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
    // No row at all, one, several tasks; a vocabulary of one tile, of several, and of none whole.
    for (n, d, v) in [(0, 8, 20), (1, 24, 77), (300, 24, 77), (70, 33, 1100), (600, 8, 512)] {
        for dtype in [DType::F32, DType::BF16] {
            let weight = leaf([v, d], 5).inner().cast(dtype);
            let held = Weight::from(weight.clone());
            let targets: Vec<i64> = (0..n).map(|i| (i * 31 % v) as i64).collect();
            let hidden = leaf([n, d], 1);
            let whole = ops::cross_entropy(composed::linear(hidden.clone(), weight.clone()), &targets);
            let name = format!("head loss, {n} rows, {d} x {v}, {dtype:?}");
            let expected_sum = host(whole.sum.clone());
            let expected = (n > 0).then(|| host(hidden.grad(&whole.objective.backward()).unwrap()));
            let check = |name: &str, loss: ops::LossSum| {
                assert_eq!(loss.tokens, n);
                let Some(expected) = &expected else {
                    assert_eq!(host(loss.sum), [0.0], "{name}");
                    return;
                };
                assert_close(name, &host(loss.sum), &expected_sum, TOLERANCE);
                assert_close(name, &host(hidden.grad(&loss.objective.backward()).unwrap()), expected, DEEP);
                let plain = ops::head_loss(hidden.clone().inner(), &held, &targets, &FrozenProduct::default());
                assert_close(name, &host(plain.sum), &expected_sum, TOLERANCE);
            };
            for set in InstructionSet::available() {
                let name = format!("{name}, {set}");
                check(&name, set.scope(|| ops::head_loss(hidden.clone(), &held, &targets, &FrozenProduct::default())));
            }
            check(&format!("{name}, composed"), composed::head_loss(hidden.clone(), &held, &targets));
        }
    }
}

/// Logits beyond the range of `exp`, the largest in the last tile.
#[test]
fn head_loss_of_large_logits() {
    let (n, d, v) = (5, 4, 1300);
    let weight: Vec<f32> = (0..v * d).map(|i| (i / d) as f32 * 0.05).collect();
    let weight = Tensor::<2>::from_data(TensorData::new(weight, [v, d]), &Device::flex());
    let hidden = leaf([n, d], 1).add_scalar(2.0).detach().require_grad();
    let targets = vec![3, 1299, 640, 0, 512];
    let whole = ops::cross_entropy(composed::linear(hidden.clone(), weight.clone()), &targets);
    let loss = ops::head_loss(hidden.clone(), &weight.into(), &targets, &FrozenProduct::default());
    assert_close("sum", &host(loss.sum), &host(whole.sum), TOLERANCE);
    let gradient = |loss: Tensor<1>| host(hidden.grad(&loss.backward()).unwrap());
    assert_close("gradient", &gradient(loss.objective), &gradient(whole.objective), DEEP);
}

/// `(f(x + h) - f(x - h)) / 2h` along random directions, for every input of the coarse operations.
#[test]
fn gradients_are_finite_differences() {
    let (tokens, d, h, k, e, f) = (9, 12, 3, 1, 4, 10);
    let attended = Attended::from_segments(&[1, 1, 1, 1, 2, 2, 2, 2, 2], 1, None, h, k);
    let angles = Angles::new(&[1.0, 0.3], &(0..tokens as u32).collect::<Vec<_>>());
    let weight = |rows: usize, columns: usize, seed: usize| leaf([rows, columns], seed).inner().mul_scalar(0.3);
    let norm = norm(d, 20);
    let attention_weights = [weight(h * e, d, 1), weight(k * e, d, 2), weight(k * e, d, 3), weight(d, h * e, 4)];
    let mlp_weights = [weight(f, d, 5), weight(f, d, 6), weight(d, f, 7)];
    let attention: Body<'_> = &|x| {
        let layers =
            [0, 1, 2, 3].map(|i| projection(&attention_weights[i], None, Some((&x[1 + 2 * i], &x[2 + 2 * i], 0.5))));
        ops::attention_layer(x[0].clone(), &norm, &layers, &angles, &attended, Keep::Intermediates)
    };
    let mlp: Body<'_> = &|x| {
        let [gate, up, down] =
            [0, 1, 2].map(|i| projection(&mlp_weights[i], None, Some((&x[1 + 2 * i], &x[2 + 2 * i], 0.5))));
        ops::mlp(x[0].clone(), &norm, [&gate, &up, &down], Keep::Intermediates)
    };
    let updates = |weights: &[Tensor<2>]| -> Vec<Tensor<2>> {
        let factors = weights.iter().enumerate().flat_map(|(i, weight)| {
            let [out, input] = weight.dims();
            [leaf([2, input], 30 + i).mul_scalar(0.2), leaf([out, 2], 40 + i).mul_scalar(0.2)]
        });
        factors.map(|factor| factor.detach().require_grad()).collect()
    };
    for (name, body, weights) in
        [("attention layer", attention, &attention_weights[..]), ("mlp", mlp, &mlp_weights[..])]
    {
        let leaves: Vec<Tensor<2>> = std::iter::once(leaf([tokens, d], 8)).chain(updates(weights)).collect();
        let (_, gradients) = run(&leaves, body);
        let sum = |leaves: Vec<Tensor<2>>| -> f64 {
            let y = host(body(leaves).inner());
            y.iter().zip(values(y.len(), 9)).map(|(y, w)| f64::from(*y) * f64::from(w)).sum()
        };
        for (index, gradient) in gradients.iter().enumerate() {
            let direction = values(gradient.len(), 50 + index);
            let moved = |step: f32| {
                let mut leaves: Vec<Tensor<2>> = leaves.iter().map(|leaf| leaf.clone().inner()).collect();
                let shape = leaves[index].dims();
                let direction = Tensor::from_data(TensorData::new(direction.clone(), shape), &Device::flex());
                leaves[index] = leaves[index].clone() + direction.mul_scalar(step);
                sum(leaves)
            };
            const STEP: f32 = 2e-3;
            let found: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * f64::from(STEP));
            assert!(
                (found - expected).abs() <= 2e-3 * expected.abs().max(1.0),
                "{name}, input {index}: {found} by the kernel, {expected} by finite differences"
            );
        }
    }
}

/// The same bits from run to run, and on 1, 2, 3 and 5 threads.
#[test]
fn bits_do_not_depend_on_threads() {
    let (tokens, d, h, k, e, f, v) = (300, 48, 6, 2, 8, 160, 700);
    let attended = Attended::from_segments(&vec![1; tokens], 1, None, h, k);
    let angles = Angles::new(&[1.0, 0.3, 0.1, 0.05], &(0..tokens as u32).collect::<Vec<_>>());
    let norm = norm(d, 20);
    let weights: Vec<Tensor<2>> = [[h * e, d], [k * e, d], [k * e, d], [d, h * e], [f, d], [f, d], [d, f], [v, d]]
        .into_iter()
        .enumerate()
        .map(|(seed, shape)| leaf(shape, seed).inner().mul_scalar(0.2))
        .collect();
    let leaves = [leaf([tokens, d], 8), leaf([4, d], 9), leaf([h * e, 4], 10)];
    for compute in [Compute::F32, Compute::Int16, Compute::Int8] {
        let step = |keep: Keep| {
            let product = |index: usize| FrozenProduct::new(&weights[index], compute);
            let layer =
                |index: usize| Projection { product: product(index), ..projection(&weights[index], None, None) };
            let update = Some((&leaves[1], &leaves[2], 0.5));
            let q = Projection { product: product(0), ..projection(&weights[0], None, update) };
            let x = ops::attention_layer(
                leaves[0].clone(),
                &norm,
                &[q, layer(1), layer(2), layer(3)],
                &angles,
                &attended,
                keep,
            );
            let x = ops::mlp(x, &norm, [&layer(4), &layer(5), &layer(6)], keep);
            let targets: Vec<i64> = (0..tokens as i64).collect();
            let loss = ops::head_loss(x, &weights[7].clone().into(), &targets, &product(7));
            let gradients = loss.objective.backward();
            let mut bits: Vec<u32> = host(loss.sum).iter().map(|v| v.to_bits()).collect();
            for leaf in &leaves {
                bits.extend(host(leaf.grad(&gradients).unwrap()).iter().map(|v| v.to_bits()));
            }
            bits
        };
        let expected = step(Keep::Intermediates);
        assert!(expected == step(Keep::Input), "{compute:?}: computed again");
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for _ in 0..2 {
                assert!(pool.install(|| step(Keep::Intermediates)) == expected, "{compute:?} on {threads} threads");
            }
        }
    }
}
