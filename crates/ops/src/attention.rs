use burn::tensor::{Bool, Device, Tensor, TensorData, activation::softmax};

/// Which keys a query may not see: those of another document, those after it, those behind the window.
#[derive(Debug, Clone)]
pub struct AttentionMask {
    blocked: Tensor<4, Bool>, // [b or 1, 1, t, s]
}

impl AttentionMask {
    /// The mask of a batch of documents laid side by side in rows.
    ///
    /// `segment_ids` names the document of each token (0 is padding, which sees only padding, so that no row of
    /// the softmax is empty). `window` is the number of latest tokens that a query sees, itself included.
    ///
    /// # Shapes
    /// `segment_ids` [rows * length].
    pub fn from_segments(segment_ids: &[u32], rows: usize, window: Option<usize>, device: &Device) -> Self {
        let length = segment_ids.len() / rows;
        let mut blocked = vec![true; rows * length * length];
        for row in 0..rows {
            let segments = &segment_ids[row * length..(row + 1) * length];
            for query in 0..length {
                let first = window.map_or(0, |window| (query + 1).saturating_sub(window));
                let line = &mut blocked[(row * length + query) * length..][..length];
                for key in first..=query {
                    line[key] = segments[key] != segments[query];
                }
            }
        }
        let data = TensorData::new(blocked, [rows, 1, length, length]);
        Self { blocked: Tensor::from_data(data, device) }
    }

    /// The mask of `queries` new tokens after `past` cached ones, in one document.
    /// `None` where nothing is blocked: a single token that sees all.
    pub fn after_cache(past: usize, queries: usize, window: Option<usize>, device: &Device) -> Option<Self> {
        let keys = past + queries;
        if queries == 1 && window.is_none_or(|window| window >= keys) {
            return None;
        }
        let mut blocked = vec![true; queries * keys];
        for query in 0..queries {
            let position = past + query;
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            blocked[query * keys..][first..=position].fill(false);
        }
        let data = TensorData::new(blocked, [1, 1, queries, keys]);
        Some(Self { blocked: Tensor::from_data(data, device) })
    }
}

/// `softmax(scale q k^T + mask) v` with grouped heads: `h / k` query heads share a key/value head
/// ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)). Keys and values are not repeated.
///
/// # Shapes
/// `q` [b, h, t, e], `k` and `v` [b, k, s, e], mask [b or 1, 1, t, s]; returns [b, h, t, e].
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<&AttentionMask>, scale: f64) -> Tensor<4> {
    let [b, h, t, e] = q.dims();
    let [_, groups, s, _] = k.dims();
    let shared = h / groups;
    let q = q.mul_scalar(scale).reshape([b, groups, shared * t, e]);
    let scores = q.matmul(k.transpose()).reshape([b, h, t, s]);
    let scores = match mask {
        // Finite, so that a gradient through a blocked score is 0 and never NaN.
        Some(mask) => scores.mask_fill(mask.blocked.clone().expand([b, h, t, s]), -1e30),
        None => scores,
    };
    let weights = softmax(scores, 3).reshape([b, groups, shared * t, s]);
    weights.matmul(v).reshape([b, h, t, e])
}
