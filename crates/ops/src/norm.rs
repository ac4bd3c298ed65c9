use burn::tensor::Tensor;

/// `y = w * x / sqrt(mean(x^2) + eps)` over the last dimension
/// ([Zhang & Sennrich 2019](https://arxiv.org/abs/1910.07467); `LlamaRMSNorm` in transformers).
///
/// # Shapes
/// `x` [.., d] in f32, `weight` [d]; returns [.., d] in f32.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let mean_square = x.clone().square().mean_dim(D - 1);
    let scale = mean_square.add_scalar(eps).sqrt().recip();
    let weight: Tensor<D> = weight.cast(burn::tensor::DType::F32).unsqueeze();
    x * scale * weight
}
