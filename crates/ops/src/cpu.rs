//! Kernels for f32 on the CPU, each with its backward written by hand.

mod attention;
mod head;
mod low_rank;
mod math;
mod matrix;
mod norm;
mod rotary;
mod swiglu;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Shape};

pub(crate) use head::head_loss_and_gradient;

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
    /// See [`crate::low_rank_linear`].
    fn low_rank_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        let (x, weight) = (Host::from(x), Host::from(weight));
        let (y, _) = norm::forward(x.values(), weight.values(), eps as f32);
        tensor(y, x.shape())
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (Host::from(gate), Host::from(up));
        tensor(swiglu::forward(gate.values(), up.values()), gate.shape())
    }

    fn rotary(x: FlexTensor, angles: Angles) -> FlexTensor {
        let x = Host::from(x);
        tensor(rotary::rotate(x.values(), &angles, rotary::Turn::Forward), x.shape())
    }

    fn attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, attended: Attended) -> FlexTensor {
        let (q, k, v) = (Host::from(q), Host::from(k), Host::from(v));
        let (y, _) = attention::forward(q.values(), k.values(), v.values(), &attended);
        tensor(y, q.shape())
    }

    fn low_rank_linear(x: FlexTensor, weight: FlexTensor, a: FlexTensor, b: FlexTensor, scale: f64) -> FlexTensor {
        let (x, weight, a, b) = (Host::from(x), Host::from(weight), Host::from(a), Host::from(b));
        let (y, _) = low_rank::forward(&x, &weight, &a, &b, scale as f32);
        y
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct RmsNorm;
        impl Backward<Flex, 2> for RmsNorm {
            type State = (Host, Host, Vec<f32>);
            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (x, weight, inverse) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let [x_node, weight_node] = ops.parents;
                if let Some(node) = weight_node {
                    let dw = norm::backward_weight(x.values(), &inverse, dy.values(), weight.values().len());
                    gradients.register::<Flex>(node.id, tensor(dw, weight.shape()));
                }
                if let Some(node) = x_node {
                    let dx = norm::backward_input(x.values(), weight.values(), &inverse, dy.values());
                    gradients.register::<Flex>(node.id, tensor(dx, x.shape()));
                }
            }
        }
        match RmsNorm.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (Host::from(x.into_primitive()), Host::from(weight.into_primitive()));
                let (y, inverse) = norm::forward(x.values(), weight.values(), eps as f32);
                let y = tensor(y, x.shape());
                prep.finish((x, weight, inverse), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::rms_norm(x.into_primitive(), weight.into_primitive(), eps)),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Swiglu;
        impl Backward<Flex, 2> for Swiglu {
            type State = (Host, Host);
            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (gate, up) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let (dgate, dup) = swiglu::backward(gate.values(), up.values(), dy.values());
                let [gate_node, up_node] = ops.parents;
                if let Some(node) = gate_node {
                    gradients.register::<Flex>(node.id, tensor(dgate, gate.shape()));
                }
                if let Some(node) = up_node {
                    gradients.register::<Flex>(node.id, tensor(dup, up.shape()));
                }
            }
        }
        match Swiglu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (gate, up) = (Host::from(gate.into_primitive()), Host::from(up.into_primitive()));
                let y = tensor(swiglu::forward(gate.values(), up.values()), gate.shape());
                prep.finish((gate, up), y)
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
                    let dx = rotary::rotate(dy.values(), &ops.state, rotary::Turn::Back);
                    gradients.register::<Flex>(node.id, tensor(dx, dy.shape()));
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
            type State = (Host, Host, Host, Host, Vec<f32>, Attended);
            fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (q, k, v, y, lse, attended) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let saved = attention::Saved { q: q.values(), k: k.values(), v: v.values(), y: y.values(), lse: &lse };
                let [dq, dk, dv] = attention::backward(&saved, dy.values(), &attended);
                let shapes = [q.shape(), k.shape(), v.shape()];
                for ((node, gradient), shape) in ops.parents.into_iter().zip([dq, dk, dv]).zip(shapes) {
                    if let Some(node) = node {
                        gradients.register::<Flex>(node.id, tensor(gradient, shape));
                    }
                }
            }
        }
        match Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [q, k, v] = [q, k, v].map(|x| Host::from(x.into_primitive()));
                let (y, lse) = attention::forward(q.values(), k.values(), v.values(), &attended);
                let y = tensor(y, q.shape());
                prep.finish((q, k, v, Host::from(y.clone()), lse, attended), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::attention(q.into_primitive(), k.into_primitive(), v.into_primitive(), attended))
            }
        }
    }

    fn low_rank_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LowRankLinear;
        impl Backward<Flex, 3> for LowRankLinear {
            type State = (low_rank::Saved, f32);
            fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let (saved, scale) = ops.state;
                let dy = Host::from(gradients.consume::<Flex>(&ops.node));
                let [x_node, a_node, b_node] = ops.parents;
                let found = low_rank::backward(&saved, &dy, scale, x_node.is_some());
                for (node, gradient) in [(x_node, found.x), (a_node, Some(found.a)), (b_node, Some(found.b))] {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        gradients.register::<Flex>(node.id, gradient);
                    }
                }
            }
        }
        match LowRankLinear.prepare::<C>([x.node(), a.node(), b.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [x, weight, a, b] = [x, weight, a, b].map(|x| Host::from(x.into_primitive()));
                let (y, hidden) = low_rank::forward(&x, &weight, &a, &b, scale as f32);
                prep.finish((low_rank::Saved { x, weight, a, b, hidden }, scale as f32), y)
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, a, b] = [x, weight, a, b].map(|x| x.into_primitive());
                prep.finish(Flex::low_rank_linear(x, weight, a, b, scale))
            }
        }
    }
}

/// A contiguous f32 tensor whose values can be read.
#[derive(Clone)]
pub(crate) struct Host(FlexTensor);

impl Host {
    /// Row-major values.
    pub(crate) fn values(&self) -> &[f32] {
        self.0.as_slice::<f32>().unwrap_or_else(|| unreachable!("made contiguous in f32"))
    }

    /// Its shape.
    pub(crate) fn shape(&self) -> Shape {
        self.0.layout().shape().clone()
    }

    /// Rows and columns.
    pub(crate) fn dims(&self) -> [usize; 2] {
        let shape = self.0.layout().shape();
        [shape[0], shape[1]]
    }
}

impl From<FlexTensor> for Host {
    fn from(tensor: FlexTensor) -> Self {
        match tensor.as_slice::<f32>() {
            Some(_) => Self(tensor),
            None => Self(tensor.to_contiguous()),
        }
    }
}

/// Short: a module's display would print every value.
impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({:?})", self.0.layout().shape())
    }
}

/// A tensor around values, without a copy.
fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}
