//! What a coarse operation is made of beside its inputs: the frozen weights, and how they are used.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;

use super::attention::{self, GradientLayout, Inputs};
use super::frozen::FrozenProduct;
use super::host::{Host, tensor};
use super::linears::{Layer, Linears, Update, UpdateGradient};
use super::rotary::Turn;
use super::swiglu::GateUp;
use super::{norm, rotary, swiglu};
use crate::kernel::{InstructionSet, QuantWeight, Values, Write, fresh, with_crew};
use crate::layout::{Angles, Attended};
use crate::streamed::{StreamedWeight, Way};

/// A frozen layer; its update is an input of the operation.
#[derive(Debug, Clone)]
pub(crate) struct FrozenLayer {
    pub(crate) weight: HeldWeight,
    pub(crate) bias: Option<Host>,
    /// The update's scale, if it has one.
    pub(crate) scale: Option<f32>,
    pub(crate) product: FrozenProduct,
}

/// A frozen weight as it is held.
#[derive(Debug, Clone)]
pub(crate) enum HeldWeight {
    Dense(Host),
    Quantised(Arc<QuantWeight>),
    Streamed(Arc<StreamedWeight>),
}

impl HeldWeight {
    fn held(&self) -> Values<'_> {
        match self {
            Self::Dense(host) => host.held(),
            Self::Quantised(weight) => Values::Quantised { weight, start: 0 },
            Self::Streamed(weight) => weight.values(),
        }
    }

    fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(host) => host.dims(),
            Self::Quantised(weight) => weight.dims(),
            Self::Streamed(weight) => weight.dims(),
        }
    }
}

/// Layers while an operation reads their weights: those one layer on are asked for at the beginning, and what was read
/// from files is given back at the end.
struct InUse<'a>(&'a [FrozenLayer]);

impl<'a> InUse<'a> {
    fn new(layers: &'a [FrozenLayer], way: Way) -> Self {
        Self::streamed(layers).for_each(|weight| weight.prefetch(way));
        Self(layers)
    }

    fn streamed(layers: &[FrozenLayer]) -> impl Iterator<Item = &StreamedWeight> {
        layers.iter().filter_map(|layer| match &layer.weight {
            HeldWeight::Streamed(weight) => Some(weight.as_ref()),
            HeldWeight::Dense(_) | HeldWeight::Quantised(_) => None,
        })
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        Self::streamed(self.0).for_each(StreamedWeight::release);
    }
}

/// A frozen norm.
#[derive(Debug, Clone)]
pub(crate) struct FrozenNorm {
    pub(crate) weight: Host,
    pub(crate) eps: f32,
}

impl FrozenNorm {
    fn forward(&self, set: InstructionSet, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        norm::forward(set, x, self.weight.values(), self.eps)
    }

    fn again(&self, set: InstructionSet, x: &[f32], inverse: &[f32]) -> Vec<f32> {
        norm::again(set, x, self.weight.values(), inverse)
    }

    fn backward(&self, set: InstructionSet, x: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32], write: Write<'_>) {
        norm::backward_input(set, x, self.weight.values(), inverse, dy, dx, write);
    }
}

/// `[residual +] layers([norm](x))`, side by side.
#[derive(Debug, Clone)]
pub(crate) struct LinearsSpec {
    pub(crate) norm: Option<FrozenNorm>,
    pub(crate) layers: Vec<FrozenLayer>,
    pub(crate) residual: bool,
    pub(crate) set: InstructionSet,
}

/// What a backward pass needs of the forward one.
#[derive(Debug, Clone)]
pub(crate) struct LinearsSaved {
    /// `1 / rms` of each row, where there is a norm.
    inverse: Vec<f32>,
    /// `s x A^T` of each layer, side by side.
    parts: Vec<f32>,
}

/// The layers with their updates, as the kernels take them.
fn layers<'a>(frozen: &'a [FrozenLayer], updates: &'a [[Host; 2]]) -> Vec<Layer<'a>> {
    let layer = |(frozen, [a, b]): (&'a FrozenLayer, &'a [Host; 2])| Layer {
        weight: frozen.weight.held(),
        bias: frozen.bias.as_ref().map(Host::held),
        update: frozen.scale.map(|scale| Update { a: a.values(), b: b.values(), scale, r: a.dims()[0] }),
        product: &frozen.product,
        out: frozen.weight.dims()[0],
    };
    frozen.iter().zip(updates).map(layer).collect()
}

