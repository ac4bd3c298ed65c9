//! How the CPU multiplies with a weight that does not change.

use std::sync::Arc;

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Tensor};

use super::host::Host;
use crate::kernel::{
    Compute, InstructionSet, IntegerLeft, IntegerPanels, IntegerRight, Order, Precision, QuantWeight, Right, Values,
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

    /// The precision of products that are not of integers.
    pub(crate) fn precision(&self, set: InstructionSet) -> Precision {
        match self.compute.on(set) {
            Compute::Bf16 => Precision::Bf16,
            _ => Precision::Single,
        }
    }

    /// The right side `W^T`, from output `out` on, for a left side in integers.
    pub(crate) fn forward<'a>(
        &'a self,
        left: &IntegerLeft,
        weight: Values<'a>,
        input: usize,
        out: usize,
    ) -> IntegerRight<'a> {
        let made = self.panels.as_ref().map(|panels| (&panels.forward, 0, out));
        right(left, made, Right::new(weight.from(out * input), Order::AlongK, input))
    }

    /// The right side `W`, from output `out` on, for a left side in integers.
    pub(crate) fn backward<'a>(
        &'a self,
        left: &IntegerLeft,
        weight: Values<'a>,
        input: usize,
        out: usize,
    ) -> IntegerRight<'a> {
        let made = self.panels.as_ref().map(|panels| (&panels.backward, out, 0));
        right(left, made, Right::new(weight.from(out * input), Order::AcrossColumns, input))
    }
}

/// What was made before, from (`k`, `column`) on, where it fits the left side; else the values, to be rounded anew.
fn right<'a>(
    left: &IntegerLeft,
    made: Option<(&'a IntegerPanels, usize, usize)>,
    values: Right<'a>,
) -> IntegerRight<'a> {
    match made {
        Some((panels, k, column)) if panels.fits(left) => IntegerRight::Panels { panels, k, column },
        _ => IntegerRight::Values(values),
    }
}
