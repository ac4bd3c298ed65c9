//! Weights in few bits on other devices than the CPU: packed words and scales stay there, and a layer at a time is
//! widened into scratch, forward and backward. The graph keeps the packed form alone.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Int, Shape, Slice, Tensor, TensorData};

use crate::kernel::QuantWeight;

/// A weight [out, in] as another device holds it.
#[derive(Debug, Clone)]
pub(crate) struct PackedWeight {
    /// [words, 1]: codes in the order of the matrix's rows, 32 bits a word.
    words: Tensor<2, Int>,
    /// [1, codes of a word]: how far each is shifted.
    shifts: Tensor<2, Int>,
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
    /// The lowest bits of a shifted word that are the code.
    mask: i32,
}

impl PackedWeight {
    /// Brings a weight to a device.
    pub(crate) fn new(weight: &QuantWeight, device: &Device) -> Self {
        let bits = weight.format().bits();
        // The first of two codes is in the upper half of its byte.
        let shifts = match bits {
            4 => vec![4, 0, 12, 8, 20, 16, 28, 24],
            _ => vec![0, 8, 16, 24],
        };
        let (block, scales) = (weight.block(), weight.block_scales());
        // Whole blocks and whole words; what is behind the matrix is cut off when it is widened.
        let bytes = (scales.len() * block * bits / 8).next_multiple_of(4).max(weight.codes().len());
        let mut codes = weight.codes().to_vec();
        codes.resize(bytes.next_multiple_of(4), 0);
        let words: Vec<i32> = codes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
        let integers = |values: Vec<i32>, shape: [usize; 2]| {
            Tensor::from_data(TensorData::new(values, shape), (device, DType::I32))
        };
        let (count, each, blocks) = (words.len(), shifts.len(), scales.len());
        Self {
            words: integers(words, [count, 1]),
            shifts: integers(shifts, [1, each]),
            levels: Tensor::from_data(TensorData::new(weight.levels(), [1 << bits]), (device, DType::F32)),
            scales: Tensor::from_data(TensorData::new(scales, [blocks, 1]), (device, DType::F32)),
            spec: PackedSpec { shape: weight.dims(), block, mask: (1 << bits) - 1 },
        }
    }

    /// `y = x W^T`; a gradient goes to `x` alone.
    ///
    /// # Shapes
    /// `x` [n, in] in f32; returns [n, out].
    pub(crate) fn linear(&self, x: Tensor<2>) -> Tensor<2> {
        let Self { words, shifts, levels, scales, spec } = self.clone();
        Tensor::from_dispatch(Dispatch::packed_linear(
            x.into_dispatch(),
            words.into_dispatch(),
            shifts.into_dispatch(),
            levels.into_dispatch(),
            scales.into_dispatch(),
            spec,
        ))
    }

    /// Every value, [out, in].
    pub(crate) fn dense(&self) -> Tensor<2> {
        let Self { words, shifts, levels, scales, spec } = self.clone();
        Tensor::from_dispatch(Dispatch::packed_dense(
            words.into_dispatch(),
            shifts.into_dispatch(),
            levels.into_dispatch(),
            scales.into_dispatch(),
            spec,
        ))
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
    fn packed_dense(
        words: IntTensor<Self>,
        shifts: IntTensor<Self>,
        levels: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        spec: PackedSpec,
    ) -> FloatTensor<Self> {
        let count = words.shape()[0] * shifts.shape()[1];
        let codes = Self::bitwise_and_scalar(Self::bitwise_right_shift(words, shifts), spec.mask.into());
        let codes = Self::int_reshape(codes, Shape::new([count]));
        let values = Self::float_select(levels, 0, codes);
        let [blocks, _] = scales.shape().dims();
        let values = Self::float_slice(values, &[Slice::from(0..blocks * spec.block)]);
        let values = Self::float_mul(Self::float_reshape(values, Shape::new([blocks, spec.block])), scales);
        let values = Self::float_reshape(values, Shape::new([blocks * spec.block]));
        let [out, input] = spec.shape;
        Self::float_reshape(Self::float_slice(values, &[Slice::from(0..out * input)]), Shape::new([out, input]))
    }

    /// See [`PackedWeight::linear`].
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        shifts: IntTensor<Self>,
        levels: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        spec: PackedSpec,
    ) -> FloatTensor<Self> {
        let weight = Self::packed_dense(words, shifts, levels, scales, spec);
        Self::float_matmul(x, Self::float_transpose(weight))
    }
}

impl PackedOps for Flex {}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
impl PackedOps for burn::backend::Cube {}

impl<B: PackedOps, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        shifts: IntTensor<Self>,
        levels: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        spec: PackedSpec,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Linear;
        impl<B: PackedOps> Backward<B, 1> for Linear {
            type State = (IntTensor<B>, IntTensor<B>, FloatTensor<B>, FloatTensor<B>, PackedSpec);
            fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (words, shifts, levels, scales, spec) = ops.state;
                let dy = gradients.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let weight = B::packed_dense(words, shifts, levels, scales, spec);
                    gradients.register::<B>(node.id, B::float_matmul(dy, weight));
                }
            }
        }
        let (levels, scales) = (levels.into_primitive(), scales.into_primitive());
        let forward = |x: FloatTensor<B>| {
            B::packed_linear(x, words.clone(), shifts.clone(), levels.clone(), scales.clone(), spec)
        };
        match Linear.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = forward(x.into_primitive());
                prep.finish((words, shifts, levels, scales, spec), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(x.into_primitive())),
        }
    }
}