fn linears<'a>(set: InstructionSet, frozen: &[FrozenLayer], layers: &'a [Layer<'a>]) -> Linears<'a> {
    Linears { layers, input: frozen[0].weight.dims()[1], set }
}

impl LinearsSpec {
    pub(crate) fn forward(&self, x: &Host, residual: &Host, updates: &[[Host; 2]]) -> (FlexTensor, LinearsSaved) {
        let _in_use = InUse::new(&self.layers, Way::Forward);
        with_crew(|| {
            let layers = layers(&self.layers, updates);
            let linears = linears(self.set, &self.layers, &layers);
            let residual = self.residual.then(|| residual.values());
            let normed = self.norm.as_ref().map(|norm| norm.forward(self.set, x.values()));
            let input = normed.as_ref().map_or(x.values(), |(h, _)| h);
            let (y, parts) = linears.forward(input, residual);
            let inverse = normed.map_or_else(Vec::new, |(_, inverse)| inverse);
            (tensor(y, [x.dims()[0], linears.width()]), LinearsSaved { inverse, parts })
        })
    }

    /// `dx` if it is asked for, and the updates' gradients. The normed input is computed again.
    pub(crate) fn backward(
        &self,
        x: &Host,
        updates: &[[Host; 2]],
        saved: &LinearsSaved,
        dy: &Host,
        wants_x: bool,
    ) -> (Option<FlexTensor>, Vec<UpdateGradient>) {
        let _in_use = InUse::new(&self.layers, Way::Back);
        with_crew(|| {
            let layers = layers(&self.layers, updates);
            let linears = linears(self.set, &self.layers, &layers);
            let again = self.norm.as_ref().map(|norm| norm.again(self.set, x.values(), &saved.inverse));
            let input = again.as_deref().unwrap_or(x.values());
            // SAFETY: the product sets every row.
            let mut dx = unsafe { fresh(if wants_x { input.len() } else { 0 }) };
            let into = wants_x.then_some((dx.as_mut_slice(), Write::Set));
            let found = linears.backward(input, &saved.parts, dy.values(), into);
            if !wants_x {
                return (None, found);
            }
            let dx = match &self.norm {
                None => dx,
                Some(norm) => {
                    // SAFETY: the norm's backward pass sets every row.
                    let mut through = unsafe { fresh(dx.len()) };
                    norm.backward(self.set, x.values(), &saved.inverse, &dx, &mut through, Write::Set);
                    through
                }
            };
            (Some(tensor(dx, x.shape())), found)
        })
    }
}

/// `x + o(attention(turned(q(norm(x))), turned(k(norm(x))), v(norm(x))))`; the layers in the order q, k, v, o.
#[derive(Debug, Clone)]
pub(crate) struct AttentionSpec {
    pub(crate) norm: FrozenNorm,
    pub(crate) layers: [FrozenLayer; 4],
    pub(crate) angles: Angles,
    pub(crate) attended: Attended,
    pub(crate) keep: Keep,
    pub(crate) set: InstructionSet,
}

/// What half a decoder layer keeps of its forward pass for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// What it would have to compute again with products.
    #[default]
    Intermediates,
    /// Its input alone; the rest is computed again, to the bit
    /// ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)).
    Input,
}

/// What a backward pass needs of the forward one; the normed input is computed again.
#[derive(Debug, Clone)]
pub(crate) struct AttentionSaved {
    /// `1 / rms` of each row.
    inverse: Vec<f32>,
    /// [n, (h + 2 k) * e], queries and keys turned.
    qkv: Arc<Vec<f32>>,
    /// `s x A^T` of q, k and v, side by side.
    parts: Vec<f32>,
    /// The attention's output [n, h * e].
    y: Arc<Vec<f32>>,
    /// [b, h, t].
    lse: Vec<f32>,
    /// `s x A^T` of o.
    o_parts: Vec<f32>,
}

