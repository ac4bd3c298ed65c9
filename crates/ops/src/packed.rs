//! Weights in few bits on other devices than the CPU: packed words and scales stay there, and a layer at a time is
//! widened into scratch, forward and backward. The graph keeps the packed form alone.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Int, Shape, Slice, Tensor, TensorData};

use crate::kernel::QuantWeight;

#[cfg(all(any(feature = "cuda", feature = "rocm", feature = "wgpu"), not(feature = "fusion")))]
mod cube;

/// A weight [out, in] as another device holds it.
#[derive(Debug, Clone)]
pub(crate) struct PackedWeight {
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
        let bits = weight.format().bits();
        let (block, scales) = (weight.block(), weight.block_scales());
        // Whole blocks and whole words; what is behind the matrix is cut off when it is widened.
        let bytes = (scales.len() * block * bits / 8).next_multiple_of(4).max(weight.codes().len());
        let mut codes = weight.codes().to_vec();
        codes.resize(bytes.next_multiple_of(4), 0);
        let words: Vec<i32> = codes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
        let (count, blocks) = (words.len(), scales.len());
        Self {
            words: Tensor::from_data(TensorData::new(words, [count, 1]), (device, DType::I32)),
            levels: Tensor::from_data(TensorData::new(weight.levels(), [1 << bits]), (device, DType::F32)),
            scales: Tensor::from_data(TensorData::new(scales, [blocks, 1]), (device, DType::F32)),
            spec: PackedSpec { shape: weight.dims(), block, bits },
        }
    }

    /// `y = x W^T`; a gradient goes to `x` alone.
    ///
    /// # Shapes
    /// `x` [n, in] in f32; returns [n, out].
    pub(crate) fn linear(&self, x: Tensor<2>) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::packed_linear(x.into_dispatch(), self.parts()))
    }

    /// Every value, [out, in].
    pub(crate) fn dense(&self) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::packed_dense(self.parts()))
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

/// Products with packed weights, on every backend.
#[backend_extension(
    Flex,
    Cube: cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu")),
    Autodiff
)]
pub(crate) trait PackedOps: Backend {
    /// See [`PackedWeight::dense`].
    fn packed_dense(#[extension_type] weight: Packed<Self>) -> FloatTensor<Self> {
        dense(weight)
    }

    /// See [`PackedWeight::linear`].
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
