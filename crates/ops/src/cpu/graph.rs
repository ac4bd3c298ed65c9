//! The kernels as nodes of the graph.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};
use burn::tensor::Shape;

use super::attention::{self, GradientLayout, Inputs};
use super::host::{Host, tensor};
use super::linears::UpdateGradient;
use super::rotary::Turn;
use super::spec::{AttentionSaved, AttentionSpec, Keep, LinearsSaved, LinearsSpec, MlpSaved, MlpSpec};
use super::swiglu::GateUp;
use super::{norm, rotary, swiglu};
use crate::kernel::{InstructionSet, Write};
use crate::layout::{Angles, Attended};

/// The operations with a kernel, as the framework dispatches them.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait FusedOps: Backend {
    /// See [`crate::rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    /// See [`crate::swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::rotary`].
    fn rotary(x: FloatTensor<Self>, angles: Angles) -> FloatTensor<Self>;
    /// See [`crate::attention`].
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        attended: Attended,
    ) -> FloatTensor<Self>;
    /// See [`crate::attention_layer`]; what a layer lacks is a tensor without a row that nothing reads.
    #[allow(clippy::too_many_arguments, reason = "a node has as many parents")]
    fn attention_layer(
        x: FloatTensor<Self>,
        a_q: FloatTensor<Self>,
        b_q: FloatTensor<Self>,
        a_k: FloatTensor<Self>,
        b_k: FloatTensor<Self>,
        a_v: FloatTensor<Self>,
        b_v: FloatTensor<Self>,
        a_o: FloatTensor<Self>,
        b_o: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self>;
    /// See [`crate::linears`].
    #[allow(clippy::too_many_arguments, reason = "a node has as many parents")]
    fn linears(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        a_1: FloatTensor<Self>,
        b_1: FloatTensor<Self>,
        a_2: FloatTensor<Self>,
        b_2: FloatTensor<Self>,
        a_3: FloatTensor<Self>,
        b_3: FloatTensor<Self>,
        spec: LinearsSpec,
    ) -> FloatTensor<Self>;
    /// See [`crate::mlp`].
    #[allow(clippy::too_many_arguments, reason = "a node has as many parents")]
    fn mlp(
        x: FloatTensor<Self>,
        a_gate: FloatTensor<Self>,
        b_gate: FloatTensor<Self>,
        a_up: FloatTensor<Self>,
        b_up: FloatTensor<Self>,
        a_down: FloatTensor<Self>,
        b_down: FloatTensor<Self>,
        spec: MlpSpec,
    ) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        let (x, weight) = (Host::from(x), Host::from(weight));
        let (y, _) = norm::forward(InstructionSet::current(), x.values(), weight.values(), eps as f32);
        tensor(y, x.shape())
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (Host::from(gate), Host::from(up));
        tensor(swiglu::forward(InstructionSet::current(), apart(&gate, &up), gate.dims()[0]), gate.shape())
    }

    fn rotary(x: FlexTensor, angles: Angles) -> FlexTensor {
        turned(Host::from(x), &angles, Turn::Forward)
    }

    fn attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, attended: Attended) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(Host::from);
        let (y, _) = attention::forward(InstructionSet::current(), &three(&q, &k, &v, &attended), &attended);
        tensor(y, q.shape())
    }

    fn attention_layer(
        x: FlexTensor,
        a_q: FlexTensor,
        b_q: FlexTensor,
        a_k: FlexTensor,
        b_k: FlexTensor,
        a_v: FlexTensor,
        b_v: FlexTensor,
        a_o: FlexTensor,
        b_o: FlexTensor,
        spec: AttentionSpec,
    ) -> FlexTensor {
        let updates = [[a_q, b_q], [a_k, b_k], [a_v, b_v], [a_o, b_o]].map(|pair| pair.map(Host::from));
        spec.forward(&Host::from(x), &updates).0
    }

    fn linears(
        x: FlexTensor,
        residual: FlexTensor,
        a_1: FlexTensor,
        b_1: FlexTensor,
        a_2: FlexTensor,
        b_2: FlexTensor,
        a_3: FlexTensor,
        b_3: FlexTensor,
        spec: LinearsSpec,
    ) -> FlexTensor {
        let updates = [[a_1, b_1], [a_2, b_2], [a_3, b_3]].map(|pair| pair.map(Host::from));
        spec.forward(&Host::from(x), &Host::from(residual), &updates).0
    }

    fn mlp(
        x: FlexTensor,
        a_gate: FlexTensor,
        b_gate: FlexTensor,
        a_up: FlexTensor,
        b_up: FlexTensor,
        a_down: FlexTensor,
        b_down: FlexTensor,
        spec: MlpSpec,
    ) -> FlexTensor {
        let updates = [[a_gate, b_gate], [a_up, b_up], [a_down, b_down]].map(|pair| pair.map(Host::from));
        spec.forward(&Host::from(x), &updates).0
    }
}