impl AttentionSpec {
    pub(crate) fn forward(&self, x: &Host, updates: &[[Host; 2]; 4]) -> (FlexTensor, AttentionSaved) {
        let _in_use = InUse::new(&self.layers, Way::Forward);
        with_crew(|| {
            let layers = layers(&self.layers, updates);
            let saved = self.until_o(x, &layers);
            let o = linears(self.set, &self.layers[3..], &layers[3..]);
            let (out, o_parts) = o.forward(&saved.y, Some(x.values()));
            (tensor(out, x.shape()), AttentionSaved { o_parts, ..saved })
        })
    }

    /// What the forward pass gave, but for its result.
    pub(crate) fn again(&self, x: &Host, updates: &[[Host; 2]; 4]) -> AttentionSaved {
        let _in_use = InUse::new(&self.layers, Way::Back);
        with_crew(|| {
            let layers = layers(&self.layers, updates);
            let saved = self.until_o(x, &layers);
            let o_parts = linears(self.set, &self.layers[3..], &layers[3..]).parts(&saved.y);
            AttentionSaved { o_parts, ..saved }
        })
    }

    fn until_o(&self, x: &Host, layers: &[Layer<'_>]) -> AttentionSaved {
        let Self { norm, angles, attended, set, .. } = self;
        let (h, inverse) = norm.forward(*set, x.values());
        let three = linears(*set, &self.layers, &layers[..3]);
        let (mut qkv, parts) = three.forward(&h, None);
        drop(h);
        rotary::rotate(*set, &mut qkv, three.width(), self.turning(), angles, Turn::Forward);
        let inputs = Inputs::side_by_side(&qkv, attended, 2 * angles.half());
        let (y, lse) = attention::forward(*set, &inputs, attended);
        AttentionSaved { inverse, qkv: Arc::new(qkv), parts, y: Arc::new(y), lse, o_parts: Vec::new() }
    }

    /// `dx` if it is asked for, and the updates' gradients.
    pub(crate) fn backward(
        &self,
        x: &Host,
        updates: &[[Host; 2]; 4],
        saved: &AttentionSaved,
        mut dy: Host,
        wants_x: bool,
    ) -> (Option<FlexTensor>, Vec<UpdateGradient>) {
        let _in_use = InUse::new(&self.layers, Way::Back);
        with_crew(|| {
            let Self { norm, angles, attended, set, .. } = self;
            let layers = layers(&self.layers, updates);
            let three = linears(*set, &self.layers, &layers[..3]);
            // SAFETY: the product sets every row.
            let mut dout = unsafe { fresh(saved.y.len()) };
            let o = linears(*set, &self.layers[3..], &layers[3..]);
            let of_o = o.backward(&saved.y, &saved.o_parts, dy.values(), Some((&mut dout, Write::Set)));
            let inputs = Inputs::side_by_side(&saved.qkv, attended, 2 * angles.half());
            let kept = attention::Saved { y: &saved.y, lse: &saved.lse };
            let mut found = attention::backward(*set, &inputs, &kept, &dout, attended, GradientLayout::SideBySide);
            drop(dout);
            let mut dqkv = found.pop().unwrap_or_default();
            rotary::rotate(*set, &mut dqkv, three.width(), self.turning(), angles, Turn::Back);
            let h = norm.again(*set, x.values(), &saved.inverse);
            // SAFETY: the product sets every row.
            let mut dh = unsafe { fresh(if wants_x { h.len() } else { 0 }) };
            let into = wants_x.then_some((dh.as_mut_slice(), Write::Set));
            let mut found = three.backward(&h, &saved.parts, &dqkv, into);
            found.extend(of_o);
            if !wants_x {
                return (None, found);
            }
            // The residual's gradient is `dy` itself.
            norm.backward(*set, x.values(), &saved.inverse, &dh, dy.values_mut(), Write::Add);
            (Some(dy.tensor()), found)
        })
    }

    /// The columns of queries and keys.
    fn turning(&self) -> usize {
        (self.attended.heads + self.attended.groups) * 2 * self.angles.half()
    }
}

/// `x + down(silu(gate(norm(x))) * up(norm(x)))`; the layers in the order gate, up, down.
#[derive(Debug, Clone)]
pub(crate) struct MlpSpec {
    pub(crate) norm: FrozenNorm,
    pub(crate) layers: [FrozenLayer; 3],
    pub(crate) keep: Keep,
    pub(crate) set: InstructionSet,
}

/// What a backward pass needs of the forward one; the normed input and the gated product are computed again.
#[derive(Debug, Clone)]
pub(crate) struct MlpSaved {
    /// `1 / rms` of each row.
    inverse: Vec<f32>,
    /// [n, 2 f], gate before up.
    gate_up: Arc<Vec<f32>>,
    /// `s x A^T` of gate and up, side by side.
    parts: Vec<f32>,
    /// `s x A^T` of down.
    down_parts: Vec<f32>,
}

impl MlpSpec {
    pub(crate) fn forward(&self, x: &Host, updates: &[[Host; 2]; 3]) -> (FlexTensor, MlpSaved) {
        let _in_use = InUse::new(&self.layers, Way::Forward);
        with_crew(|| {
            let layers = layers(&self.layers, updates);
            let (saved, act) = self.until_down(x, &layers);
            let down = linears(self.set, &self.layers[2..], &layers[2..]);
            let (y, down_parts) = down.forward(&act, Some(x.values()));
            (tensor(y, x.shape()), MlpSaved { down_parts, ..saved })
        })
    }

