use burn::tensor::{DType, Tensor};

/// `y = x W^T + bias`.
///
/// The one place where a checkpoint's `[out, in]` meets the product's `[in, out]`: the transpose is a view.
/// The product runs in the weight's dtype; what goes in and comes out is f32.
///
/// # Shapes
/// `x` [n, in] in f32, `weight` [out, in], `bias` [out]; returns [n, out] in f32.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let dtype = weight.dtype();
    let y = if dtype == DType::F32 {
        x.matmul(weight.transpose())
    } else {
        x.cast(dtype).matmul(weight.transpose()).cast(DType::F32)
    };
    match bias {
        Some(bias) => y + bias.cast(DType::F32).unsqueeze::<2>(),
        None => y,
    }
}

/// `y = s (x A^T) B^T` ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)).
///
/// Contracted to rank r first, forward and backward: neither `B A` nor its gradient is ever formed.
///
/// # Shapes
/// `x` [n, in], `a` [r, in], `b` [out, r]; returns [n, out].
pub fn low_rank(x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    x.matmul(a.transpose()).mul_scalar(scale).matmul(b.transpose())
}

/// `||W + s B A||` of each row, without forming the sum: the row's squared norm is
/// `|w|^2 + 2 s (A w) . b + s^2 b^T (A A^T) b`.
///
/// # Shapes
/// `weight` [out, in], `a` [r, in], `b` [out, r]; returns [out] in f32.
pub fn dora_row_norm(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<1> {
    let weight = weight.cast(DType::F32);
    let square = weight.clone().square().sum_dim(1); // [out, 1]
    let cross = (weight.matmul(a.clone().transpose()) * b.clone()).sum_dim(1); // [out, 1]
    let gram = a.clone().matmul(a.transpose()); // [r, r]
    let update = (b.clone().matmul(gram) * b).sum_dim(1); // [out, 1]
    (square + cross.mul_scalar(2.0 * scale) + update.mul_scalar(scale * scale))
        .clamp_min(0.0)
        .sqrt()
        .squeeze_dim(1)
}
