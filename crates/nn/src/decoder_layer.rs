//! One layer of a pre-norm decoder: attention and a gated feed-forward, each added to the residual stream.

use burn::tensor::Tensor;
use rankine_ops::{self as ops, AttentionMask};

use crate::cache::LayerCache;
use crate::linear::Linear;
use crate::norm::RmsNorm;
use crate::parameter::{ParameterMut, Parameters, Pass};

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`. Field names are the checkpoint's.
#[derive(Debug, Clone)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Before the feed-forward.
    pub post_attention_layernorm: RmsNorm,
    /// The feed-forward.
    pub mlp: Mlp,
}

/// Grouped-query attention with rotary positions.
#[derive(Debug, Clone)]
pub struct Attention {
    /// [h e, d].
    pub q_proj: Linear,
    /// [k e, d].
    pub k_proj: Linear,
    /// [k e, d].
    pub v_proj: Linear,
    /// [d, h e].
    pub o_proj: Linear,
    /// Over each query head's `e` values, before the rotation (Qwen3).
    pub q_norm: Option<RmsNorm>,
    /// Over each key head's `e` values, before the rotation (Qwen3).
    pub k_norm: Option<RmsNorm>,
    /// `h`.
    pub num_attention_heads: usize,
    /// `k`.
    pub num_key_value_heads: usize,
    /// `e`.
    pub head_dim: usize,
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// [f, d].
    pub gate_proj: Linear,
    /// [f, d].
    pub up_proj: Linear,
    /// [d, f].
    pub down_proj: Linear,
}

/// Where the tokens of a pass stand: shared by all layers.
#[derive(Debug, Clone)]
pub struct Places {
    /// Rows `b` of the batch.
    pub rows: usize,
    /// [b, 1, t, e].
    pub cos: Tensor<4>,
    /// [b, 1, t, e].
    pub sin: Tensor<4>,
}

impl DecoderLayer {
    /// # Shapes
    /// `x` [b * t, d] in f32; returns the same.
    pub fn forward(
        &self,
        x: Tensor<2>,
        places: &Places,
        mask: Option<&AttentionMask>,
        cache: Option<&mut LayerCache>,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let normed = self.input_layernorm.forward(x.clone(), pass);
        let x = x + self.self_attn.forward(normed, places, mask, cache, pass);
        let normed = self.post_attention_layernorm.forward(x.clone(), pass);
        x + self.mlp.forward(normed, pass)
    }
}

impl Attention {
    /// # Shapes
    /// `x` [b * t, d]; returns the same.
    pub fn forward(
        &self,
        x: Tensor<2>,
        places: &Places,
        mask: Option<&AttentionMask>,
        cache: Option<&mut LayerCache>,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let [n, _] = x.dims();
        let (h, e) = (self.num_attention_heads, self.head_dim);
        let mut q = split_heads(self.q_proj.forward(x.clone(), pass), places.rows, h);
        let mut k = split_heads(self.k_proj.forward(x.clone(), pass), places.rows, self.num_key_value_heads);
        let v = split_heads(self.v_proj.forward(x, pass), places.rows, self.num_key_value_heads);
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            q = q_norm.forward(q, pass);
            k = k_norm.forward(k, pass);
        }
        let q = ops::apply_rotary(q, places.cos.clone(), places.sin.clone());
        let k = ops::apply_rotary(k, places.cos.clone(), places.sin.clone());
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let mixed = ops::attention(q, k, v, mask, 1.0 / (e as f64).sqrt()); // [b, h, t, e]
        self.o_proj.forward(mixed.swap_dims(1, 2).reshape([n, h * e]), pass)
    }
}

impl Mlp {
    /// # Shapes
    /// `x` [n, d]; returns the same.
    pub fn forward(&self, x: Tensor<2>, pass: &mut Pass) -> Tensor<2> {
        let gate = self.gate_proj.forward(x.clone(), pass);
        let up = self.up_proj.forward(x, pass);
        self.down_proj.forward(ops::swiglu(gate, up), pass)
    }
}

/// [b * t, heads * e] to [b, heads, t, e].
fn split_heads(x: Tensor<2>, rows: usize, heads: usize) -> Tensor<4> {
    let [n, width] = x.dims();
    x.reshape([rows, n / rows, heads, width / heads]).swap_dims(1, 2)
}

impl DecoderLayer {
    /// Every linear layer with its path below the layer, in the order of the forward pass.
    pub fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 7] {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        [
            ("self_attn.q_proj", &mut attention.q_proj),
            ("self_attn.k_proj", &mut attention.k_proj),
            ("self_attn.v_proj", &mut attention.v_proj),
            ("self_attn.o_proj", &mut attention.o_proj),
            ("mlp.gate_proj", &mut mlp.gate_proj),
            ("mlp.up_proj", &mut mlp.up_proj),
            ("mlp.down_proj", &mut mlp.down_proj),
        ]
    }
}

impl Parameters for DecoderLayer {
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>)) {
        self.input_layernorm.visit(&format!("{prefix}.input_layernorm"), f);
        for (name, linear) in self.linears_mut() {
            linear.visit(&format!("{prefix}.{name}"), f);
        }
        if let Some(norm) = &mut self.self_attn.q_norm {
            norm.visit(&format!("{prefix}.self_attn.q_norm"), f);
        }
        if let Some(norm) = &mut self.self_attn.k_norm {
            norm.visit(&format!("{prefix}.self_attn.k_norm"), f);
        }
        self.post_attention_layernorm.visit(&format!("{prefix}.post_attention_layernorm"), f);
    }
}
