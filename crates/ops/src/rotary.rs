use burn::tensor::{Device, Tensor, TensorData};

/// Cosines and sines of the rotary angles `position * frequency`
/// ([Su et al. 2021](https://arxiv.org/abs/2104.09864)), in the rotate-half layout of Hugging Face checkpoints.
///
/// Computed on the host for the positions at hand: a table of a long context would outweigh a small model.
///
/// # Shapes
/// `frequencies` e / 2 values, `position_ids` [rows * t]; returns cos and sin, both [rows, 1, t, e].
pub fn rotary_angles(
    frequencies: &[f32],
    position_ids: &[u32],
    rows: usize,
    device: &Device,
) -> (Tensor<4>, Tensor<4>) {
    let width = 2 * frequencies.len();
    let mut cos = Vec::with_capacity(position_ids.len() * width);
    let mut sin = Vec::with_capacity(position_ids.len() * width);
    for &position in position_ids {
        let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
        for angle in angles.clone().chain(angles) {
            let (s, c) = angle.sin_cos();
            cos.push(c);
            sin.push(s);
        }
    }
    let shape = [rows, 1, position_ids.len() / rows, width];
    (
        Tensor::from_data(TensorData::new(cos, shape), device),
        Tensor::from_data(TensorData::new(sin, shape), device),
    )
}

/// `y = x cos + rotate_half(x) sin` (`apply_rotary_pos_emb` in transformers).
///
/// # Shapes
/// `x` [b, h, t, e], `cos` and `sin` [b, 1, t, e]; returns [b, h, t, e].
pub fn apply_rotary(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let first = x.clone().narrow(3, 0, half);
    let second = x.clone().narrow(3, half, half);
    let rotated = Tensor::cat(vec![second.neg(), first], 3);
    x * cos + rotated * sin
}
