use burn::tensor::{Tensor, activation::sigmoid};

/// `y = silu(gate) * up` ([Shazeer 2020](https://arxiv.org/abs/2002.05202)).
///
/// # Shapes
/// `gate` and `up` [n, f]; returns [n, f].
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    gate.clone() * sigmoid(gate) * up
}
