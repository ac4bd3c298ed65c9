//! Another device than the CPU: a CUDA or ROCm GPU where the build has that feature and the machine one, else a software
//! Vulkan adapter (lavapipe), named as such. Its kernels are those that GPUs get through WGSL; its times mean nothing.
//!
//! Without a device these tests say that they were skipped; `RANKINE_REQUIRE_GPU=1` makes that a failure.

mod adapters;
mod operations;
mod program;

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
use burn::tensor::{Device, DeviceType};

/// The device that is tested, for as long as it is held.
struct Tested {
    /// As a recipe writes it.
    name: &'static str,
    device: Device,
    /// One test at a time: they share two cores, and each other's memory on the device.
    _turn: MutexGuard<'static, ()>,
}

impl Tested {
    fn is_software(&self) -> bool {
        self.name == SOFTWARE
    }
}

const SOFTWARE: &str = "wgpu:software";

static TURN: Mutex<()> = Mutex::new(());

/// The device; nothing where there is none.
fn tested() -> Option<Tested> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((name, device)) = find() {
        return Some(Tested { name, device, _turn });
    }
    let required = std::env::var("RANKINE_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(!required, "no GPU and no software Vulkan adapter: install mesa-vulkan-drivers and libvulkan1");
    eprintln!("skipped: no GPU and no software Vulkan adapter (mesa-vulkan-drivers, libvulkan1)");
    None
}

fn find() -> Option<(&'static str, Device)> {
    let there = |device: &Device, all: DeviceType| Device::enumerate(all).contains(device);
    #[cfg(feature = "cuda")]
    if there(&Device::cuda(0), DeviceType::Cuda) {
        return Some(("cuda", Device::cuda(0)));
    }
    #[cfg(feature = "rocm")]
    if there(&Device::rocm(0), DeviceType::Rocm) {
        return Some(("rocm", Device::rocm(0)));
    }
    #[cfg(feature = "wgpu")]
    if there(&Device::wgpu(DeviceKind::Cpu), DeviceType::Wgpu) {
        return Some((SOFTWARE, Device::wgpu(DeviceKind::Cpu)));
    }
    None
}

/// Asserts that no value is further away than `tolerance`, as a share of the largest, and at least of 1.
#[track_caller]
fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (found - expected).abs();
        assert!(apart <= tolerance * scale, "{name}, value {index}: {found}, {expected} on the CPU");
    }
}
