//! Tensors of the CPU backend as slices, and slices as its tensors.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use half::{bf16, f16};

use crate::kernel::Values;

/// A contiguous floating-point tensor whose values can be read.
#[derive(Clone)]
pub(crate) struct Host(FlexTensor);

impl Host {
    /// A tensor of the CPU outside the graph.
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        match tensor.clone().try_into_primitive::<Flex>() {
            Ok(tensor) => Self::from(tensor),
            Err(_) => unreachable!("callers ask `on_cpu` first and pass what is outside the graph"),
        }
    }

    /// Row-major values, of a tensor in f32.
    pub(crate) fn values(&self) -> &[f32] {
        self.0.as_slice::<f32>().unwrap_or_else(|| unreachable!("made contiguous in f32"))
    }

    /// Row-major values as they are held.
    pub(crate) fn held(&self) -> Values<'_> {
        let held = match self.0.dtype() {
            DType::BF16 => self.0.as_slice::<bf16>().map(Values::Bf16),
            DType::F16 => self.0.as_slice::<f16>().map(Values::F16),
            _ => self.0.as_slice::<f32>().map(Values::F32),
        };
        held.unwrap_or_else(|| unreachable!("made contiguous, and in one of the three dtypes"))
    }

    /// Its shape.
    pub(crate) fn shape(&self) -> Shape {
        self.0.layout().shape().clone()
    }

    /// Rows and columns.
    pub(crate) fn dims(&self) -> [usize; 2] {
        let shape = self.0.layout().shape();
        [shape[0], shape[1]]
    }

    /// The tensor, for the graph to hold: it shares the values.
    pub(crate) fn tensor(&self) -> FlexTensor {
        self.0.clone()
    }

    /// The values to write over, of a tensor in f32: in place where nothing else holds them.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        let (start, end) = self.0.layout().contiguous_offsets().unwrap_or_else(|| unreachable!("made contiguous"));
        &mut self.0.storage_mut::<f32>()[start..end]
    }
}

impl From<FlexTensor> for Host {
    fn from(tensor: FlexTensor) -> Self {
        if tensor.layout().contiguous_offsets().is_some() { Self(tensor) } else { Self(tensor.to_contiguous()) }
    }
}

/// Short: a module's display would print every value.
impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({:?})", self.0.layout().shape())
    }
}

/// A tensor around values, without a copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}
