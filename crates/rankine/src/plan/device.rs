//! Where it runs, and in which type the frozen weights are held there.

use burn::tensor::Device;
use rankine_models::weights::StoredDtype;
use serde::{Serialize, Serializer};

use super::Decider;
use crate::recipe::{BaseCompute, Dtype, Quantize};

/// A device of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DevicePlan {
    /// The kind.
    pub backend: Backend,
    /// Which of several.
    pub index: usize,
}

/// The kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// GPUs by Vulkan.
    Vulkan,
    /// Apple GPUs.
    Metal,
    /// GPUs by whatever the system has.
    Wgpu,
}

impl Backend {
    const ALL: [Self; 5] = [Self::Cuda, Self::Metal, Self::Vulkan, Self::Wgpu, Self::Cpu];

    /// As a recipe writes it; also the Cargo feature that it needs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether this build has it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }
}

impl DevicePlan {
    /// The processor.
    pub const CPU: Self = Self { backend: Backend::Cpu, index: 0 };

    /// Reads `cpu`, `cuda`, `cuda:1` and so on; `auto` is the first GPU backend of this build, else the processor.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        let names = "`auto`, `cpu`, `cuda`, `vulkan`, `metal` or `wgpu`";
        let Ok(index) = index.parse::<usize>() else {
            return Err((format!("`{text}` is no device"), format!("expected {names}; a second GPU is `cuda:1`")));
        };
        if name == "auto" {
            let backend = Backend::ALL.into_iter().find(|backend| backend.is_built()).unwrap_or(Backend::Cpu);
            return Ok(Self { backend, index });
        }
        let Some(backend) = Backend::ALL.into_iter().find(|backend| backend.name() == name) else {
            return Err((format!("`{text}` is no device"), format!("expected {names}")));
        };
        if backend == Backend::Cpu && index > 0 {
            return Err((format!("`{text}` is no device"), "there is one `cpu`".to_owned()));
        }
        if !backend.is_built() {
            return Err((
                format!("this build has no {name} backend"),
                format!("build it with `cargo build --release --features {name}`, or use `device: cpu`"),
            ));
        }
        Ok(Self { backend, index })
    }

    /// The device itself. Nothing is run on it yet.
    pub fn open(self) -> Device {
        match self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda => Device::cuda(self.index),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan => Device::vulkan(self.kind()),
            #[cfg(feature = "metal")]
            Backend::Metal => Device::metal(self.kind()),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => Device::wgpu(self.kind()),
            // `parse` gives no backend that is not built.
            _ => Device::flex(),
        }
    }

    #[cfg(any(feature = "vulkan", feature = "metal", feature = "wgpu"))]
    fn kind(self) -> burn::tensor::DeviceKind {
        match self.index {
            0 => burn::tensor::DeviceKind::DefaultDevice,
            index => burn::tensor::DeviceKind::DiscreteGpu(index),
        }
    }

    /// The type of the frozen weights in memory.
    ///
    /// # Errors
    /// A type that the device cannot calculate with: what, and what to do.
    pub fn dtype(self, asked: Dtype, stored: StoredDtype) -> Result<StoredDtype, (String, String)> {
        let no_bf16 = matches!(self.backend, Backend::Vulkan | Backend::Wgpu);
        match asked {
            Dtype::Auto if no_bf16 && stored == StoredDtype::BF16 => Ok(StoredDtype::F32),
            Dtype::Auto => Ok(stored),
            Dtype::Bf16 if no_bf16 => Err((
                format!("{} does not calculate in bf16", self.backend.name()),
                "use `dtype: f32` or `dtype: f16`".to_owned(),
            )),
            Dtype::F32 => Ok(StoredDtype::F32),
            Dtype::Bf16 => Ok(StoredDtype::BF16),
            Dtype::F16 => Ok(StoredDtype::F16),
        }
    }
}

