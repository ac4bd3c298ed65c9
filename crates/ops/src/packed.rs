//! Weights in few bits on other devices than the CPU: packed words and scales stay there, and a layer at a time is
//! widened into scratch, forward and backward. The graph keeps the packed form alone.

use std::ops::Range;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Int, Shape, Slice, Tensor, TensorData};

use crate::kernel::QuantWeight;
use crate::split;

#[cfg(all(any(feature = "cuda", feature = "rocm", feature = "wgpu"), not(feature = "fusion")))]
mod cube;

/// Values that are widened at a time, 64 MiB of them: scratch stays small, and within what any device can bind.
const WIDENED: usize = 1 << 24;

/// A weight [out, in] as another device holds it: rows that are widened together, from the top.
#[derive(Debug, Clone)]
pub(crate) struct PackedWeight(Vec<PackedRows>);

#[derive(Debug, Clone)]
struct PackedRows {
    /// [words, 1]: codes in the order of the matrix's rows, 32 bits a word.
    words: Tensor<2, Int>,
    /// What each code stands for.
    levels: Tensor<1>,
    /// [blocks, 1].
    scales: Tensor<2>,
    spec: PackedSpec,
}

/// How codes become a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedSpec {
    /// [out, in].
    shape: [usize; 2],
    /// Values that share a scale.
    block: usize,
    /// Of a code.
    bits: usize,
}

impl PackedSpec {
    /// Codes of a word.
    fn each(self) -> usize {
        32 / self.bits
    }

    /// How far a word is shifted for each of its codes, in their order: the first of two codes of 4 bits is in the upper
    /// half of its byte.
    fn shifts(self) -> Vec<i32> {
        let place = |code: usize| if self.bits == 4 { code ^ 1 } else { code };
        (0..self.each()).map(|code| (place(code) * self.bits) as i32).collect()
    }

    /// The lowest bits of a shifted word that are the code.
    fn mask(self) -> i32 {
        (1 << self.bits) - 1
    }
}

/// A packed weight's parts, as an operation takes them.
#[derive(Debug, Clone, ExtensionType)]
pub(crate) struct Packed<B: Backend> {
    words: IntTensor<B>,
    levels: FloatTensor<B>,
    scales: FloatTensor<B>,
    spec: PackedSpec,
}

impl PackedWeight {
    /// Brings a weight to a device.
    pub(crate) fn new(weight: &QuantWeight, device: &Device) -> Self {
        Self::widened(weight, WIDENED, device)
    }

    /// The same, of which no more than `most` values are widened at a time, if a row has no more.
    fn widened(weight: &QuantWeight, most: usize, device: &Device) -> Self {
        let [out, input] = weight.dims();
        // Each part begins with a block and with a word.
        let whole = lcm(weight.block(), 32 / weight.format().bits());
        let step = whole / gcd(whole, input);
        let rows = if out * input <= most { out.max(1) } else { (most / input / step * step).max(step) };
        let scales = weight.block_scales();
        let part = |start: usize| PackedRows::new(weight, &scales, start..out.min(start + rows), device);
        Self((0..out).step_by(rows).map(part).collect())
    }

    /// `y = x W^T`; a gradient goes to `x` alone.
    ///
    /// # Shapes
    /// `x` [n, in] in f32; returns [n, out].
    pub(crate) fn linear(&self, x: &Tensor<2>) -> Tensor<2> {
        let product =
            |rows: &PackedRows| Tensor::from_dispatch(Dispatch::packed_linear(x.clone().into_dispatch(), rows.parts()));
        split::joined(self.0.iter().map(product).collect(), 1)
    }

    /// Every value, [out, in].
    pub(crate) fn dense(&self) -> Tensor<2> {
        let dense = |rows: &PackedRows| Tensor::from_dispatch(Dispatch::packed_dense(rows.parts()));
        split::joined(self.0.iter().map(dense).collect(), 0)
    }
}

impl PackedRows {
    fn new(weight: &QuantWeight, scales: &[f32], rows: Range<usize>, device: &Device) -> Self {
        let (bits, block, input) = (weight.format().bits(), weight.block(), weight.dims()[1]);
        let (start, end) = (rows.start * input, rows.end * input);
        let scales = &scales[start / block..end.div_ceil(block)];
        // Whole blocks and whole words; what is behind the rows is cut off when they are widened.
        let bytes = (scales.len() * block * bits / 8).next_multiple_of(4);
        let own = &weight.codes()[start * bits / 8..];
        let mut codes = own[..bytes.min(own.len())].to_vec();
        codes.resize(bytes, 0);
        let words: Vec<i32> = codes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
        let (count, blocks) = (words.len(), scales.len());
        Self {
            words: Tensor::from_data(TensorData::new(words, [count, 1]), (device, DType::I32)),
            levels: Tensor::from_data(TensorData::new(weight.levels(), [1 << bits]), (device, DType::F32)),
            scales: Tensor::from_data(TensorData::new(scales.to_vec(), [blocks, 1]), (device, DType::F32)),
            spec: PackedSpec { shape: [rows.len(), input], block, bits },
        }
    }

