//! What a run will hold in memory, and whether that is there.

use std::fs;

use rankine_data::TokenizeReport;
use rankine_train::memory::{MemoryForecast, MemoryInputs};

use super::{Backend, Forecast, GradientCheckpointing, Plan};
use crate::fault::Fault;
use crate::recipe::{BaseCompute, Quantize};
use crate::terminal::numbers::bytes;

/// Share of the free memory up to which `gradient_checkpointing: auto` computes nothing again.
const COMFORT: f64 = 0.8;

/// What could be another way.
#[derive(Debug, Clone, Copy)]
struct Way {
    checkpointing: GradientCheckpointing,
    quantize: Option<Quantize>,
    compute: BaseCompute,
}

impl Plan {
    /// What it will hold on the CPU, where the longest sequence has so many tokens; on other devices nobody knows.
    pub fn memory(&self, longest: usize, checkpointing: GradientCheckpointing) -> Option<MemoryForecast> {
        self.memory_by(longest, self.way(checkpointing))
    }

    /// Tokens of the longest sequence; of a stream the most that are allowed, since its records are not known.
    pub(super) fn longest(&self, report: &TokenizeReport) -> usize {
        let known = if self.data.stream.is_some() { usize::MAX } else { report.longest };
        known.min(self.data.max_seq_len)
    }

    /// Which layers compute their activations again: `auto` decided by the memory that is free now.
    pub(crate) fn checkpointing(&self, longest: usize) -> GradientCheckpointing {
        match self.training.gradient_checkpointing {
            GradientCheckpointing::Auto => {
                let fits = match (self.memory(longest, GradientCheckpointing::None), free_memory()) {
                    (Some(memory), Some(free)) => memory.total() as f64 <= COMFORT * free as f64,
                    _ => true,
                };
                if fits { GradientCheckpointing::None } else { GradientCheckpointing::Block }
            }
            decided => decided,
        }
    }

    /// A fault where the run will not fit, with the cheapest change that makes it fit.
    pub(crate) fn refuse_memory(&self, forecast: &Forecast) -> Option<Fault> {
        let (memory, free) = (forecast.memory?, free_memory()?);
        (memory.total() > free).then(|| {
            let what =
                format!("the run will hold about {}, and {} of memory is free", bytes(memory.total()), bytes(free));
            let own = self.way(forecast.gradient_checkpointing);
            Fault::new(what).help(self.cheapest(self.longest(&forecast.train), free, own))
        })
    }

    /// In the order of what they cost: time first, then exactness, then length.
    fn cheapest(&self, longest: usize, free: u64, own: Way) -> String {
        let block = Way { checkpointing: GradientCheckpointing::Block, ..own };
        let plain = Way { compute: BaseCompute::F32, ..own };
        let packed = Way { quantize: Some(Quantize::Nf4), compute: BaseCompute::F32, ..own };
        let both = Way { checkpointing: GradientCheckpointing::Block, ..packed };
        let ways = [
            (plain, "`base_compute: f32`"),
            (block, "`gradient_checkpointing: block`"),
            (packed, "`quantize: nf4`"),
            (both, "`gradient_checkpointing: block` with `quantize: nf4`"),
        ];
        for (way, words) in ways {
            if let Some(memory) = self.memory_by(longest, way).filter(|memory| memory.total() <= free) {
                return format!("with {words} it will hold about {}", bytes(memory.total()));
            }
        }
        let fits = |tokens: &usize| self.memory_by(*tokens, both).is_some_and(|memory| memory.total() <= free);
        match [4096, 2048, 1024, 512, 256].into_iter().filter(|tokens| *tokens < longest).find(fits) {
            Some(tokens) => {
                format!("with `gradient_checkpointing: block`, `quantize: nf4` and `max_seq_len: {tokens}` it will fit")
            }
            None => "take a smaller base model, or a machine with more memory".to_owned(),
        }
    }

    fn way(&self, checkpointing: GradientCheckpointing) -> Way {
        Way { checkpointing, quantize: self.model.quantize, compute: self.model.base_compute }
    }

    fn memory_by(&self, longest: usize, way: Way) -> Option<MemoryForecast> {
        if self.model.device.backend != Backend::Cpu {
            return None;
        }
        let longest = longest.max(1);
        let most = self.training.micro_batch_size * if self.data.packing { self.data.max_seq_len } else { longest };
        // Whole documents side by side, and one alone where it is longer.
        let tokens = self.model.device.piece_tokens().map_or(most, |piece| most.min(piece.max(longest)));
        let layers = self.model.config.num_hidden_layers;
        let mut form = self.model.form();
        form.quantize = way.quantize.map(Into::into);
        Some(MemoryForecast::new(&MemoryInputs {
            config: &self.model.config,
            form,
            compute: way.compute.into(),
            layout: &self.adapter.layout,
            optimizer: self.training.optimizer.kind,
            tokens,
            again: (0..layers.saturating_sub(1)).filter(|layer| way.checkpointing.again(*layer)).count(),
        }))
    }
}

/// Memory that can be had without swapping: what Linux says, and what a container's limit leaves.
fn free_memory() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10;
    let left = number("/sys/fs/cgroup/memory.max")
        .and_then(|most| Some(most.saturating_sub(number("/sys/fs/cgroup/memory.current")?)));
    Some(left.map_or(available, |left| left.min(available)))
}