impl DevicePlan {
    /// How products with the frozen base are computed.
    ///
    /// # Errors
    /// A way that the device does not have: what, and what to do.
    pub fn compute(self, asked: BaseCompute) -> Result<BaseCompute, (String, String)> {
        if self.backend != Backend::Cpu && asked != BaseCompute::F32 {
            let what = format!("`{}` is a way of the CPU, and the device is {self}", asked.name());
            return Err((what, "leave it out, or use `device: cpu`".to_owned()));
        }
        Ok(asked)
    }

    /// Whether a base can be held in fewer bits.
    ///
    /// # Errors
    /// Where it cannot: what, and what to do.
    pub fn quantize(self, asked: Quantize) -> Result<Quantize, (String, String)> {
        if self.backend != Backend::Cpu {
            let what =
                format!("`{}` bases are multiplied with on the CPU alone, and the device is {self}", asked.name());
            return Err((what, "leave it out, or use `device: cpu`".to_owned()));
        }
        Ok(asked)
    }

    /// Tokens of one forward and backward pass, where documents go side by side without padding. A GPU takes
    /// micro-batches as they are: few shapes, and the recipe says how much fits.
    pub fn piece_tokens(self) -> Option<usize> {
        // Enough rows that packing a weight is a few percent of multiplying with it; half as many cost speed, twice as
        // many memory.
        (self.backend == Backend::Cpu).then_some(512)
    }
}

impl std::fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            0 => f.write_str(self.backend.name()),
            index => write!(f, "{}:{index}", self.backend.name()),
        }
    }
}

/// The type itself, or nothing where it is to be decided.
pub fn stored_dtype(dtype: Dtype) -> Option<StoredDtype> {
    match dtype {
        Dtype::Auto => None,
        Dtype::F32 => Some(StoredDtype::F32),
        Dtype::Bf16 => Some(StoredDtype::BF16),
        Dtype::F16 => Some(StoredDtype::F16),
    }
}

/// `bf16`, as a recipe writes it.
pub(super) fn dtype_name(dtype: StoredDtype) -> String {
    dtype.name().to_ascii_lowercase()
}

pub(super) fn serialize_dtype<S: Serializer>(dtype: &StoredDtype, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&dtype_name(*dtype))
}

/// The recipe's device; `None` where it has a fault.
pub(super) fn decide(decider: &mut Decider<'_>) -> Option<DevicePlan> {
    match DevicePlan::parse(decider.file.recipe.device.as_deref().unwrap_or("auto")) {
        Ok(device) => Some(device),
        Err((what, help)) => {
            decider.fault("device", format!("`device`: {what}"), help);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        assert_eq!(DevicePlan::parse("cpu"), Ok(DevicePlan::CPU));
        for wrong in ["gpu", "cpu:1", "cuda:x", "", "cuda:-1"] {
            assert!(DevicePlan::parse(wrong).is_err(), "{wrong}");
        }
        if !Backend::Cuda.is_built() {
            let (_, help) = DevicePlan::parse("cuda:1").expect_err("not built");
            assert!(help.contains("--features cuda"), "{help}");
        }
    }

    #[test]
    fn the_type_is_what_the_device_can_do() {
        let vulkan = DevicePlan { backend: Backend::Vulkan, index: 0 };
        assert_eq!(DevicePlan::CPU.dtype(Dtype::Auto, StoredDtype::BF16), Ok(StoredDtype::BF16));
        assert_eq!(DevicePlan::CPU.dtype(Dtype::Bf16, StoredDtype::F32), Ok(StoredDtype::BF16));
        assert_eq!(vulkan.dtype(Dtype::Auto, StoredDtype::F16), Ok(StoredDtype::F16));
        assert!(vulkan.dtype(Dtype::Bf16, StoredDtype::BF16).is_err());
        assert_eq!(DevicePlan::CPU.compute(BaseCompute::Int16), Ok(BaseCompute::Int16));
        assert_eq!(vulkan.compute(BaseCompute::F32), Ok(BaseCompute::F32));
        assert!(vulkan.compute(BaseCompute::Int8).is_err());
    }
}
