//! Token embeddings.

use burn::tensor::{DType, Int, Tensor};

use crate::parameter::{Parameter, ParameterMut, Parameters, Pass};

/// A row of the table for each token.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// [v, d].
    pub weight: Parameter<2>,
    /// A low-rank update of the table.
    pub adapter: Option<LoraEmbedding>,
}

/// `s (A^T)[ids] B^T` (`peft/tuners/lora/layer.py`, `Embedding`). `A = 0` at first.
#[derive(Debug, Clone)]
pub struct LoraEmbedding {
    /// `A` [r, v].
    pub lora_embedding_a: Parameter<2>,
    /// `B` [d, r].
    pub lora_embedding_b: Parameter<2>,
    /// `s`.
    pub scale: f64,
}

impl Embedding {
    /// # Shapes
    /// `ids` `[n]`; returns [n, d] in f32.
    pub fn forward(&self, ids: Tensor<1, Int>, pass: &Pass) -> Tensor<2> {
        let rows = self.weight.value(pass).select(0, ids.clone()).cast(DType::F32);
        match &self.adapter {
            None => rows,
            Some(lora) => {
                let a = lora.lora_embedding_a.value(pass).select(1, ids); // [r, n]
                let b = lora.lora_embedding_b.value(pass);
                rows + a.transpose().matmul(b.transpose()).mul_scalar(lora.scale)
            }
        }
    }
}

impl Parameters for Embedding {
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>)) {
        f(&format!("{prefix}.weight"), ParameterMut::Matrix(&mut self.weight));
        if let Some(lora) = &mut self.adapter {
            f(&format!("{prefix}.lora_embedding_A"), ParameterMut::Matrix(&mut lora.lora_embedding_a));
            f(&format!("{prefix}.lora_embedding_B"), ParameterMut::Matrix(&mut lora.lora_embedding_b));
        }
    }
}
