//! One layer of a pre-norm decoder: attention and a gated feed-forward, each added to the residual stream.

use burn::tensor::Tensor;
use rankine_ops::{self as ops, Angles, Attended, Keep, Projection};

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
    /// What each half keeps for its backward pass.
    pub keep: Keep,
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

impl DecoderLayer {
    /// # Shapes
    /// `x` [b * t, d] in f32; returns the same.
    pub fn forward(
        &self,
        x: Tensor<2>,
        angles: &Angles,
        attended: &Attended,
        cache: Option<&mut LayerCache>,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let x = self.self_attn.forward(x, &self.input_layernorm, angles, attended, cache, self.keep, pass);
        self.mlp.forward(x, &self.post_attention_layernorm, self.keep, pass)
    }
}

impl Attention {
    /// `x + o(attention(q(h), k(h), v(h)))` with `h = norm(x)`.
    ///
    /// # Shapes
    /// `x` [b * t, d]; returns the same.
    #[expect(clippy::too_many_arguments, reason = "one node of the graph")]
    pub fn forward(
        &self,
        x: Tensor<2>,
        norm: &RmsNorm,
        angles: &Angles,
        attended: &Attended,
        cache: Option<&mut LayerCache>,
        keep: Keep,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let o_proj = self.o_proj.projection(pass);
        let y = match (self.side_by_side(pass), cache) {
            (Some([q, k, v]), None) if let Some(o) = o_proj.clone() => {
                return ops::attention_layer(x, &norm.operand(pass), &[q, k, v, o], angles, attended, keep);
            }
            (Some(layers), Some(cache)) => {
                let qkv = ops::linears(x.clone(), Some(&norm.operand(pass)), &layers, None); // [b * t, (h + 2 k) * e]
                let (heads, keys) = (attended.heads * self.head_dim, attended.groups * self.head_dim);
                let part = |start: usize, width: usize| qkv.clone().narrow(1, start, width);
                let (q, k, v) = (part(0, heads), part(heads, keys), part(heads + keys, keys));
                let (k, v) = cache.append(ops::rotary(k, angles), v);
                ops::attention(ops::rotary(q, angles), k, v, attended)
            }
            (_, cache) => self.apart(norm.forward(x.clone(), pass), angles, attended, cache, pass),
        };
        match o_proj {
            Some(o_proj) => ops::linears(y, None, &[o_proj], Some(x)),
            None => x + self.o_proj.forward(y, pass),
        }
    }

    /// The three projections for one operation, where all of them can be and nothing comes before the rotation.
    fn side_by_side(&self, pass: &Pass) -> Option<[Projection; 3]> {
        if self.q_norm.is_some() || self.k_norm.is_some() {
            return None;
        }
        Some([self.q_proj.projection(pass)?, self.k_proj.projection(pass)?, self.v_proj.projection(pass)?])
    }

    /// Attention of the normed input, an operation at a time.
    fn apart(
        &self,
        h: Tensor<2>,
        angles: &Angles,
        attended: &Attended,
        cache: Option<&mut LayerCache>,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let mut q = self.q_proj.forward(h.clone(), pass); // [b * t, h * e]
        let mut k = self.k_proj.forward(h.clone(), pass); // [b * t, k * e]
        let v = self.v_proj.forward(h, pass); // [b * t, k * e]
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            q = self.each_head(q, q_norm, pass);
            k = self.each_head(k, k_norm, pass);
        }
        let (q, k) = (ops::rotary(q, angles), ops::rotary(k, angles));
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        ops::attention(q, k, v, attended)
    }

    /// [n, heads * e], normed over each head's `e` values.
    fn each_head(&self, x: Tensor<2>, norm: &RmsNorm, pass: &Pass) -> Tensor<2> {
        let [n, width] = x.dims();
        let heads = x.reshape([n * width / self.head_dim, self.head_dim]);
        norm.forward(heads, pass).reshape([n, width])
    }
}

impl Mlp {
    /// `x + down(silu(gate(h)) * up(h))` with `h = norm(x)`.
    ///
    /// # Shapes
    /// `x` [n, d]; returns the same.
    pub fn forward(&self, x: Tensor<2>, norm: &RmsNorm, keep: Keep, pass: &mut Pass) -> Tensor<2> {
        let layers = (self.gate_proj.projection(pass), self.up_proj.projection(pass), self.down_proj.projection(pass));
        if let (Some(gate), Some(up), Some(down)) = layers {
            return ops::mlp(x, &norm.operand(pass), [&gate, &up, &down], keep);
        }
        let h = norm.forward(x.clone(), pass);
        let gate = self.gate_proj.forward(h.clone(), pass);
        let up = self.up_proj.forward(h, pass);
        x + self.down_proj.forward(ops::swiglu(gate, up), pass)
    }
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