    fn parts(&self) -> Packed<Dispatch> {
        Packed {
            words: self.words.clone().into_dispatch(),
            levels: self.levels.clone().into_dispatch(),
            scales: self.scales.clone().into_dispatch(),
            spec: self.spec,
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: usize, b: usize) -> usize {
    a / gcd(a, b) * b
}

/// Products with packed weights, on every backend.
#[backend_extension(
    Flex,
    Cube: cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu")),
    Autodiff
)]
pub(crate) trait PackedOps: Backend {
    /// See [`PackedWeight::dense`], of some rows.
    fn packed_dense(#[extension_type] weight: Packed<Self>) -> FloatTensor<Self> {
        dense(weight)
    }

    /// See [`PackedWeight::linear`], of some rows.
    fn packed_linear(x: FloatTensor<Self>, #[extension_type] weight: Packed<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, Self::float_transpose(Self::packed_dense(weight)))
    }
}

/// Every value, by operations that each backend has.
fn dense<B: Backend>(Packed { words, levels, scales, spec }: Packed<B>) -> FloatTensor<B> {
    let count = words.shape()[0] * spec.each();
    let shifts = TensorData::new(spec.shifts(), [1, spec.each()]);
    let shifts = B::int_from_data(shifts, &words.device());
    let codes = B::bitwise_and_scalar(B::bitwise_right_shift(words, shifts), spec.mask().into());
    let codes = B::int_reshape(codes, Shape::new([count]));
    let values = B::float_select(levels, 0, codes);
    let [blocks, _] = scales.shape().dims();
    let values = B::float_slice(values, &[Slice::from(0..blocks * spec.block)]);
    let values = B::float_mul(B::float_reshape(values, Shape::new([blocks, spec.block])), scales);
    let values = B::float_reshape(values, Shape::new([blocks * spec.block]));
    let [out, input] = spec.shape;
    B::float_reshape(B::float_slice(values, &[Slice::from(0..out * input)]), Shape::new([out, input]))
}

impl PackedOps for Flex {}

// Fusion makes one kernel of the operations by itself.
#[cfg(all(any(feature = "cuda", feature = "rocm", feature = "wgpu"), feature = "fusion"))]
impl PackedOps for burn::backend::Cube {}

impl<B: PackedOps, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
    fn packed_linear(x: FloatTensor<Self>, weight: Packed<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Linear;
        impl<B: PackedOps> Backward<B, 1> for Linear {
            type State = Packed<B>;
            fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    gradients.register::<B>(node.id, B::float_matmul(dy, B::packed_dense(ops.state)));
                }
            }
        }
        let Packed { words, levels, scales, spec } = weight;
        let weight = Packed { words, levels: levels.into_primitive(), scales: scales.into_primitive(), spec };
        match Linear.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::packed_linear(x.into_primitive(), weight.clone());
                prep.finish(weight, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::packed_linear(x.into_primitive(), weight)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

    use super::*;
    use crate::kernel::QuantFormat;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.618).sin() * (1.0 + (i % 11) as f32)).collect()
    }

    fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    /// Parts begin where a block and a word do, in whatever width; together they are the weight.
    #[test]
    fn rows_are_widened_some_at_a_time() {
        let device = Device::flex();
        for [out, input] in [[1, 5], [7, 5], [70, 83], [300, 48], [9, 64], [6, 129]] {
            for format in [QuantFormat::Nf4, QuantFormat::Int4, QuantFormat::Int8] {
                let weight = QuantWeight::quantise(format, &values(out * input), [out, input]);
                let expected = weight.dequantise();
                let mut parts = Vec::new();
                for most in [1, 500, out * input] {
                    let name = format!("{format:?} {out} x {input}, {most} at a time");
                    let packed = PackedWeight::widened(&weight, most, &device);
                    parts.push(packed.0.len());
                    assert_eq!(host(packed.dense()), expected, "{name}");
                    let x = Tensor::<2>::from_data(TensorData::new(values(3 * input), [3, input]), &device);
                    let x = x.autodiff().require_grad();
                    let dense = Tensor::<2>::from_data(TensorData::new(expected.clone(), [out, input]), &device);
                    let run = |y: Tensor<2>| {
                        let gradient = host(x.grad(&y.clone().square().sum().backward()).unwrap());
                        [host(y.inner()), gradient].concat()
                    };
                    let found = run(packed.linear(&x));
                    let expected = run(x.clone().matmul(dense.transpose()));
                    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
                    let apart = found.iter().zip(&expected).fold(0.0_f32, |most, (f, e)| most.max((f - e).abs()));
                    assert!(apart <= 2e-6 * scale, "{name}: {apart} of {scale}");
                }
                assert!(parts.is_sorted_by(|a, b| a >= b), "{parts:?}");
                assert_eq!(parts.last(), Some(&1));
            }
        }
    }
}
