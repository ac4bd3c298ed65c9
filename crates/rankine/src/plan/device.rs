//! Where it runs, and in which type the frozen weights are held there.

use burn::tensor::{DType, Device};
use rankine_models::weights::StoredDtype;
use serde::{Serialize, Serializer};

use super::{Decider, GradientCheckpointing};
use crate::devices::{self, Kind};
use crate::recipe::{BaseCompute, BaseResidency, Dtype, MicroBatchSize};

/// A device of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DevicePlan {
    /// The kind.
    pub backend: Backend,
    /// Which of its GPUs; `None` is its software adapter.
    pub index: Option<usize>,
}

/// The kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// AMD GPUs.
    Rocm,
    /// GPUs by Vulkan, in its own shaders.
    Vulkan,
    /// Apple GPUs, in Metal's own shaders.
    Metal,
    /// GPUs by whatever the system has.
    Wgpu,
}

/// What is wrong, and what to do.
type Advice = (String, String);

impl Backend {
    /// In the order in which `auto` looks for a GPU.
    pub(crate) const ALL: [Self; 6] = [Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Wgpu, Self::Cpu];

    /// As a recipe writes it; also the Cargo feature that it needs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
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
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// Whether a software adapter can be reached through it.
    fn has_software(self) -> bool {
        matches!(self, Self::Vulkan | Self::Wgpu)
    }
}

impl DevicePlan {
    /// The processor.
    pub const CPU: Self = Self { backend: Backend::Cpu, index: Some(0) };

