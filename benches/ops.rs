//! Each operation of a training step, forward and backward, at the shape of SmolLM2-135M, with the kernels that
//! `cargo build` compiles: `cargo bench --profile dev --bench ops`.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use burn::tensor::{DType, Device, Tensor, TensorData};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rankine_ops::{self as ops, Angles, Attended, Compute, FrozenProduct, LowRank, Norm, Projection};

/// One sequence of 512 tokens.
const TOKENS: usize = 512;
const HIDDEN: usize = 576;
const FEED_FORWARD: usize = 1536;
const HEADS: usize = 9;
const GROUPS: usize = 3;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 49_152;
const RANK: usize = 16;

const WAYS: [(&str, Compute); 3] = [("f32", Compute::F32), ("int16", Compute::Int16), ("int8", Compute::Int8)];

fn values(shape: [usize; 2], seed: usize) -> Tensor<2> {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| ((i * 37 + seed * 101) as f32 * 0.618).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn leaf(shape: [usize; 2], seed: usize) -> Tensor<2> {
    values(shape, seed).autodiff().require_grad()
}

fn layer(out: usize, input: usize, compute: Compute) -> Projection {
    let weight = values([out, input], 1).mul_scalar(0.05).cast(DType::BF16);
    // Scaled before it is a leaf: an operation between would be used up by the first backward pass.
    let b = values([out, RANK], 3).mul_scalar(0.01).autodiff().require_grad();
    let update = LowRank { a: leaf([RANK, input], 2), b, scale: 2.0 };
    let product = FrozenProduct::new(&weight, compute);
    Projection { weight: rankine_ops::Weight::Dense(weight), bias: None, update: Some(update), product }
}

fn norm() -> Norm {
    Norm { weight: Tensor::ones([HIDDEN], &Device::flex()), eps: 1e-5 }
}

fn layers(c: &mut Criterion) {
    let angles = Angles::new(
        &(0..HEAD_DIM / 2).map(|i| 0.8_f32.powi(i as i32)).collect::<Vec<_>>(),
        &(0..TOKENS as u32).collect::<Vec<_>>(),
    );
    let attended = Attended::from_segments(&[1; TOKENS], 1, None, HEADS, GROUPS);
    let (queries, keys) = (HEADS * HEAD_DIM, GROUPS * HEAD_DIM);
    for (way, compute) in WAYS {
        let mut group = c.benchmark_group(format!("{TOKENS} tokens, {way}"));
        group.throughput(Throughput::Elements(TOKENS as u64)).sample_size(10);
        let attention = [
            layer(queries, HIDDEN, compute),
            layer(keys, HIDDEN, compute),
            layer(keys, HIDDEN, compute),
            layer(HIDDEN, queries, compute),
        ];
        let mlp = [
            layer(FEED_FORWARD, HIDDEN, compute),
            layer(FEED_FORWARD, HIDDEN, compute),
            layer(HIDDEN, FEED_FORWARD, compute),
        ];
        let attention = |x| ops::attention_layer(x, &norm(), &attention, &angles, &attended, ops::Keep::Intermediates);
        let mlp = |x| ops::mlp(x, &norm(), [&mlp[0], &mlp[1], &mlp[2]], ops::Keep::Intermediates);
        type Layer<'a> = &'a dyn Fn(Tensor<2>) -> Tensor<2>;
        for (name, body) in [("attention layer", &attention as Layer<'_>), ("mlp", &mlp as Layer<'_>)] {
            group.bench_function(format!("{name}, forward"), |b| {
                b.iter_batched(|| leaf([TOKENS, HIDDEN], 4), |x| black_box(body(x)), BatchSize::LargeInput);
            });
            group.bench_function(format!("{name}, backward"), |b| {
                b.iter_batched(
                    || body(leaf([TOKENS, HIDDEN], 4)).sum(),
                    |y| black_box(y.backward()),
                    // One graph at a time: they share the adapters, and burn one tape for what hangs together.
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

fn head(c: &mut Criterion) {
    let weight = values([VOCABULARY, HIDDEN], 1).mul_scalar(0.05).cast(DType::BF16);
    let targets: Vec<i64> = (0..TOKENS).map(|i| (i * 97 % VOCABULARY) as i64).collect();
    for (way, compute) in WAYS {
        let product = FrozenProduct::new(&weight, compute);
        let head = rankine_ops::Weight::from(weight.clone());
        let mut group = c.benchmark_group(format!("{TOKENS} tokens, {way}"));
        group.throughput(Throughput::Elements(TOKENS as u64)).sample_size(10);
        group.bench_function("head and loss, with the gradient", |b| {
            b.iter_batched(
                || leaf([TOKENS, HIDDEN], 2),
                |x| black_box(ops::head_loss(x, &head, &targets, &product)),
                BatchSize::LargeInput,
            );
        });
    }
}

/// Attention alone, as the context grows.
fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention, forward and backward");
    group.sample_size(10);
    for tokens in [128, 512, 2048] {
        let attended = Attended::from_segments(&vec![1; tokens], 1, None, HEADS, GROUPS);
        let leaves = || {
            let keys = [tokens, GROUPS * HEAD_DIM];
            [leaf([tokens, HEADS * HEAD_DIM], 1), leaf(keys, 2), leaf(keys, 3)]
        };
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(format!("{tokens} tokens"), |b| {
            b.iter_batched(
                leaves,
                |[q, k, v]| black_box(ops::attention(q, k, v, &attended).sum().backward()),
                BatchSize::LargeInput,
            );
        });
    }
}

/// What is left beside the products.
fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise, 512 tokens");
    group.throughput(Throughput::Elements(TOKENS as u64)).sample_size(20);
    let (x, wide) = (values([TOKENS, HIDDEN], 1), values([TOKENS, FEED_FORWARD], 2));
    group.bench_function("rms_norm", |b| {
        b.iter(|| black_box(ops::rms_norm(x.clone(), norm().weight, 1e-5)));
    });
    group.bench_function("swiglu", |b| {
        b.iter(|| black_box(ops::swiglu(wide.clone(), wide.clone())));
    });
}

criterion_group!(benches, layers, head, attention, elementwise);
criterion_main!(benches);
