//! Token embeddings.

use burn::tensor::{DType, Int, Tensor};
use rankine_ops::{SplitWeight, Weight};

use crate::parameter::{Parameter, ParameterMut, Parameters, Pass};

/// A row of the table for each token.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// [v, d].
    pub weight: Table,
    /// A low-rank update of the table.
    pub adapter: Option<LoraEmbedding>,
}

/// An embedding's rows [v, d] as they are held.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one a model")]
pub enum Table {
    /// In one tensor, frozen or trained.
    Whole(Parameter<2>),
    /// Frozen in more than one, since its device holds none so large.
    Split(SplitWeight),
}

impl Table {
    /// As an operation takes it: a tied head.
    pub fn value(&self, pass: &Pass) -> Weight {
        match self {
            Self::Whole(weight) => Weight::Dense(weight.value(pass)),
            Self::Split(weight) => Weight::Split(weight.clone()),
        }
    }

    /// In one tensor outside the graph, which a device may refuse where it was split.
    pub fn plain(&self) -> Tensor<2> {
        match self {
            Self::Whole(weight) => weight.plain(),
            Self::Split(weight) => weight.dense(),
        }
    }

    /// Whether the optimizer moves it.
    pub fn is_trained(&self) -> bool {
        matches!(self, Self::Whole(weight) if weight.is_trained())
    }
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
        let rows = match &self.weight {
            Table::Whole(weight) => weight.value(pass).select(0, ids.clone()),
            Table::Split(weight) => weight.select(&ids),
        };
        let rows = rows.cast(DType::F32);
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
        if let Table::Whole(weight) = &mut self.weight {
            f(&format!("{prefix}.weight"), ParameterMut::Matrix(weight));
        }
        if let Some(lora) = &mut self.adapter {
            f(&format!("{prefix}.lora_embedding_A"), ParameterMut::Matrix(&mut lora.lora_embedding_a));
            f(&format!("{prefix}.lora_embedding_B"), ParameterMut::Matrix(&mut lora.lora_embedding_b));
        }
    }
}
