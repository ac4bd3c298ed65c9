//! Tensors of a base model from what its files hold.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use rankine_nn::embedding::Table;
use rankine_nn::linear::LinearWeight;
use rankine_nn::parameter::Parameter;
use rankine_ops::{QuantWeight, SplitWeight, StreamedWeight, rows_within};
use rayon::prelude::*;

use crate::config::TensorSpec;
use crate::weights::{StoredDtype, StoredTensor};

/// A tensor of the base as it is held.
pub(super) enum Held {
    Values(Source),
    Quantised(QuantWeight),
    Streamed(StreamedWeight),
}

/// A tensor's values in the dtype that it is held in.
pub(super) enum Source {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Source {
    /// A stored tensor in `dtype`. One that is stored so is copied, not converted.
    pub(super) fn read(stored: &StoredTensor<'_>, dtype: StoredDtype) -> Self {
        let source = match (stored.dtype, dtype, stored.plain_bytes()) {
            (StoredDtype::F16, StoredDtype::F16, Some(bytes)) => Self::F16(halves(bytes, f16::from_bits)),
            (StoredDtype::BF16, StoredDtype::BF16, Some(bytes)) => Self::Bf16(halves(bytes, bf16::from_bits)),
            _ => {
                let values = stored.to_f32();
                match dtype {
                    StoredDtype::F32 => Self::F32(values),
                    StoredDtype::F16 => Self::F16(values.into_iter().map(f16::from_f32).collect()),
                    StoredDtype::BF16 => Self::Bf16(values.into_iter().map(bf16::from_f32).collect()),
                }
            }
        };
        // The copy is in memory; the file's own pages need not be.
        stored.release(0..stored.len());
        source
    }

    fn tensor<const D: usize>(self, shape: [usize; D], device: &Device) -> Tensor<D> {
        match self {
            Self::F32(values) => Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)),
            Self::F16(values) => Tensor::from_data(TensorData::new(values, shape), (device, DType::F16)),
            Self::Bf16(values) => Tensor::from_data(TensorData::new(values, shape), (device, DType::BF16)),
        }
    }

    /// In parts where a tensor of at most `most` bytes does not hold it.
    fn table(self, shape: [usize; 2], device: &Device, most: Option<u64>) -> Table {
        let [out, input] = shape;
        let Some(rows) = most.and_then(|most| rows_within(most, shape, self.dtype())) else {
            return Table::Whole(Parameter::Frozen(self.tensor(shape, device)));
        };
        let part = |start: usize| {
            let end = out.min(start + rows);
            self.part(start * input..end * input).tensor([end - start, input], device)
        };
        Table::Split(SplitWeight::new((0..out).step_by(rows).map(part).collect()))
    }

    fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(values[range].to_vec()),
            Self::F16(values) => Self::F16(values[range].to_vec()),
            Self::Bf16(values) => Self::Bf16(values[range].to_vec()),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::BF16,
        }
    }

    pub(super) fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::F16(values) => values.into_iter().map(f16::to_f32).collect(),
            Self::Bf16(values) => values.into_iter().map(bf16::to_f32).collect(),
        }
    }
}

/// Little-endian 16-bit values, copied in parts on all cores.
fn halves<T: Copy + Default + Send + Sync>(bytes: &[u8], value: impl Fn(u16) -> T + Sync) -> Vec<T> {
    const PART: usize = 1 << 18;
    let mut values = vec![T::default(); bytes.len() / 2];
    values.par_chunks_mut(PART).zip(bytes.par_chunks(2 * PART)).for_each(|(values, bytes)| {
        for (into, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *into = value(u16::from_le_bytes(*pair));
        }
    });
    values
}

/// Makes a model's weights on its device.
pub(super) struct Builder<'a> {
    pub(super) device: &'a Device,
    /// Bytes of the largest tensor.
    pub(super) most: Option<u64>,
    /// What a tensor holds.
    pub(super) hold: &'a mut dyn FnMut(&TensorSpec) -> Held,
}

impl Builder<'_> {
    pub(super) fn linear(&mut self, path: &str, shape: [usize; 2]) -> LinearWeight {
        match (self.hold)(&TensorSpec { name: format!("{path}.weight"), shape: shape.to_vec() }) {
            Held::Values(source) => source.table(shape, self.device, self.most).into(),
            Held::Quantised(weight) => LinearWeight::Quantised(Arc::new(weight)),
            Held::Streamed(weight) => LinearWeight::Streamed(Arc::new(weight)),
        }
    }

    pub(super) fn table(&mut self, name: &str, shape: [usize; 2]) -> Table {
        self.values(name, &shape).table(shape, self.device, self.most)
    }

    pub(super) fn vector(&mut self, name: &str, width: usize) -> Tensor<1> {
        self.values(name, &[width]).tensor([width], self.device)
    }

    /// What is held as it is, whatever the form of the base.
    fn values(&mut self, name: &str, shape: &[usize]) -> Source {
        match (self.hold)(&TensorSpec { name: name.to_owned(), shape: shape.to_vec() }) {
            Held::Values(source) => source,
            Held::Quantised(_) | Held::Streamed(_) => unreachable!("only linear layers are held so"),
        }
    }
}
