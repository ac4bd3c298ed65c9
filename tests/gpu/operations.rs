//! Every operation of `ops`, values and gradients, beside the CPU's kernels.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rankine_models::model::to_host;
use rankine_ops::{
    self as ops, Angles, Attended, FrozenProduct, Keep, LossSum, LowRank, Norm, Projection, QuantFormat, QuantWeight,
    SplitWeight, Weight,
};

use super::{Tested, assert_close, tested};

/// f32 in another order, several products deep.
const TOLERANCE: f32 = 2e-5;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101) as f32 * 0.618).sin() * 1.5).collect()
}

fn plain<const D: usize>(shape: [usize; D], seed: usize, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values(shape.iter().product(), seed), shape), device)
}

/// What an operation is given: its device, and the tensors that have a gradient.
type Body<'a> = &'a dyn Fn(&Device, &[Tensor<2>]) -> Tensor<2>;

/// The output, then the gradient of a weighted sum of it by each leaf.
fn run(device: &Device, leaves: &[[usize; 2]], body: Body<'_>) -> Vec<Vec<f32>> {
    let leaves: Vec<Tensor<2>> = leaves
        .iter()
        .enumerate()
        .map(|(seed, shape)| plain(*shape, seed + 1, device).autodiff().require_grad())
        .collect();
    let y = body(device, &leaves);
    let gradients = (y.clone() * plain(y.dims(), 9, device)).sum().backward();
    let gradients = leaves.iter().map(|leaf| to_host(leaf.grad(&gradients).unwrap()));
    std::iter::once(to_host(y.inner())).chain(gradients).collect()
}

/// The body on both devices, and untracked.
fn compare(name: &str, device: &Device, leaves: &[[usize; 2]], body: Body<'_>) {
    let expected = run(&Device::flex(), leaves, body);
    let found = run(device, leaves, body);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let part = if index == 0 { "output".to_owned() } else { format!("gradient of input {}", index - 1) };
        assert_close(&format!("{name}: {part}"), found, expected, TOLERANCE);
    }
    let untracked: Vec<Tensor<2>> =
        leaves.iter().enumerate().map(|(seed, shape)| plain(*shape, seed + 1, device)).collect();
    assert_close(&format!("{name}: untracked"), &to_host(body(device, &untracked)), &expected[0], TOLERANCE);
}

fn norm(width: usize, device: &Device) -> Norm {
    Norm { weight: plain([width], 20, device), eps: 1e-5 }
}

fn projection(shape: [usize; 2], seed: usize, device: &Device) -> Projection {
    Projection::plain(plain(shape, seed, device).mul_scalar(0.4))
}

fn adapted(shape: [usize; 2], seed: usize, a: &Tensor<2>, b: &Tensor<2>, device: &Device) -> Projection {
    let update = Some(LowRank { a: a.clone(), b: b.clone(), scale: 0.3 });
    Projection { update, bias: Some(plain([shape[0]], seed + 1, device)), ..projection(shape, seed, device) }
}

#[test]
fn elementwise_operations() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    for (n, d) in [(1, 4), (5, 33), (70, 64)] {
        compare(&format!("rms_norm {n} x {d}"), &device, &[[n, d], [1, d]], &|_, x| {
            ops::rms_norm(x[0].clone(), x[1].clone().squeeze_dim(0), 1e-5)
        });
        compare(&format!("swiglu {n} x {d}"), &device, &[[n, d], [n, d]], &|_, x| {
            ops::swiglu(x[0].clone().mul_scalar(6.0), x[1].clone())
        });
    }
    let positions: Vec<u32> = (0..40).chain(0..29).collect();
    let angles = Angles::new(&[1.0, 0.31, 0.017], &positions);
    compare("rotary", &device, &[[positions.len(), 30]], &|_, x| ops::rotary(x[0].clone(), &angles));
}

#[test]
fn attention() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    let (h, k, e) = (6, 2, 8);
    let segments: Vec<u32> = [vec![1; 20], vec![2; 3], vec![3; 15], vec![0; 4], vec![1; 42]].concat();
    for window in [None, Some(9)] {
        let attended = Attended::from_segments(&segments, 2, window, h, k);
        compare(&format!("window {window:?}"), &device, &[[84, h * e], [84, k * e], [84, k * e]], &|_, x| {
            ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), &attended)
        });
    }
    for (past, queries) in [(37, 1), (37, 5)] {
        let attended = Attended::after_cache(past, queries, Some(20), h, k);
        let s = past + queries;
        compare(&format!("{past} cached"), &device, &[[queries, h * e], [s, k * e], [s, k * e]], &|_, x| {
            ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), &attended)
        });
    }
}

#[test]
fn products() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    for (n, input, out) in [(1, 5, 7), (40, 48, 33)] {
        let leaves = [[n, input], [3, input], [out, 3], [n, 2 * out + 4]];
        compare(&format!("linears {n} x {input} x {out}"), &device, &leaves, &|device, x| {
            let layers = [
                adapted([out, input], 30, &x[1], &x[2], device),
                projection([out + 3, input], 32, device),
                projection([1, input], 33, device),
            ];
            ops::linears(x[0].clone(), Some(&norm(input, device)), &layers, Some(x[3].clone()))
        });
        compare(&format!("low_rank {n} x {input} x {out}"), &device, &leaves[..3], &|_, x| {
            ops::low_rank(x[0].clone(), x[1].clone(), x[2].clone(), 0.7)
        });
    }
    compare("dora_row_norm", &device, &[[4, 24], [30, 4]], &|device, x| {
        ops::dora_row_norm(plain([30, 24], 40, device), x[0].clone(), x[1].clone(), 0.5).unsqueeze_dim(0)
    });
}

