//! Keys and values of the tokens that were already seen, for generation.

use burn::tensor::Tensor;

/// The cache of one attention layer, in one sequence.
#[derive(Debug, Clone, Default)]
pub struct LayerCache {
    buffers: Option<(Tensor<2>, Tensor<2>)>, // [capacity, k * e] each
    length: usize,
}

/// Tokens that a buffer grows by at least: growing copies it whole.
const STEP: usize = 128;

impl LayerCache {
    /// Adds new keys and values and returns all of them.
    ///
    /// # Shapes
    /// `k` and `v` [t, k * e]; returns both as [s, k * e].
    pub fn append(&mut self, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let [new, width] = k.dims();
        let length = self.length + new;
        let (keys, values) = match self.buffers.take() {
            Some((keys, values)) if keys.dims()[0] >= length => (keys, values),
            held => {
                let capacity = length.next_multiple_of(STEP).max(2 * self.length);
                let wider = |held: Option<Tensor<2>>| {
                    let buffer = Tensor::zeros([capacity, width], &k.device());
                    match held {
                        Some(held) => {
                            let seen = held.narrow(0, 0, self.length);
                            buffer.slice_assign([0..self.length, 0..width], seen)
                        }
                        None => buffer,
                    }
                };
                let (keys, values) = held.unzip();
                (wider(keys), wider(values))
            }
        };
        let place = [self.length..length, 0..width];
        let keys = keys.slice_assign(place.clone(), k);
        let values = values.slice_assign(place, v);
        self.length = length;
        let seen = (keys.clone().narrow(0, 0, length), values.clone().narrow(0, 0, length));
        self.buffers = Some((keys, values));
        seen
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}
