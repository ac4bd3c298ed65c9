//! Where tokens stand: rotary angles and which keys each query sees. Both on the host, shared by all layers; a device
//! other than the CPU is given them once.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::on_device::OnDevice;

/// Cosines and sines of the rotary angles `position * frequency` of some tokens
/// ([Su et al. 2021](https://arxiv.org/abs/2104.09864)).
///
/// Computed for the positions at hand: a table of a long context would outweigh a small model.
#[derive(Debug, Clone)]
pub struct Angles {
    cos: Arc<[f32]>, // [n, e / 2]
    sin: Arc<[f32]>, // [n, e / 2]
    half: usize,
    tables: OnDevice<(Tensor<3>, Tensor<3>)>,
}

impl Angles {
    /// The angles of `position_ids` (n values) under `frequencies` (e / 2 values, in radians a token).
    pub fn new(frequencies: &[f32], position_ids: &[u32]) -> Self {
        let count = frequencies.len() * position_ids.len();
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for &position in position_ids {
            for &frequency in frequencies {
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c);
                sin.push(s);
            }
        }
        Self { cos: cos.into(), sin: sin.into(), half: frequencies.len(), tables: OnDevice::default() }
    }

    /// Cosines and sines on a device, for both halves of a head: [n, 1, e] each.
    pub(crate) fn tables(&self, device: &Device) -> (Tensor<3>, Tensor<3>) {
        let table = |values: &[f32]| {
            let shape = [values.len() / self.half.max(1), 1, self.half];
            let half: Tensor<3> = Tensor::from_data(TensorData::new(values.to_vec(), shape), device);
            Tensor::cat(vec![half.clone(), half], 2)
        };
        self.tables.get(device, || (table(&self.cos), table(&self.sin)))
    }

    /// [n, e / 2].
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// [n, e / 2].
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// e / 2.
    pub fn half(&self) -> usize {
        self.half
    }
}

/// Which keys each query sees: a range that ends at itself.
///
/// Documents lie side by side, attention is causal and a window only cuts at the front, so that the keys of a query
/// are always contiguous. No mask of t x s is ever stored.
#[derive(Debug, Clone)]
pub struct Attended {
    /// Rows `b`.
    pub rows: usize,
    /// Query tokens of a row, `t`.
    pub queries: usize,
    /// Key tokens of a row, `s`; the first `s - t` were cached.
    pub keys: usize,
    /// Query heads `h`.
    pub heads: usize,
    /// Key/value heads `k`.
    pub groups: usize,
    /// The first key of each query, [b * t].
    pub first: Arc<[u32]>,
    mask: OnDevice<Tensor<4, Bool>>,
}

impl Attended {
    /// Documents laid side by side in rows. `segment_ids` [rows * t] names each token's document (0 is padding, which
    /// sees only padding); `window` is the number of latest tokens that a query sees, itself included.
    pub fn from_segments(segment_ids: &[u32], rows: usize, window: Option<usize>, heads: usize, groups: usize) -> Self {
        let length = segment_ids.len() / rows;
        let mut first = Vec::with_capacity(segment_ids.len());
        for row in segment_ids.chunks_exact(length) {
            let mut start = 0;
            for (query, segment) in row.iter().enumerate() {
                if query > 0 && row[query - 1] != *segment {
                    start = query;
                }
                first.push(start.max(behind(query, window)) as u32);
            }
        }
        Self { rows, queries: length, keys: length, heads, groups, first: first.into(), mask: OnDevice::default() }
    }

    /// New tokens after `past` cached ones, in one document.
    pub fn after_cache(past: usize, queries: usize, window: Option<usize>, heads: usize, groups: usize) -> Self {
        let first = (past..past + queries).map(|position| behind(position, window) as u32).collect();
        Self { rows: 1, queries, keys: past + queries, heads, groups, first, mask: OnDevice::default() }
    }

    /// The keys that query `query` of row `row` sees.
    pub fn range(&self, row: usize, query: usize) -> std::ops::Range<usize> {
        self.first[row * self.queries + query] as usize..self.keys - self.queries + query + 1
    }

    /// `1 / sqrt(e)`.
    pub fn scale(&self, e: usize) -> f64 {
        1.0 / (e as f64).sqrt()
    }

    /// [`Self::blocked`] on a device.
    pub(crate) fn mask(&self, device: &Device) -> Tensor<4, Bool> {
        let shape = [self.rows, 1, self.queries, self.keys];
        self.mask.get(device, || Tensor::from_data(TensorData::new(self.blocked(), shape), device))
    }

    /// The mask as the composed body needs it, [b, 1, t, s]: true where a key is not seen.
    pub fn blocked(&self) -> Vec<bool> {
        let mut blocked = vec![true; self.rows * self.queries * self.keys];
        for (index, line) in blocked.chunks_exact_mut(self.keys).enumerate() {
            line[self.range(index / self.queries, index % self.queries)].fill(false);
        }
        blocked
    }
}

/// The first position within the window that ends at `position`.
fn behind(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}
