//! Weights that stay in their file: pages are brought in one layer ahead of their use and given back after it.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};

use crate::file_map::FileMap;
use crate::kernel::{InstructionSet, Values};

/// A frozen weight [out, in] as it lies in a file, in native byte order. Its values never leave the file's pages.
#[derive(Clone)]
pub struct StreamedWeight {
    bytes: Span,
    dtype: DType,
    shape: [usize; 2],
    /// The same weight of the layer before and of the layer after.
    before: Option<Span>,
    after: Option<Span>,
}

/// A stretch of a mapped file.
#[derive(Debug, Clone)]
struct Span {
    file: Arc<FileMap>,
    range: Range<usize>,
}

/// Which way the layers are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// First to last.
    Forward,
    /// Last to first.
    Back,
}

impl StreamedWeight {
    /// The values of `range` in `file`, of `dtype` F32, F16 or BF16; `None` where they are not as many as the shape
    /// says, or do not begin where such values can be read.
    pub fn new(file: &Arc<FileMap>, range: Range<usize>, dtype: DType, shape: [usize; 2]) -> Option<Self> {
        let bytes = Span { file: Arc::clone(file), range };
        let weight = Self { bytes, dtype, shape, before: None, after: None };
        (weight.try_values()?.len() == shape[0] * shape[1]).then_some(weight)
    }

    /// The same between its neighbours, which are brought in ahead.
    #[must_use]
    pub fn between(self, before: Option<&Self>, after: Option<&Self>) -> Self {
        let span = |weight: Option<&Self>| weight.map(|weight| weight.bytes.clone());
        Self { before: span(before), after: span(after), ..self }
    }

    /// [out, in].
    pub fn dims(&self) -> [usize; 2] {
        self.shape
    }

    /// Every value as a tensor of the file's type, in memory.
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        let data = match self.values() {
            Values::Bf16(values) => TensorData::new(values.to_vec(), self.shape),
            Values::F16(values) => TensorData::new(values.to_vec(), self.shape),
            values => {
                let mut copy = vec![0.0; self.shape[0] * self.shape[1]];
                values.widen(InstructionSet::current(), &mut copy);
                TensorData::new(copy, self.shape)
            }
        };
        self.release();
        Tensor::from_data(data, (device, self.dtype))
    }

    pub(crate) fn values(&self) -> Values<'_> {
        self.try_values().unwrap_or_else(|| unreachable!("looked at when it was made"))
    }

    /// Asks for the weight that will be used one layer on.
    pub(crate) fn prefetch(&self, way: Way) {
        let next = match way {
            Way::Forward => &self.after,
            Way::Back => &self.before,
        };
        if let Some(Span { file, range }) = next {
            file.prefetch(range.clone());
        }
    }

    /// Gives its pages back.
    pub(crate) fn release(&self) {
        self.bytes.file.release(self.bytes.range.clone());
    }

    fn try_values(&self) -> Option<Values<'_>> {
        let bytes = self.bytes.file.get(self.bytes.range.clone())?;
        // Files are little-endian.
        if cfg!(target_endian = "big") {
            return None;
        }
        match self.dtype {
            DType::F32 => in_place::<f32>(bytes).map(Values::F32),
            DType::F16 => in_place::<f16>(bytes).map(Values::F16),
            DType::BF16 => in_place::<bf16>(bytes).map(Values::Bf16),
            _ => None,
        }
    }
}

/// Bytes as values, where they are aligned and whole.
fn in_place<T: Float>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: `Float` says that every pattern of bits is a value.
    let (before, values, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// Types of which every pattern of bits is a value.
///
/// # Safety
/// As it says.
unsafe trait Float {}
// SAFETY: plain bits, as IEEE 754 has them.
unsafe impl Float for f32 {}
// SAFETY: as above, 16 of them.
unsafe impl Float for f16 {}
// SAFETY: the upper half of an f32.
unsafe impl Float for bf16 {}

/// Short: a module's display would print every value.
impl std::fmt::Debug for StreamedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamedWeight({:?}, {:?})", self.dtype, self.shape)
    }
}