#[test]
fn halves_of_a_layer() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    let (n, d, f) = (37, 24, 50);
    let leaves = [[n, d], [3, d], [f, 3], [2, d], [f, 2], [3, f], [d, 3]];
    compare("mlp", &device, &leaves, &|device, x| {
        let gate = adapted([f, d], 30, &x[1], &x[2], device);
        let up = adapted([f, d], 32, &x[3], &x[4], device);
        let down = adapted([d, f], 34, &x[5], &x[6], device);
        ops::mlp(x[0].clone().mul_scalar(0.5), &norm(d, device), [&gate, &up, &down], Keep::Intermediates)
    });
    let (tokens, d, h, k, e) = (39, 20, 6, 2, 8);
    let segments: Vec<u32> = (0..tokens).map(|i| if i < tokens / 3 { 1 } else { 2 }).collect();
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let angles = Angles::new(&[1.0, 0.9, 0.8, 0.7], &positions);
    let attended = Attended::from_segments(&segments, 1, Some(11), h, k);
    let leaves = [[tokens, d], [2, d], [h * e, 2], [1, d], [k * e, 1], [3, d], [k * e, 3], [2, h * e], [d, 2]];
    compare("attention layer", &device, &leaves, &|device, x| {
        let layers = [
            adapted([h * e, d], 30, &x[1], &x[2], device),
            adapted([k * e, d], 32, &x[3], &x[4], device),
            adapted([k * e, d], 34, &x[5], &x[6], device),
            adapted([d, h * e], 36, &x[7], &x[8], device),
        ];
        let x = x[0].clone().mul_scalar(0.5);
        ops::attention_layer(x, &norm(d, device), &layers, &angles, &attended, Keep::Intermediates)
    });
}

#[test]
fn losses_of_a_head() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    for (n, d, v) in [(1, 24, 77), (300, 24, 77), (70, 33, 1100)] {
        let targets: Vec<i64> = (0..n).map(|i| (i * 31 % v) as i64).collect();
        let measure = |device: &Device, trained: bool| {
            let hidden = plain([n, d], 1, device).autodiff().require_grad();
            let weight = plain([v, d], 5, device).mul_scalar(0.3);
            let LossSum { sum, objective, tokens } = if trained {
                ops::cross_entropy(ops::linear(hidden.clone(), weight), &targets)
            } else {
                ops::head_loss(hidden.clone(), &weight.into(), &targets, &FrozenProduct::default())
            };
            assert_eq!(tokens, n);
            (to_host(sum), to_host(hidden.grad(&objective.backward()).unwrap()))
        };
        for trained in [false, true] {
            let (expected, found) = (measure(&Device::flex(), trained), measure(&device, trained));
            assert_close(&format!("loss, {n} x {v}"), &found.0, &expected.0, TOLERANCE);
            assert_close(&format!("gradient of the loss, {n} x {v}"), &found.1, &expected.1, TOLERANCE);
        }
    }
}

/// A matrix in parts, as a layer, as a table and as a head.
#[test]
fn weights_in_parts() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    let (n, d, v) = (70, 33, 190);
    let split = |device: &Device| {
        let whole: Tensor<2> = plain([v, d], 5, device).mul_scalar(0.3);
        let part = |start: usize| whole.clone().narrow(0, start, (v - start).min(64));
        SplitWeight::new((0..v).step_by(64).map(part).collect())
    };
    compare("linear", &device, &[[n, d]], &|device, x| {
        ops::linears(x[0].clone(), None, &[Projection::plain(Weight::Split(split(device)))], None)
    });
    let ids: Vec<i64> = (0..n).map(|i| (i * 31 % v) as i64).collect();
    let rows = |device: &Device| {
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [n]), device);
        to_host(split(device).select(&ids))
    };
    assert_eq!(rows(&device), rows(&Device::flex()));
    let loss = |device: &Device| {
        let hidden = plain([n, d], 1, device).autodiff().require_grad();
        let weight = Weight::Split(split(device));
        let LossSum { sum, objective, .. } = ops::head_loss(hidden.clone(), &weight, &ids, &FrozenProduct::default());
        (to_host(sum), to_host(hidden.grad(&objective.backward()).unwrap()))
    };
    let (expected, found) = (loss(&Device::flex()), loss(&device));
    assert_close("loss", &found.0, &expected.0, TOLERANCE);
    assert_close("gradient of the loss", &found.1, &expected.1, TOLERANCE);
}

/// Packed weights have the values that the CPU gives them.
#[test]
fn quantised_weights() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    for (n, input, out) in [(1, 5, 7), (40, 83, 70)] {
        for format in [QuantFormat::Nf4, QuantFormat::Int8, QuantFormat::Int4] {
            let weight = QuantWeight::quantise(format, &values(out * input, 4), [out, input]);
            let weight = std::sync::Arc::new(weight);
            compare(
                &format!("{format:?} {n} x {input} x {out}"),
                &device,
                &[[n, input], [2, input], [out, 2]],
                &|_, x| {
                    let update = Some(LowRank { a: x[1].clone(), b: x[2].clone(), scale: 0.7 });
                    let layer = Projection {
                        weight: Weight::Quantised(weight.clone()),
                        bias: None,
                        update,
                        product: FrozenProduct::default(),
                    };
                    ops::linears(x[0].clone(), None, &[layer], None)
                },
            );
        }
    }
}

/// Many a GPU has no 64-bit integers in its shaders.
#[test]
fn ids_are_of_32_bits() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    let ids = Tensor::<1, Int>::from_data(TensorData::new(vec![3_i64, 1, 4], [3]), &device);
    assert_eq!(ids.dtype(), DType::I32);
}
