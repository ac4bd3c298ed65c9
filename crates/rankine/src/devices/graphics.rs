//! What the graphics API says of an adapter, which the compute runtime does not pass on.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::Device;
use burn::tensor::wgpu::wgpu::{self, Backends, Instance, InstanceDescriptor};

use super::gpu::{Class, class};

/// An adapter's API and driver.
pub(super) struct Adapter {
    pub(super) api: String,
    pub(super) driver: Option<String>,
}

/// The adapter behind a device, found by its class and name.
pub(super) fn adapter(device: &Device, name: &str) -> Option<Adapter> {
    let wanted = match class(device) {
        Class::Discrete => wgpu::DeviceType::DiscreteGpu,
        Class::Integrated => wgpu::DeviceType::IntegratedGpu,
        Class::Virtual => wgpu::DeviceType::VirtualGpu,
        Class::Software => wgpu::DeviceType::Cpu,
        Class::Other => wgpu::DeviceType::Other,
    };
    // In the runtime's order of preference.
    for backend in [Backends::VULKAN, Backends::METAL, Backends::DX12, Backends::GL] {
        let instance =
            Instance::new(InstanceDescriptor { backends: backend, ..InstanceDescriptor::new_without_display_handle() });
        let asked = pin!(instance.enumerate_adapters(backend));
        // Outside a browser the answer is there at once.
        let Poll::Ready(adapters) = asked.poll(&mut Context::from_waker(Waker::noop())) else { continue };
        let infos = adapters.iter().map(wgpu::Adapter::get_info);
        let Some(info) = infos.into_iter().find(|info| info.device_type == wanted && info.name == name) else {
            continue;
        };
        let driver = [info.driver, info.driver_info].into_iter().filter(|part| !part.is_empty());
        let driver = driver.collect::<Vec<_>>().join(" ");
        return Some(Adapter {
            api: api(info.backend).to_owned(),
            driver: Some(driver).filter(|text| !text.is_empty()),
        });
    }
    None
}

fn api(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DirectX 12",
        wgpu::Backend::Gl => "OpenGL",
        wgpu::Backend::BrowserWebGpu => "WebGPU",
        wgpu::Backend::Noop => "none",
    }
}
