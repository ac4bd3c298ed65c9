//! `rankine devices`: what can run on this machine, what each device can do, and whether it computes rightly.

use std::time::Instant;

use rankine_models::weights::StoredDtype;
use rankine_train::self_test::Agreement;
use serde_json::{Value as Json, json};

use super::open::argument_fault;
use crate::cli::DevicesArgs;
use crate::devices::{self, Description, Kind, Unit};
use crate::fault::{Failure, Fault};
use crate::plan::{Backend, DevicePlan, stored_dtype};
use crate::terminal::numbers::{bytes, counted};
use crate::terminal::table::columns;
use crate::terminal::{self, note};

/// Lists the devices on stdout.
///
/// # Errors
/// A device that is not there; one that fails the self-test.
pub fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let units = match &args.device {
        Some(name) => {
            let plan = DevicePlan::parse(name).map_err(argument_fault)?;
            devices::of(plan.backend).into_iter().filter(|unit| unit.plan == plan).collect()
        }
        None => Backend::ALL.into_iter().rev().flat_map(devices::of).collect::<Vec<_>>(),
    };
    let listed: Vec<Listed> = units.iter().map(|unit| Listed::new(unit, args)).collect();
    let missing: Vec<&str> =
        Backend::ALL.into_iter().filter(|backend| !backend.is_built()).map(Backend::name).collect();
    let auto = DevicePlan::parse("auto").map_err(argument_fault)?;
    if args.json {
        let devices: Vec<Json> = listed.iter().map(Listed::to_json).collect();
        let object = json!({
            "devices": devices,
            "auto": auto.to_string(),
            "not_in_this_build": missing,
            "fusion": cfg!(feature = "fusion"),
            "autotune": cfg!(feature = "autotune"),
        });
        let text = serde_json::to_string_pretty(&object)
            .map_err(|error| Failure::Failed(Fault::new(format!("the list cannot be written: {error}"))))?;
        terminal::print(&(text + "\n"))?;
    } else {
        let mut text: String = listed.iter().map(Listed::to_text).collect();
        text.push_str(&format!("`device: auto` is {auto}\n"));
        if !missing.is_empty() {
            text.push_str(&format!(
                "not in this build: {}; `cargo build --release --features {}` brings one, or several\n",
                missing.join(", "),
                missing[0]
            ));
        }
        terminal::print(&text)?;
    }
    let wrong: Vec<Fault> = listed.into_iter().filter_map(|listed| listed.proof?.err()).collect();
    match wrong.len() {
        0 => Ok(()),
        1 => Err(Failure::Failed(wrong.into_iter().next().unwrap_or_else(|| Fault::new("")))),
        count => {
            let what = wrong.into_iter().map(|fault| fault.what).collect::<Vec<_>>().join("\n");
            Err(Failure::Failed(Fault::new(format!("{}:\n{what}", counted(count, "device")))))
        }
    }
}

/// A device with what was found out about it.
struct Listed {
    description: Description,
    /// Of the self-test, where it was asked for: what came of it, and its seconds.
    proof: Option<Result<(Agreement, f64), Fault>>,
}

impl Listed {
    fn new(unit: &Unit, args: &DevicesArgs) -> Self {
        let description = devices::describe(unit);
        let proof = (args.self_test && !unit.plan.is_cpu()).then(|| {
            if !args.json {
                note(&format!("testing {} ({}): its kernels are compiled first", unit.plan, description.name));
            }
            let begun = Instant::now();
            let dtype = stored_dtype(args.dtype).unwrap_or(StoredDtype::F32);
            let proof = if args.in_process { devices::prove_here } else { devices::prove };
            proof(unit.plan, dtype).map(|agreement| (agreement, begun.elapsed().as_secs_f64()))
        });
        Self { description, proof }
    }

    fn to_json(&self) -> Json {
        let mut object = json!(self.description);
        match &self.proof {
            None => {}
            Some(Ok((agreement, seconds))) => {
                object["self_test"] = json!({
                    "right": true,
                    "compared": agreement.compared,
                    "largest_difference": agreement.apart,
                    "at": agreement.at,
                    "seconds": seconds,
                });
            }
            Some(Err(fault)) => object["self_test"] = json!({"right": false, "fault": fault.what}),
        }
        object
    }

    fn to_text(&self) -> String {
        let found = &self.description;
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |text: String| {
            let name = if rows.is_empty() { found.device.clone() } else { String::new() };
            rows.push(vec![name, text]);
        };
        row(match found.kind {
            Kind::Software => format!("{} (software adapter: for tests, never what `auto` takes)", found.name),
            Kind::Cpu | Kind::Gpu => found.name.clone(),
        });
        if let Some(fault) = &found.fault {
            row(format!("cannot be used: {fault}"));
        }
        let through = [found.api.clone(), found.driver.as_ref().map(|driver| format!("driver {driver}"))];
        let through =
            through.into_iter().flatten().chain(found.shaders.as_ref().map(|name| format!("kernels in {name}")));
        let through = through.collect::<Vec<_>>().join(", ");
        if !through.is_empty() {
            row(through);
        }
        if let (Some(cores), Some(used)) = (found.cores, found.instruction_sets.last()) {
            row(format!("{}, kernels in {used} (has {})", counted(cores, "core"), found.instruction_sets.join(", ")));
        }
        if let Some(memory) = found.memory_bytes {
            let free = found.free_memory_bytes.map_or(String::new(), |free| format!(", {} free", bytes(free)));
            row(format!("memory {}{free}", bytes(memory)));
        }
        match found.kind {
            Kind::Cpu => row(format!("holds weights in {}; multiplies in f32", found.dtypes.join(", "))),
            Kind::Gpu | Kind::Software if !found.dtypes.is_empty() => {
                row(format!("multiplies in {}", found.dtypes.join(", ")));
            }
            Kind::Gpu | Kind::Software => {}
        }
        if let Some(most) = found.max_tensor_bytes {
            row(format!("largest tensor {}", bytes(most)));
        }
        match &self.proof {
            None => {}
            Some(Ok((agreement, seconds))) => row(format!(
                "self-test: right; {} losses, gradients and logits, at most {:.1e} of their size from the CPU's ({seconds:.1} s)",
                agreement.compared, agreement.apart
            )),
            Some(Err(_)) => row("self-test: WRONG; do not train on it".to_owned()),
        }
        columns(&rows, &[], "")
    }
}
