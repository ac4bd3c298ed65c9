//! What can run on this machine, as this build sees it.

mod cpu;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
mod gpu;
#[cfg(feature = "wgpu")]
mod graphics;
mod proof;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::Device;
use serde::Serialize;

use crate::plan::{Backend, DevicePlan};

pub(crate) use cpu::{free_memory, processor};
pub(crate) use proof::{prove, prove_here};

/// A device of this build on this machine.
pub(crate) struct Unit {
    /// Its name.
    pub(crate) plan: DevicePlan,
    /// Itself, not yet opened.
    pub(crate) device: Device,
}

/// What runs the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The processor.
    Cpu,
    /// A GPU.
    Gpu,
    /// The processor, acting as a GPU (lavapipe, SwiftShader, WARP): for tests, and slow.
    Software,
}

/// What is known of a device.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Description {
    /// As a recipe writes it.
    pub(crate) device: String,
    /// As it calls itself.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The interface that it is reached through: `CUDA`, `Vulkan`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) driver: Option<String>,
    /// What its kernels are compiled to: `wgsl`, `spirv`, `msl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shaders: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cores: Option<usize>,
    /// Vector instructions that the kernels were written for and the processor has, the used ones last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) instruction_sets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free_memory_bytes: Option<u64>,
    /// Types that it multiplies in; of the CPU, types in which it holds weights and multiplies in f32.
    pub(crate) dtypes: Vec<&'static str>,
    /// The largest tensor, where there is a limit below its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tensor_bytes: Option<u64>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
}

/// The devices of a backend on this machine, its GPUs first and in the order of their numbers.
pub(crate) fn of(backend: Backend) -> Vec<Unit> {
    if backend == Backend::Cpu {
        return vec![Unit { plan: DevicePlan::CPU, device: Device::flex() }];
    }
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
    return gpu::of(backend);
    #[cfg(not(any(feature = "cuda", feature = "rocm", feature = "wgpu")))]
    return Vec::new();
}

/// What is known of a device. Opens it.
pub(crate) fn describe(unit: &Unit) -> Description {
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
    if !unit.plan.is_cpu() {
        return gpu::describe(unit);
    }
    cpu::describe(&unit.plan)
}

/// Bytes of the largest tensor that a device can hold in one buffer, where it has such a limit.
pub(crate) fn max_tensor_bytes(plan: DevicePlan) -> Option<u64> {
    // Memory alone bounds the processor's; every start asks.
    if plan.is_cpu() {
        return None;
    }
    let unit = of(plan.backend).into_iter().find(|unit| unit.plan == plan)?;
    guarded(|| rankine_ops::max_tensor_bytes(&unit.device)).ok().flatten()
}

/// Runs what a driver may panic in.
///
/// # Errors
/// What the panic said.
pub(crate) fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        said.unwrap_or("its driver failed without a word").trim().to_owned()
    })
}
