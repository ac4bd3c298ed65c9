//! Devices of the GPU backends: how many there are, and what each says of itself.

use burn::backend::DispatchDevice;
#[cfg(feature = "wgpu")]
use burn::backend::{CubeDevice, WgpuDeviceKind};
use burn::tensor::{DType, Device, DeviceType};

#[cfg(feature = "wgpu")]
use super::graphics;
use super::{Description, Kind, Unit, guarded};
use crate::plan::{Backend, DevicePlan};

/// In the order in which they are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Discrete,
    Integrated,
    Virtual,
    Other,
    Software,
}

pub(super) fn of(backend: Backend) -> Vec<Unit> {
    let devices = guarded(|| enumerate(backend)).unwrap_or_default();
    let mut classed: Vec<(Class, Device)> = devices.into_iter().map(|device| (class(&device), device)).collect();
    // Stable: of one class, in the order of the driver.
    classed.sort_by_key(|(class, _)| *class);
    let number = |(index, (class, device)): (usize, (Class, Device))| Unit {
        plan: DevicePlan { backend, index: (class != Class::Software).then_some(index) },
        device,
    };
    classed.into_iter().enumerate().map(number).collect()
}

fn enumerate(backend: Backend) -> Vec<Device> {
    match backend {
        #[cfg(feature = "cuda")]
        Backend::Cuda => Device::enumerate(DeviceType::Cuda).into_vec(),
        #[cfg(feature = "rocm")]
        Backend::Rocm => Device::enumerate(DeviceType::Rocm).into_vec(),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => Device::enumerate(DeviceType::Vulkan).into_vec(),
        #[cfg(feature = "metal")]
        Backend::Metal => Device::enumerate(DeviceType::Metal).into_vec(),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Device::enumerate(DeviceType::Wgpu).into_vec(),
        _ => Vec::new(),
    }
}

/// Of a backend other than `wgpu`'s every device is a card.
pub(super) fn class(device: &Device) -> Class {
    match device.as_dispatch() {
        #[cfg(feature = "wgpu")]
        DispatchDevice::Cube(CubeDevice::Wgpu(adapter)) => match adapter.kind {
            WgpuDeviceKind::DiscreteGpu(_) => Class::Discrete,
            WgpuDeviceKind::IntegratedGpu(_) => Class::Integrated,
            WgpuDeviceKind::VirtualGpu(_) => Class::Virtual,
            WgpuDeviceKind::Cpu => Class::Software,
            WgpuDeviceKind::DefaultDevice | WgpuDeviceKind::Existing(_) | WgpuDeviceKind::Other(_) => Class::Other,
        },
        _ => Class::Discrete,
    }
}

pub(super) fn describe(unit: &Unit) -> Description {
    let mut description = Description {
        device: unit.plan.to_string(),
        name: unit.plan.backend.name().to_owned(),
        kind: unit.plan.kind(),
        api: None,
        driver: None,
        shaders: None,
        cores: None,
        instruction_sets: Vec::new(),
        memory_bytes: None,
        free_memory_bytes: None,
        dtypes: Vec::new(),
        max_tensor_bytes: None,
        fault: None,
    };
    if let Err(said) = guarded(|| ask(&unit.device, &mut description)) {
        description.fault = Some(said);
    }
    match unit.plan.backend {
        Backend::Cuda => description.api = Some("CUDA".to_owned()),
        Backend::Rocm => description.api = Some("ROCm".to_owned()),
        _ => {}
    }
    #[cfg(feature = "wgpu")]
    if let Some(adapter) = graphics::adapter(&unit.device, &description.name) {
        description.api = Some(adapter.api);
        description.driver = adapter.driver;
    }
    description
}

/// What the device itself says.
fn ask(device: &Device, description: &mut Description) {
    let DispatchDevice::Cube(cube) = device.as_dispatch() else { return };
    let client = cube.client();
    let properties = client.properties();
    description.name = properties.identity.name.clone();
    description.memory_bytes = properties.memory.max_memory();
    description.max_tensor_bytes = rankine_ops::max_tensor_bytes(device);
    // `wgpu<wgsl>`
    let compiler = client.name().split_once('<').map(|(_, rest)| rest.trim_end_matches('>').to_owned());
    description.shaders = compiler.filter(|_| description.kind != Kind::Cpu);
    let dtypes = [("f32", DType::F32), ("bf16", DType::BF16), ("f16", DType::F16)];
    let has = |(name, dtype): (&'static str, DType)| device.supports_dtype(dtype).then_some(name);
    description.dtypes = dtypes.into_iter().filter_map(has).collect();
}