    /// Reads `cpu`, `cuda`, `cuda:1`, `wgpu:software` and so on, and looks whether this machine has it; `auto` is the
    /// first GPU of this build, else the processor, and never a software adapter.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn parse(text: &str) -> Result<Self, Advice> {
        if text == "auto" {
            return Ok(Self::auto());
        }
        let plan = Self::read(text)?;
        if !plan.backend.is_built() {
            let name = plan.backend.name();
            return Err((
                format!("this build has no {name} backend"),
                format!("build it with `cargo build --release --features {name}`, or use `device: cpu`"),
            ));
        }
        plan.find()?;
        Ok(plan)
    }

    /// The first GPU of this build on this machine, else the processor.
    fn auto() -> Self {
        let gpus = Backend::ALL.into_iter().filter(|backend| *backend != Backend::Cpu && backend.is_built());
        let found = gpus.flat_map(devices::of).map(|unit| unit.plan).find(|plan| plan.index.is_some());
        found.unwrap_or(Self::CPU)
    }

    /// As it is written, whether or not it is there.
    fn read(text: &str) -> Result<Self, Advice> {
        let names = "`auto`, `cpu`, `cuda`, `rocm`, `vulkan`, `metal` or `wgpu`";
        let unknown = |help: String| (format!("`{text}` is no device"), help);
        let (name, which) = text.split_once(':').unwrap_or((text, "0"));
        let Some(backend) = Backend::ALL.into_iter().find(|backend| backend.name() == name) else {
            return Err(unknown(format!("expected {names}")));
        };
        if which == "software" && backend.has_software() {
            return Ok(Self { backend, index: None });
        }
        let Ok(index) = which.parse::<usize>() else {
            return Err(unknown(format!("expected {names}; a second GPU is `cuda:1`")));
        };
        if backend == Backend::Cpu && index > 0 {
            return Err(unknown("there is one `cpu`".to_owned()));
        }
        Ok(Self { backend, index: Some(index) })
    }

    fn find(self) -> Result<Device, Advice> {
        if self.backend == Backend::Cpu {
            return Ok(Device::flex());
        }
        let mut units = devices::of(self.backend);
        let there = units.iter().map(|unit| unit.plan.to_string()).collect::<Vec<_>>().join(", ");
        match units.iter().position(|unit| unit.plan == self) {
            Some(index) => Ok(units.swap_remove(index).device),
            None if there.is_empty() => Err((
                format!("this machine has no device for {}", self.backend.name()),
                "install its driver, or use `device: cpu`; `rankine devices` lists what there is".to_owned(),
            )),
            None => Err((
                format!("this machine has no `{self}`"),
                format!("of this backend it has {there}; `rankine devices` lists what there is"),
            )),
        }
    }

    /// The device itself, ready to calculate.
    ///
    /// # Errors
    /// Where it is gone or its driver refuses: what, and what to do.
    pub fn open(self) -> Result<Device, Advice> {
        let device = self.find()?;
        match devices::guarded(|| device.supports_dtype(DType::F32)) {
            Ok(true) => Ok(device),
            Ok(false) => Err((format!("{self} does not calculate in f32"), "use `device: cpu`".to_owned())),
            Err(said) => Err((
                format!("{self} cannot be opened: {said}"),
                "update its driver, or use `device: cpu`; `rankine devices` lists what there is".to_owned(),
            )),
        }
    }

    /// Whether it is the processor, with this program's own kernels.
    pub fn is_cpu(self) -> bool {
        self.backend == Backend::Cpu
    }

    /// Whether the processor only acts as a GPU.
    pub fn kind(self) -> Kind {
        match (self.backend, self.index) {
            (Backend::Cpu, _) => Kind::Cpu,
            (_, None) => Kind::Software,
            (_, Some(_)) => Kind::Gpu,
        }
    }

    /// The type of the frozen weights in memory.
    ///
    /// # Errors
    /// A type that the device cannot calculate with: what, and what to do.
    pub fn dtype(self, asked: Dtype, stored: StoredDtype) -> Result<StoredDtype, Advice> {
        if self.is_cpu() {
            return self.dtype_among(asked, stored, |_| true);
        }
        let device = self.open()?;
        self.dtype_among(asked, stored, |dtype| {
            device.supports_dtype(match dtype {
                StoredDtype::F32 => DType::F32,
                StoredDtype::BF16 => DType::BF16,
                StoredDtype::F16 => DType::F16,
            })
        })
    }

    /// [`Self::dtype`] of a device that calculates in what `has` says, and in f32 always. `auto` never narrows: bf16
    /// that the device does not have becomes f32, since the products of a model made in bf16 may be too large for f16.
    fn dtype_among(
        self,
        asked: Dtype,
        stored: StoredDtype,
        has: impl Fn(StoredDtype) -> bool,
    ) -> Result<StoredDtype, Advice> {
        let Some(wanted) = stored_dtype(asked) else {
            return Ok(if has(stored) { stored } else { StoredDtype::F32 });
        };
        if wanted == StoredDtype::F32 || has(wanted) {
            return Ok(wanted);
        }
        let halves = [StoredDtype::BF16, StoredDtype::F16].into_iter().filter(|half| has(*half));
        let others: Vec<String> = halves.chain([StoredDtype::F32]).map(dtype_name).collect();
        let help = others.iter().map(|name| format!("`dtype: {name}`")).collect::<Vec<_>>().join(" or ");
        Err((format!("{self} does not calculate in {}", dtype_name(wanted)), format!("use {help}")))
    }

    /// Tokens of one forward and backward pass, where documents go side by side without padding. A GPU takes
    /// micro-batches as they are: few shapes, and the recipe says how much fits.
    pub fn piece_tokens(self) -> Option<usize> {
        // Enough rows that packing a weight is a few percent of multiplying with it; half as many cost speed, twice as
        // many memory.
        self.is_cpu().then_some(512)
    }

    /// `asked`, where the device has it.
    ///
    /// # Errors
    /// What is for the CPU alone, and what to do.
    pub fn allows<T: CpuOnly>(self, asked: T) -> Result<T, Advice> {
        if self.is_cpu() || asked.is_everywhere() {
            return Ok(asked);
        }
        let what = format!("{} is for the CPU, and the device is {self}", asked.written());
        Err((what, format!("leave it out{}, or use `device: cpu`", T::INSTEAD)))
    }
}

/// A setting of which other devices than the CPU have only the plain value.
pub trait CpuOnly {
    /// What else would do, after "leave it out".
    const INSTEAD: &'static str = "";
    /// Whether it is the plain value.
    fn is_everywhere(&self) -> bool;
    /// As a recipe writes it.
    fn written(&self) -> String;
}

impl CpuOnly for BaseCompute {
    fn is_everywhere(&self) -> bool {
        *self == Self::F32
    }

    fn written(&self) -> String {
        format!("`base_compute: {}`", self.name())
    }
}

impl CpuOnly for BaseResidency {
    fn is_everywhere(&self) -> bool {
        *self != Self::Stream
    }

    fn written(&self) -> String {
        "`base_residency: stream`".to_owned()
    }
}

impl CpuOnly for MicroBatchSize {
    const INSTEAD: &'static str = " or give a number";

    fn is_everywhere(&self) -> bool {
        matches!(self, Self::Sequences(_))
    }