    /// What the forward pass gave, but for its result.
    pub(crate) fn again(&self, x: &Host, updates: &[[Host; 2]; 3]) -> MlpSaved {
        let _in_use = InUse::new(&self.layers, Way::Back);
        with_crew(|| {
            let layers = layers(&self.layers, updates);
            let (saved, act) = self.until_down(x, &layers);
            let down_parts = linears(self.set, &self.layers[2..], &layers[2..]).parts(&act);
            MlpSaved { down_parts, ..saved }
        })
    }

    /// With the gated product.
    fn until_down(&self, x: &Host, layers: &[Layer<'_>]) -> (MlpSaved, Vec<f32>) {
        let (h, inverse) = self.norm.forward(self.set, x.values());
        let (gate_up, parts) = linears(self.set, &self.layers, &layers[..2]).forward(&h, None);
        let act = swiglu::forward(self.set, GateUp::side_by_side(&gate_up, layers[0].out), x.dims()[0]);
        (MlpSaved { inverse, gate_up: Arc::new(gate_up), parts, down_parts: Vec::new() }, act)
    }

    /// `dx` if it is asked for, and the updates' gradients.
    pub(crate) fn backward(
        &self,
        x: &Host,
        updates: &[[Host; 2]; 3],
        saved: &MlpSaved,
        mut dy: Host,
        wants_x: bool,
    ) -> (Option<FlexTensor>, Vec<UpdateGradient>) {
        let _in_use = InUse::new(&self.layers, Way::Back);
        with_crew(|| {
            let (layers, n) = (layers(&self.layers, updates), x.dims()[0]);
            let f = layers[0].out;
            let gate_up = GateUp::side_by_side(&saved.gate_up, f);
            let act = swiglu::forward(self.set, gate_up, n);
            let down = linears(self.set, &self.layers[2..], &layers[2..]);
            // SAFETY: the product sets every row.
            let mut dact = unsafe { fresh(n * f) };
            let into = Some((dact.as_mut_slice(), Write::Set));
            let of_down = down.backward(&act, &saved.down_parts, dy.values(), into);
            drop(act);
            let dgate_up = swiglu::backward(self.set, gate_up, &dact);
            drop(dact);
            let h = self.norm.again(self.set, x.values(), &saved.inverse);
            // SAFETY: the product sets every row.
            let mut dh = unsafe { fresh(if wants_x { h.len() } else { 0 }) };
            let into = wants_x.then_some((dh.as_mut_slice(), Write::Set));
            let both = linears(self.set, &self.layers, &layers[..2]);
            let mut found = both.backward(&h, &saved.parts, &dgate_up, into);
            found.extend(of_down);
            if !wants_x {
                return (None, found);
            }
            // The residual's gradient is `dy` itself.
            self.norm.backward(self.set, x.values(), &saved.inverse, &dh, dy.values_mut(), Write::Add);
            (Some(dy.tensor()), found)
        })
    }
}