/// Turned by the angles, all columns.
fn turned(mut x: Host, angles: &Angles, turn: Turn) -> FlexTensor {
    let [_, width] = x.dims();
    rotary::rotate(InstructionSet::current(), x.values_mut(), width, width, angles, turn);
    x.tensor()
}

fn apart<'a>(gate: &'a Host, up: &'a Host) -> GateUp<'a> {
    let [_, f] = gate.dims();
    GateUp { gate: gate.values(), up: up.values(), stride: f, f }
}

fn three<'a>(q: &'a Host, k: &'a Host, v: &'a Host, attended: &Attended) -> Inputs<'a> {
    let heads = |host: &'a Host| attention::Heads { values: host.values(), stride: host.dims()[1] };
    Inputs { q: heads(q), k: heads(k), v: heads(v), e: q.dims()[1] / attended.heads }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct RmsNorm;
        impl Backward<Flex, 2> for RmsNorm {
            type State = (InstructionSet, Host, Host, Vec<f32>);
            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (set, x, weight, inverse) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let [x_node, weight_node] = ops.parents;
                if let Some(node) = weight_node {
                    let dw = norm::backward_weight(set, x.values(), &inverse, dy.values(), weight.values().len());
                    gradients.register::<Flex>(node.id, tensor(dw, weight.shape()));
                }
                if let Some(node) = x_node {
                    let mut dx = vec![0.0; x.values().len()];
                    let (x_values, weight) = (x.values(), weight.values());
                    norm::backward_input(set, x_values, weight, &inverse, dy.values(), &mut dx, Write::Set);
                    gradients.register::<Flex>(node.id, tensor(dx, x.shape()));
                }
            }
        }
        match RmsNorm.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (Host::from(x.into_primitive()), Host::from(weight.into_primitive()));
                let set = InstructionSet::current();
                let (y, inverse) = norm::forward(set, x.values(), weight.values(), eps as f32);
                let y = tensor(y, x.shape());
                prep.finish((set, x, weight, inverse), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::rms_norm(x.into_primitive(), weight.into_primitive(), eps)),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Swiglu;
        impl Backward<Flex, 2> for Swiglu {
            type State = (InstructionSet, Host, Host);
            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (set, gate, up) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let [_, f] = gate.dims();
                let both = swiglu::backward(set, apart(&gate, &up), dy.values());
                for (node, column) in ops.parents.into_iter().zip([0, f]) {
                    if let Some(node) = node {
                        let own = both.chunks_exact(2 * f).flat_map(|row| &row[column..column + f]).copied().collect();
                        gradients.register::<Flex>(node.id, tensor(own, gate.shape()));
                    }
                }
            }
        }
        match Swiglu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (gate, up) = (Host::from(gate.into_primitive()), Host::from(up.into_primitive()));
                let set = InstructionSet::current();
                let y = tensor(swiglu::forward(set, apart(&gate, &up), gate.dims()[0]), gate.shape());
                prep.finish((set, gate, up), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::swiglu(gate.into_primitive(), up.into_primitive())),
        }
    }

    fn rotary(x: FloatTensor<Self>, angles: Angles) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Rotary;
        impl Backward<Flex, 1> for Rotary {
            type State = Angles;
            fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                if let [Some(node)] = ops.parents {
                    gradients.register::<Flex>(node.id, turned(dy, &ops.state, Turn::Back));
                }
            }
        }
        match Rotary.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = Flex::rotary(x.into_primitive(), angles.clone());
                prep.finish(angles, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::rotary(x.into_primitive(), angles)),
        }
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        attended: Attended,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attention;
        impl Backward<Flex, 3> for Attention {
            type State = (InstructionSet, [Host; 3], Host, Vec<f32>, Attended);
            fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (set, [q, k, v], y, lse, attended) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let saved = attention::Saved { y: y.values(), lse: &lse };
                let inputs = three(&q, &k, &v, &attended);
                let found = attention::backward(set, &inputs, &saved, dy.values(), &attended, GradientLayout::Apart);
                let shapes = [q.shape(), k.shape(), v.shape()];
                for ((node, gradient), shape) in ops.parents.into_iter().zip(found).zip(shapes) {
                    if let Some(node) = node {
                        gradients.register::<Flex>(node.id, tensor(gradient, shape));
                    }
                }
            }
        }
        match Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [q, k, v] = [q, k, v].map(|x| Host::from(x.into_primitive()));
                let set = InstructionSet::current();
                let (y, lse) = attention::forward(set, &three(&q, &k, &v, &attended), &attended);
                let y = tensor(y, q.shape());
                prep.finish((set, [q, k, v], Host::from(y.clone()), lse, attended), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::attention(q.into_primitive(), k.into_primitive(), v.into_primitive(), attended))
            }
        }
    }

    fn attention_layer(
        x: FloatTensor<Self>,
        a_q: FloatTensor<Self>,
        b_q: FloatTensor<Self>,
        a_k: FloatTensor<Self>,
        b_k: FloatTensor<Self>,
        a_v: FloatTensor<Self>,
        b_v: FloatTensor<Self>,
        a_o: FloatTensor<Self>,
        b_o: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct AttentionLayer;
        impl Backward<Flex, 9> for AttentionLayer {
            type State = (AttentionSpec, Host, [[Host; 2]; 4], Option<AttentionSaved>);
            fn backward(self, ops: Ops<Self::State, 9>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (spec, x, updates, saved) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let [x_node, rest @ ..] = ops.parents;
                let saved = saved.unwrap_or_else(|| spec.again(&x, &updates));
                let (dx, found) = spec.backward(&x, &updates, &saved, dy, x_node.is_some());
                if let (Some(node), Some(dx)) = (x_node, dx) {
                    gradients.register::<Flex>(node.id, dx);
                }
                register(gradients, rest.map(|node| node.map(|node| node.id)), found, &updates);
            }
        }
        let parents = [&x, &a_q, &b_q, &a_k, &b_k, &a_v, &b_v, &a_o, &b_o].map(|parent| parent.node());
        let [x, a_q, b_q, a_k, b_k, a_v, b_v, a_o, b_o] =
            [x, a_q, b_q, a_k, b_k, a_v, b_v, a_o, b_o].map(|x| Host::from(x.into_primitive()));
        let updates = [[a_q, b_q], [a_k, b_k], [a_v, b_v], [a_o, b_o]];
        match AttentionLayer.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, saved) = spec.forward(&x, &updates);
                let saved = (spec.keep == Keep::Intermediates).then_some(saved);
                prep.finish((spec, x, updates, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(spec.forward(&x, &updates).0),
        }
    }

    fn linears(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        a_1: FloatTensor<Self>,
        b_1: FloatTensor<Self>,
        a_2: FloatTensor<Self>,
        b_2: FloatTensor<Self>,
        a_3: FloatTensor<Self>,
        b_3: FloatTensor<Self>,
        spec: LinearsSpec,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Linears;
        impl Backward<Flex, 8> for Linears {
            type State = (LinearsSpec, Host, [[Host; 2]; 3], LinearsSaved);
            fn backward(self, ops: Ops<Self::State, 8>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (spec, x, updates, saved) = ops.state;
                let dy = gradients.consume::<Flex>(&ops.node);
                let [x_node, residual_node, rest @ ..] = ops.parents;
                let (dx, found) = spec.backward(&x, &updates, &saved, &Host::from(dy.clone()), x_node.is_some());
                if let (Some(node), Some(dx)) = (x_node, dx) {
                    gradients.register::<Flex>(node.id, dx);
                }
                register(gradients, rest.map(|node| node.map(|node| node.id)), found, &updates);
                if let Some(node) = residual_node {
                    gradients.register::<Flex>(node.id, dy);
                }
            }
        }
        let parents = [&x, &residual, &a_1, &b_1, &a_2, &b_2, &a_3, &b_3].map(|parent| parent.node());
        let [x, residual, a_1, b_1, a_2, b_2, a_3, b_3] =
            [x, residual, a_1, b_1, a_2, b_2, a_3, b_3].map(|x| Host::from(x.into_primitive()));
        let updates = [[a_1, b_1], [a_2, b_2], [a_3, b_3]];
        match Linears.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, saved) = spec.forward(&x, &residual, &updates);
                prep.finish((spec, x, updates, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(spec.forward(&x, &residual, &updates).0),
        }
    }

    fn mlp(
        x: FloatTensor<Self>,
        a_gate: FloatTensor<Self>,
        b_gate: FloatTensor<Self>,
        a_up: FloatTensor<Self>,
        b_up: FloatTensor<Self>,
        a_down: FloatTensor<Self>,
        b_down: FloatTensor<Self>,
        spec: MlpSpec,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Mlp;
        impl Backward<Flex, 7> for Mlp {
            type State = (MlpSpec, Host, [[Host; 2]; 3], Option<MlpSaved>);
            fn backward(self, ops: Ops<Self::State, 7>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (spec, x, updates, saved) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let [x_node, rest @ ..] = ops.parents;
                let saved = saved.unwrap_or_else(|| spec.again(&x, &updates));
                let (dx, found) = spec.backward(&x, &updates, &saved, dy, x_node.is_some());
                if let (Some(node), Some(dx)) = (x_node, dx) {
                    gradients.register::<Flex>(node.id, dx);
                }
                register(gradients, rest.map(|node| node.map(|node| node.id)), found, &updates);
            }
        }
        let parents = [&x, &a_gate, &b_gate, &a_up, &b_up, &a_down, &b_down].map(|parent| parent.node());
        let [x, a_gate, b_gate, a_up, b_up, a_down, b_down] =
            [x, a_gate, b_gate, a_up, b_up, a_down, b_down].map(|x| Host::from(x.into_primitive()));
        let updates = [[a_gate, b_gate], [a_up, b_up], [a_down, b_down]];
        match Mlp.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, saved) = spec.forward(&x, &updates);
                let saved = (spec.keep == Keep::Intermediates).then_some(saved);
                prep.finish((spec, x, updates, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(spec.forward(&x, &updates).0),
        }
    }
}

/// Hands the gradients of updates to their parents, two each.
fn register<const N: usize>(
    gradients: &mut Gradients,
    parents: [Option<NodeId>; N],
    found: Vec<UpdateGradient>,
    updates: &[[Host; 2]],
) {
    let mut parents = parents.into_iter();
    for (gradient, [a, b]) in found.into_iter().zip(updates) {
        let (a_node, b_node) = (parents.next().flatten(), parents.next().flatten());
        let Some((da, db)) = gradient else { continue };
        let shapes: [Shape; 2] = [a.shape(), b.shape()];
        for ((node, gradient), shape) in [(a_node, da), (b_node, db)].into_iter().zip(shapes) {
            if let Some(node) = node {
                gradients.register::<Flex>(node, tensor(gradient, shape));
            }
        }
    }
}