    fn written(&self) -> String {
        "`micro_batch_size: auto`".to_owned()
    }
}

impl CpuOnly for GradientCheckpointing {
    const INSTEAD: &'static str = " and take a smaller `micro_batch_size`";

    fn is_everywhere(&self) -> bool {
        *self == Self::None
    }

    fn written(&self) -> String {
        format!("`gradient_checkpointing: {self}`")
    }
}

impl std::fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(0) => f.write_str(self.backend.name()),
            Some(index) => write!(f, "{}:{index}", self.backend.name()),
            None => write!(f, "{}:software", self.backend.name()),
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
pub(crate) fn dtype_name(dtype: StoredDtype) -> String {
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

    const VULKAN: DevicePlan = DevicePlan { backend: Backend::Vulkan, index: Some(0) };

    #[test]
    fn devices_are_read_as_they_are_written() {
        assert_eq!(DevicePlan::parse("cpu"), Ok(DevicePlan::CPU));
        for text in ["cpu", "cuda", "cuda:1", "rocm:3", "vulkan:software", "wgpu:software", "wgpu:2", "metal"] {
            assert_eq!(DevicePlan::read(text).expect("a device").to_string(), text);
        }
        let wrong =
            ["gpu", "cpu:1", "cuda:x", "", "cuda:-1", "cuda:software", "cpu:software", "auto:1", "metal:software"];
        for wrong in wrong {
            assert!(DevicePlan::parse(wrong).is_err(), "{wrong}");
        }
        for backend in Backend::ALL.into_iter().filter(|backend| !backend.is_built()) {
            let (_, help) = DevicePlan::parse(&format!("{}:1", backend.name())).expect_err("not built");
            assert!(help.contains(&format!("--features {}", backend.name())), "{help}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_and_auto_takes_no_software() {
        let auto = DevicePlan::parse("auto").expect("always something");
        assert_ne!(auto.kind(), Kind::Software);
        for backend in Backend::ALL.into_iter().filter(|backend| *backend != Backend::Cpu && backend.is_built()) {
            let (what, help) = DevicePlan::parse(&format!("{}:99", backend.name())).expect_err("not there");
            assert!(what.contains("this machine has no") && help.contains("rankine devices"), "{what}: {help}");
        }
    }

    #[test]
    fn the_type_is_what_the_device_can_do() {
        use StoredDtype::{BF16, F16, F32};
        assert_eq!(DevicePlan::CPU.dtype(Dtype::Auto, BF16), Ok(BF16));
        assert_eq!(DevicePlan::CPU.dtype(Dtype::Bf16, F32), Ok(BF16));
        let with_f16 = |asked, stored| VULKAN.dtype_among(asked, stored, |dtype| dtype == F16);
        assert_eq!(with_f16(Dtype::Auto, F16), Ok(F16));
        assert_eq!(with_f16(Dtype::Auto, BF16), Ok(F32));
        assert_eq!(with_f16(Dtype::F16, BF16), Ok(F16));
        let (what, help) = with_f16(Dtype::Bf16, BF16).expect_err("no bf16");
        assert!(what.contains("vulkan does not calculate in bf16"), "{what}");
        assert_eq!(help, "use `dtype: f16` or `dtype: f32`");
        assert_eq!(VULKAN.dtype_among(Dtype::Auto, F16, |_| false), Ok(F32));
        assert_eq!(VULKAN.dtype_among(Dtype::F32, F16, |_| false), Ok(F32));
    }

    #[test]
    fn what_is_for_the_cpu_is_refused_elsewhere_in_the_same_words() {
        assert_eq!(DevicePlan::CPU.allows(BaseCompute::Int16), Ok(BaseCompute::Int16));
        assert_eq!(VULKAN.allows(BaseCompute::F32), Ok(BaseCompute::F32));
        assert_eq!(VULKAN.allows(GradientCheckpointing::None), Ok(GradientCheckpointing::None));
        let refused =
            [VULKAN.allows(BaseCompute::Int8).map(|_| ()), VULKAN.allows(GradientCheckpointing::Every(2)).map(|_| ())];
        let keys = ["`base_compute: int8`", "`gradient_checkpointing: every 2`"];
        for (refused, key) in refused.into_iter().zip(keys) {
            let (what, help) = refused.expect_err("only on the CPU");
            assert_eq!(what, format!("{key} is for the CPU, and the device is vulkan"));
            assert!(help.ends_with("or use `device: cpu`"), "{help}");
        }
    }
}
