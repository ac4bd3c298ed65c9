//! Matrices that are larger than any tensor of their device: rows in several tensors.

use std::sync::Arc;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::composed;

/// A frozen matrix [out, in] as several, one below the other. Nothing but [`Self::dense`] ever makes one of them.
#[derive(Debug, Clone)]
pub struct SplitWeight(Arc<[Tensor<2>]>);

impl SplitWeight {
    /// `parts` [rows, in] each, from the top.
    ///
    /// # Panics
    /// Without a part, or where one is not as wide as the first.
    pub fn new(parts: Vec<Tensor<2>>) -> Self {
        let width = parts[0].dims()[1];
        assert!(parts.iter().all(|part| part.dims()[1] == width), "parts of one width");
        Self(parts.into())
    }

    /// [out, in].
    pub fn dims(&self) -> [usize; 2] {
        [self.0.iter().map(|part| part.dims()[0]).sum(), self.0[0].dims()[1]]
    }

    /// Its parts, from the top.
    pub fn parts(&self) -> &[Tensor<2>] {
        &self.0
    }

    /// As one tensor, which its device may refuse.
    pub fn dense(&self) -> Tensor<2> {
        joined(self.0.to_vec(), 0)
    }

    /// The rows of `ids` `[n]`: [n, in].
    pub fn select(&self, ids: &Tensor<1, Int>) -> Tensor<2> {
        select(&self.0, ids)
    }
}

/// `x W^T` of a matrix in parts: [n, out].
pub(crate) fn linear(x: &Tensor<2>, parts: &[Tensor<2>]) -> Tensor<2> {
    joined(parts.iter().map(|part| composed::linear(x.clone(), part.clone())).collect(), 1)
}

/// `y W` of a matrix in parts, `y` [n, out]: [n, in].
pub(crate) fn transposed(y: &Tensor<2>, parts: &[Tensor<2>]) -> Tensor<2> {
    let mut start = 0;
    let share = |part: &Tensor<2>| {
        let rows = part.dims()[0];
        let share = composed::linear(y.clone().narrow(1, start, rows), part.clone().transpose());
        start += rows;
        share
    };
    sum(parts.iter().map(share))
}

/// Rows of a matrix in parts: each part gives those that it has, and zeros for the others.
pub(crate) fn select(parts: &[Tensor<2>], ids: &Tensor<1, Int>) -> Tensor<2> {
    if let [part] = parts {
        return part.clone().select(0, ids.clone());
    }
    let mut start = 0;
    let share = |part: &Tensor<2>| {
        let rows = part.dims()[0] as i64;
        let own = ids.clone().sub_scalar(start);
        start += rows;
        let elsewhere = own.clone().lower_elem(0).bool_or(own.clone().greater_elem(rows - 1));
        let selected = part.clone().select(0, own.clamp(0, rows - 1));
        selected.mask_fill(elsewhere.unsqueeze_dim::<2>(1).expand([ids.dims()[0], part.dims()[1]]), 0.0)
    };
    sum(parts.iter().map(share))
}

/// Tensors side by side (1) or one below the other (0); one alone is not copied.
pub(crate) fn joined(mut tensors: Vec<Tensor<2>>, dim: usize) -> Tensor<2> {
    if tensors.len() == 1 { tensors.remove(0) } else { Tensor::cat(tensors, dim) }
}

fn sum(shares: impl Iterator<Item = Tensor<2>>) -> Tensor<2> {
    shares.reduce(|sum, share| sum + share).unwrap_or_else(|| unreachable!("a matrix has a part"))
}

/// Rows of a matrix [out, in] of `dtype` that a tensor of at most `most` bytes holds; `None` where it holds them all.
pub fn rows_within(most: u64, [out, input]: [usize; 2], dtype: DType) -> Option<usize> {
    let row = (input * dtype.size()) as u64;
    (row * out as u64 > most).then(|| (most / row.max(1)).max(1) as usize)
}

/// Bytes of the largest tensor that a device holds; `None` where memory alone is the limit.
pub fn max_tensor_bytes(device: &Device) -> Option<u64> {
    match device.as_dispatch() {
        #[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
        DispatchDevice::Cube(cube) => Some(cube.client().properties().memory.max_page_size),
        DispatchDevice::Flex(_) => None,
        #[allow(unreachable_patterns, reason = "the devices of a build are its features'")]
        _ => None,
    }
}
