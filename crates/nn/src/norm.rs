//! Root-mean-square normalisation.

use burn::tensor::Tensor;
use rankine_ops::{self as ops, Norm};

use crate::parameter::{Parameter, ParameterMut, Parameters, Pass};

/// `y = w * x / sqrt(mean(x^2) + eps)` ([Zhang & Sennrich 2019](https://arxiv.org/abs/1910.07467)).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// `[d]`.
    pub weight: Parameter<1>,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// # Shapes
    /// `x` [n, d]; returns [n, d].
    pub fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        ops::rms_norm(x, self.weight.value(pass), self.eps)
    }

    /// The norm as a part of an operation.
    pub(crate) fn operand(&self, pass: &Pass) -> Norm {
        Norm { weight: self.weight.value(pass), eps: self.eps }
    }
}

impl Parameters for RmsNorm {
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>)) {
        f(&format!("{prefix}.weight"), ParameterMut::Vector(&mut self.weight));
    }
}
