//! The operations on the CPU in f32, each with its backward written by hand.

mod attention;
mod frozen;
mod graph;
mod head;
mod host;
mod linears;
mod norm;
mod rotary;
mod spec;
mod swiglu;

pub use frozen::FrozenProduct;
pub(crate) use graph::FusedOps;
pub use head::HEAD_LOGITS;
pub(crate) use head::Head;
pub(crate) use host::Host;
pub use spec::Keep;
pub(crate) use spec::{AttentionSpec, FrozenLayer, FrozenNorm, HeldWeight, LinearsSpec, MlpSpec};
