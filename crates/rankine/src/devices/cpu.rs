//! The processor.

use std::fs;

use rankine_ops::InstructionSet;

use super::{Description, Kind};
use crate::plan::DevicePlan;

pub(super) fn describe(plan: &DevicePlan) -> Description {
    Description {
        device: plan.to_string(),
        name: processor(),
        kind: Kind::Cpu,
        api: None,
        driver: None,
        shaders: None,
        cores: Some(std::thread::available_parallelism().map_or(1, usize::from)),
        instruction_sets: InstructionSet::available().map(|set| set.to_string()).collect(),
        memory_bytes: memory(),
        free_memory_bytes: free_memory(),
        dtypes: vec!["f32", "bf16", "f16", "nf4", "int8", "int4"],
        max_tensor_bytes: None,
        fault: None,
    }
}

/// As the system calls it.
pub(crate) fn processor() -> String {
    let name = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Memory that can be had without swapping: what Linux says, and what a container's limit leaves. Pages of files that
/// a container has read count as its own until they are wanted for something else.
pub(crate) fn free_memory() -> Option<u64> {
    let available = meminfo("MemAvailable:")?;
    let cached = fs::read_to_string("/sys/fs/cgroup/memory.stat").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("inactive_file "))?;
        line.trim().parse::<u64>().ok()
    });
    let left = limit().and_then(|most| {
        let used = number("/sys/fs/cgroup/memory.current")?.saturating_sub(cached.unwrap_or_default());
        Some(most.saturating_sub(used))
    });
    Some(left.map_or(available, |left| left.min(available)))
}

/// All of it.
fn memory() -> Option<u64> {
    let total = meminfo("MemTotal:")?;
    Some(limit().map_or(total, |most| most.min(total)))
}

fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// A container's.
fn limit() -> Option<u64> {
    number("/sys/fs/cgroup/memory.max")
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
