//! How the CPU multiplies with a weight that does not change.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Tensor};

use super::host::Host;
use crate::kernel::{
    Compute, InstructionSet, IntegerLeft, IntegerPanels, IntegerRight, IntegerTerm, Left, Order, QuantWeight, Right,
    Term, Values,
};
use crate::on_device::OnDevice;
use crate::packed::PackedWeight;

/// How products with one frozen weight are computed, with what was made of the weight for that.
#[derive(Debug, Clone, Default)]
pub struct FrozenProduct {
    compute: Compute,
    panels: Option<Arc<Panels>>,
    /// A quantised weight on another device than the CPU, once it was brought there.
    packed: OnDevice<PackedWeight>,
}

/// A weight [out, in] in integers, for both passes.
#[derive(Debug)]
struct Panels {
    /// `W^T`: [in, out].
    forward: IntegerPanels,
    /// `W`: [out, in].
    backward: IntegerPanels,
}

impl FrozenProduct {
    /// Rounds the weight, where the way to compute asks for it.
    ///
    /// # Shapes
    /// `weight` [out, in], outside the graph.
    pub fn new(weight: &Tensor<2>, compute: Compute) -> Self {
        let set = InstructionSet::current();
        let on_cpu = matches!(weight.device().as_dispatch(), DispatchDevice::Flex(_));
        let panels = compute.format(set).filter(|_| on_cpu).map(|format| {
            let host = Host::of(weight);
            let [out, input] = host.dims();
            let right = |order| Right::new(host.held(), order, input);
            Arc::new(Panels {
                forward: IntegerPanels::new(set, format, &right(Order::AlongK), input, out),
                backward: IntegerPanels::new(set, format, &right(Order::AcrossColumns), out, input),
            })
        });
        Self { compute, panels, packed: OnDevice::default() }
    }

    /// As [`Self::new`], of a weight that nothing is made of beforehand: one in few bits, or left in its file. Integers
    /// would be the copy of it that is not wanted; what is asked for in them is computed in single precision.
    pub fn as_read(compute: Compute) -> Self {
        let compute = if compute.keeps_integers() { Compute::F32 } else { compute };
        Self { compute, ..Self::default() }
    }

    /// A quantised weight on another device than the CPU; it is brought there once.
    pub(crate) fn packed(&self, weight: &QuantWeight, device: &Device) -> PackedWeight {
        self.packed.get(device, || PackedWeight::new(weight, device))
    }

    /// The way, on the CPU.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// `left W^T`, from output `out` on.
    pub(crate) fn forward<'a>(&'a self, left: &'a Left, weight: Values<'a>, input: usize, out: usize) -> Term<'a> {
        Term::new(left, right(weight, Order::AlongK, input, out)).at(self.compute.precision(left.set))
    }

    /// `left W`, from output `out` on, the outputs being `k` of the left side.
    pub(crate) fn backward<'a>(
        &'a self,
        left: &'a Left,
        k: Range<usize>,
        weight: Values<'a>,
        input: usize,
        out: usize,
    ) -> Term<'a> {
        Term::part(left, k, right(weight, Order::AcrossColumns, input, out)).at(self.compute.precision(left.set))
    }

    /// As [`Self::forward`], in integers.
    pub(crate) fn forward_integers<'a>(
        &'a self,
        left: &'a IntegerLeft,
        weight: Values<'a>,
        input: usize,
        out: usize,
    ) -> IntegerTerm<'a> {
        let made = self.panels.as_ref().map(|panels| (&panels.forward, 0, out));
        in_integers(left, made, right(weight, Order::AlongK, input, out))
    }

    /// As [`Self::backward`] over all of the left side, in integers.
    pub(crate) fn backward_integers<'a>(
        &'a self,
        left: &'a IntegerLeft,
        weight: Values<'a>,
        input: usize,
        out: usize,
    ) -> IntegerTerm<'a> {
        let made = self.panels.as_ref().map(|panels| (&panels.backward, out, 0));
        in_integers(left, made, right(weight, Order::AcrossColumns, input, out))
    }
}

/// A weight [out, in] as a right side in either order, from output `out` on.
fn right(weight: Values<'_>, order: Order, input: usize, out: usize) -> Right<'_> {
    Right::new(weight.from(out * input), order, input)
}

/// With what was made before, from (`k`, `column`) on, where it fits the left side; else the values, to be rounded anew.
fn in_integers<'a>(
    left: &'a IntegerLeft,
    made: Option<(&'a IntegerPanels, usize, usize)>,
    values: Right<'a>,
) -> IntegerTerm<'a> {
    let right = match made {
        Some((panels, k, column)) if panels.fits(left) => IntegerRight::Panels { panels, k, column },
        _ => IntegerRight::Values(values),
    };
    IntegerTerm { left, right }
}
