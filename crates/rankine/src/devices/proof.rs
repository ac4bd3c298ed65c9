//! The self-test of a device, and what to do where it fails.

use std::process::{Command, Output, Stdio};

use burn::tensor::DType;
use rankine_models::weights::StoredDtype;
use rankine_train::self_test::{Agreement, self_test};
use serde_json::Value as Json;

use super::guarded;
use crate::fault::Fault;
use crate::plan::{Backend, DevicePlan, dtype_name};

/// [`prove_here`] in a process of its own: a driver that cannot compile a kernel may end the process that it is in.
///
/// # Errors
/// What differs or how it ended, and which setting to change.
pub(crate) fn prove(plan: DevicePlan, dtype: StoredDtype) -> Result<Agreement, Fault> {
    let fault = |what: String| Fault::new(what).help(advice(plan, dtype, &Build::own()));
    let unasked = |error: std::io::Error| fault(format!("the test of {plan} could not be started: {error}"));
    let program = std::env::current_exe().map_err(unasked)?;
    let (name, dtype_name) = (plan.to_string(), dtype_name(dtype));
    let arguments = ["devices", &name, "--self-test", "--in-process", "--json", "--dtype", &dtype_name];
    // What drivers say on stderr helps nobody.
    let test = Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(unasked)?;
    outcome(plan, &test).map_err(fault)
}

/// What the process of a test found.
fn outcome(plan: DevicePlan, test: &Output) -> Result<Agreement, String> {
    let printed = serde_json::from_slice::<Json>(&test.stdout).unwrap_or_default();
    let found = printed.pointer("/devices/0/self_test").unwrap_or(&Json::Null);
    if let Some(wrong) = found["fault"].as_str() {
        return Err(wrong.to_owned());
    }
    let agreement = || {
        let compared = usize::try_from(found["compared"].as_u64()?).ok()?;
        let at = found["at"].as_str()?.to_owned();
        Some(Agreement { compared, apart: found["largest_difference"].as_f64()?, at })
    };
    agreement().ok_or_else(|| format!("the driver of {plan} ended the process that tested it ({})", test.status))
}

/// Trains a tiny model on the device and on the CPU, with frozen weights of that type, and compares.
///
/// # Errors
/// What differs, and which setting to change.
pub(crate) fn prove_here(plan: DevicePlan, dtype: StoredDtype) -> Result<Agreement, Fault> {
    let device = plan.open().map_err(|(what, help)| Fault::new(what).help(help))?;
    let held = match dtype {
        StoredDtype::F32 => DType::F32,
        StoredDtype::BF16 => DType::BF16,
        StoredDtype::F16 => DType::F16,
    };
    let fault = |what: String| Fault::new(what).help(advice(plan, dtype, &Build::own()));
    match guarded(|| self_test(&device, held)) {
        Ok(Ok(agreement)) => Ok(agreement),
        Ok(Err(wrong)) => Err(fault(format!("{plan} computes wrongly: {wrong}"))),
        Err(said) => Err(fault(format!("{plan} failed while its arithmetic was tested: {said}"))),
    }
}

/// What may be at fault and can be left out.
struct Build {
    fusion: bool,
    autotune: bool,
    native_shaders: bool,
}

impl Build {
    fn own() -> Self {
        Self {
            fusion: cfg!(feature = "fusion"),
            autotune: cfg!(feature = "autotune"),
            native_shaders: cfg!(any(feature = "vulkan", feature = "metal")),
        }
    }
}

/// One change at a time, the likeliest culprit first.
fn advice(plan: DevicePlan, dtype: StoredDtype, build: &Build) -> String {
    let graphics = matches!(plan.backend, Backend::Vulkan | Backend::Metal | Backend::Wgpu);
    if graphics && build.native_shaders {
        return "build with the feature `wgpu` and not `vulkan` or `metal`, and use `device: wgpu`: its kernels are in \
                WGSL"
            .to_owned();
    }
    if build.fusion {
        return "build without the feature `fusion`".to_owned();
    }
    if build.autotune {
        return "build without the feature `autotune`".to_owned();
    }
    if dtype != StoredDtype::F32 {
        return "use `dtype: f32`".to_owned();
    }
    "update the driver, or use `device: cpu`".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver's crash is told in words, as a wrong result is.
    #[cfg(unix)]
    #[test]
    fn what_a_test_found_is_read_from_its_process() {
        use std::os::unix::process::ExitStatusExt;
        let vulkan = DevicePlan { backend: Backend::Vulkan, index: Some(0) };
        let ended = |status: i32, stdout: &str| {
            let status = std::process::ExitStatus::from_raw(status);
            outcome(vulkan, &Output { status, stdout: stdout.into(), stderr: Vec::new() })
        };
        let right =
            r#"{"devices": [{"self_test": {"right": true, "compared": 3, "largest_difference": 1e-6, "at": "loss"}}]}"#;
        assert_eq!(ended(0, right), Ok(Agreement { compared: 3, apart: 1e-6, at: "loss".to_owned() }));
        let wrong = r#"{"devices": [{"self_test": {"right": false, "fault": "vulkan computes wrongly: loss"}}]}"#;
        assert_eq!(ended(256, wrong), Err("vulkan computes wrongly: loss".to_owned()));
        for stdout in ["", "{", r#"{"devices": []}"#] {
            let said = ended(11, stdout).expect_err("it crashed");
            assert!(said.contains("ended the process that tested it (signal: 11"), "{said}");
        }
    }

    #[test]
    fn advice_names_one_setting_after_the_other() {
        let vulkan = DevicePlan { backend: Backend::Vulkan, index: Some(0) };
        let cuda = DevicePlan { backend: Backend::Cuda, index: Some(0) };
        let build = |fusion, native_shaders, autotune| Build { fusion, autotune, native_shaders };
        let f16 = StoredDtype::F16;
        assert!(advice(vulkan, f16, &build(true, true, true)).contains("`device: wgpu`"));
        assert!(advice(vulkan, f16, &build(true, false, true)).contains("`fusion`"));
        assert!(advice(cuda, f16, &build(true, true, true)).contains("`fusion`"));
        assert!(advice(cuda, f16, &build(false, true, true)).contains("`autotune`"));
        assert!(advice(cuda, f16, &build(false, true, false)).contains("`dtype: f32`"));
        assert!(advice(cuda, StoredDtype::F32, &build(false, false, false)).contains("`device: cpu`"));
    }
}
