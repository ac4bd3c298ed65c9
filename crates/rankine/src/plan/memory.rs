//! What a run will hold in memory, how it is fitted into what is free, and whether that can be.

use rankine_data::TokenizeReport;
use rankine_models::model::Residency;
use rankine_train::checkpoint::Checkpoint;
use rankine_train::memory::{MemoryForecast, MemoryInputs};
use serde::Serialize;

use super::{Forecast, GradientCheckpointing, Plan, defaults};
use crate::devices::{free_memory, max_tensor_bytes};
use crate::fault::Fault;
use crate::recipe::{BaseCompute, BaseResidency, MicroBatchSize, Quantize};
use crate::terminal::numbers::bytes;

/// Share of the free memory up to which `auto` takes what is faster and holds more.
const COMFORT: f64 = 0.8;

/// How a run is fitted into memory: every `auto` that depends on it, decided once.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Fit {
    /// Sequences a pass.
    pub micro_batch_size: usize,
    /// Passes a step.
    pub gradient_accumulation_steps: usize,
    /// Which layers compute their activations again.
    pub gradient_checkpointing: GradientCheckpointing,
    /// Where the base's linear layers are.
    #[serde(rename = "base_residency", serialize_with = "residency_word")]
    pub residency: Residency,
    /// What the run will hold; of a device other than the CPU nobody knows.
    #[serde(skip)]
    pub memory: Option<MemoryForecast>,
}

/// What could be another way.
#[derive(Debug, Clone, Copy)]
struct Way {
    micro_batch_size: usize,
    checkpointing: GradientCheckpointing,
    residency: Residency,
    quantize: Option<Quantize>,
    compute: BaseCompute,
}

impl Plan {
    /// Fits a run whose longest sequence has so many tokens into the memory that is free now.
    pub(crate) fn fit(&self, longest: usize) -> Fit {
        let free = free_memory();
        let fits = |way: &Way| match (self.memory(longest, *way), free) {
            (Some(memory), Some(free)) => memory.total() as f64 <= COMFORT * free as f64,
            _ => true,
        };
        let training = &self.training;
        let batch = match training.micro_batch_size {
            MicroBatchSize::Sequences(count) => Some((count.get(), training.gradient_accumulation_steps)),
            MicroBatchSize::Auto(_) => self.recorded_batch(),
        };
        let least = Way {
            micro_batch_size: batch.map_or(1, |(micro, _)| micro),
            checkpointing: training.gradient_checkpointing,
            residency: Residency::Memory,
            quantize: self.model.quantize,
            compute: self.model.base_compute,
        };
        let mut ways = self.ways(least);
        // The last is taken in any case: a run that does not fit even so is refused by name.
        let last = ways.pop().unwrap_or(least);
        let mut way = ways.into_iter().find(&fits).unwrap_or(last);
        let (micro_batch_size, gradient_accumulation_steps) = batch.unwrap_or_else(|| {
            let sequences = self.sequences();
            let whole = (1..=sequences).rev().filter(|micro| sequences.is_multiple_of(*micro));
            let micro = whole.map(|micro_batch_size| Way { micro_batch_size, ..way }).find(&fits);
            let micro = micro.map_or(1, |way| way.micro_batch_size);
            (micro, sequences / micro)
        });
        way.micro_batch_size = micro_batch_size;
        Fit {
            micro_batch_size,
            gradient_accumulation_steps,
            gradient_checkpointing: way.checkpointing,
            residency: way.residency,
            memory: self.memory(longest, way),
        }
    }

    /// Sequences of a step, whatever memory there is.
    pub(crate) fn sequences(&self) -> usize {
        let micro = match self.training.micro_batch_size {
            MicroBatchSize::Sequences(count) => count.get(),
            MicroBatchSize::Auto(_) => defaults::MICRO_BATCH_SIZE,
        };
        micro * self.training.gradient_accumulation_steps
    }

    /// How the checkpoint that a run goes on from cut its steps, if it had as many sequences.
    fn recorded_batch(&self) -> Option<(usize, usize)> {
        let newest = self.output.resume.then(|| Checkpoint::list(&self.output.output_dir).pop()).flatten()?;
        let identity = newest.state().ok()?.identity;
        let number = |key: &str| usize::try_from(identity[key].as_u64()?).ok();
        let batch = (number("micro_batch_size")?, number("gradient_accumulation_steps")?);
        (batch.0 * batch.1 == self.sequences()).then_some(batch)
    }

    /// What `auto` may choose from, in the order of what it costs: computing again costs the same everywhere, reading
    /// the base from its file whatever the disk costs.
    fn ways(&self, least: Way) -> Vec<Way> {
        let checkpointing = match least.checkpointing {
            GradientCheckpointing::Auto => vec![GradientCheckpointing::None, GradientCheckpointing::Block],
            decided => vec![decided],
        };
        let residency = match self.model.base_residency {
            BaseResidency::Memory => vec![Residency::Memory],
            BaseResidency::Stream => vec![Residency::Stream],
            BaseResidency::Auto if self.model.can_stream => vec![Residency::Memory, Residency::Stream],
            BaseResidency::Auto => vec![Residency::Memory],
        };
        let each = residency.into_iter().map(|residency| {
            checkpointing.iter().map(move |checkpointing| Way { residency, checkpointing: *checkpointing, ..least })
        });
        each.flatten().collect()
    }

    /// Tokens of the longest sequence; of a stream the most that are allowed, since its records are not known.
    pub(super) fn longest(&self, report: &TokenizeReport) -> usize {
        let known = if self.data.stream.is_some() { usize::MAX } else { report.longest };
        known.min(self.data.max_seq_len)
    }

    /// A fault where the run will not fit, with the cheapest change that makes it fit.
    pub(crate) fn refuse_memory(&self, forecast: &Forecast) -> Option<Fault> {
        if let Some(most) = max_tensor_bytes(self.model.device) {
            return self.refuse_tensors(self.longest(&forecast.train), forecast.fit.micro_batch_size, most);
        }
        let fit = forecast.fit;
        let (memory, free) = (fit.memory?, free_memory()?);
        (memory.total() > free).then(|| {
            let what =
                format!("the run will hold about {}, and {} of memory is free", bytes(memory.total()), bytes(free));
            let own = Way {
                micro_batch_size: fit.micro_batch_size,
                checkpointing: fit.gradient_checkpointing,
                residency: fit.residency,
                quantize: self.model.quantize,
                compute: self.model.base_compute,
            };
            Fault::new(what).help(self.cheapest(self.longest(&forecast.train), free, own))
        })
    }

    /// A fault where a tensor would be larger than what the device holds in one buffer.
    fn refuse_tensors(&self, longest: usize, sequences: usize, most: u64) -> Option<Fault> {
        let too_large = |what: String, size: u64, help: &str| {
            let limit = format!("the largest tensor of {} has {}", self.model.device, bytes(most));
            (size > most).then(|| Fault::new(format!("{what} takes {}, and {limit}", bytes(size))).help(help))
        };
        let config = &self.model.config;
        let (size, name) = self.adapter.layout.undivided().max()?;
        let whole = "in f32, as one tensor, since it is trained in full or by DoRA";
        let weight = too_large(format!("{name} ({whole})"), size, "leave it frozen, or use `device: cpu`");
        let length = if self.data.packing { self.data.max_seq_len } else { longest };
        let (heads, widest) = (config.num_attention_heads, config.intermediate_size.max(config.hidden_size));
        let help = "take a smaller `micro_batch_size` or `max_seq_len`, or `device: cpu`";
        let within =
            |what: &str, values: usize| too_large(format!("{what} of one micro-batch"), 4 * values as u64, help);
        weight
            .or_else(|| within("attention's scores", sequences * heads * length * length))
            .or_else(|| within("a feed-forward layer's values", sequences * length * widest))
    }

    /// In the order of what they cost: time first, then exactness, then length.
    fn cheapest(&self, longest: usize, free: u64, own: Way) -> String {
        let block = Way { checkpointing: GradientCheckpointing::Block, ..own };
        let plain = Way { compute: BaseCompute::F32, ..own };
        let streamed = Way { residency: Residency::Stream, ..own };
        let slim = Way { residency: Residency::Stream, ..block };
        let packed =
            Way { quantize: Some(Quantize::Nf4), compute: BaseCompute::F32, residency: Residency::Memory, ..own };
        let both = Way { checkpointing: GradientCheckpointing::Block, ..packed };
        let ways = [
            (plain, "`base_compute: f32`"),
            (block, "`gradient_checkpointing: block`"),
            (streamed, "`base_residency: stream`"),
            (slim, "`gradient_checkpointing: block` with `base_residency: stream`"),
            (packed, "`quantize: nf4`"),
            (both, "`gradient_checkpointing: block` with `quantize: nf4`"),
        ];
        let possible = |way: &Way| way.residency == Residency::Memory || self.model.can_stream;
        for (way, words) in ways.into_iter().filter(|(way, _)| possible(way)) {
            if let Some(memory) = self.memory(longest, way).filter(|memory| memory.total() <= free) {
                return format!("with {words} it will hold about {}", bytes(memory.total()));
            }
        }
        let fits = |tokens: &usize| self.memory(*tokens, both).is_some_and(|memory| memory.total() <= free);
        match [4096, 2048, 1024, 512, 256].into_iter().filter(|tokens| *tokens < longest).find(fits) {
            Some(tokens) => {
                format!("with `gradient_checkpointing: block`, `quantize: nf4` and `max_seq_len: {tokens}` it will fit")
            }
            None => "take a smaller base model, or a machine with more memory".to_owned(),
        }
    }

    /// What it will hold on the CPU, where the longest sequence has so many tokens; on other devices nobody knows.
    fn memory(&self, longest: usize, way: Way) -> Option<MemoryForecast> {
        if !self.model.device.is_cpu() {
            return None;
        }
        let longest = longest.max(1);
        let most = way.micro_batch_size * if self.data.packing { self.data.max_seq_len } else { longest };
        // Whole documents side by side, and one alone where it is longer.
        let tokens = self.model.device.piece_tokens().map_or(most, |piece| most.min(piece.max(longest)));
        let layers = self.model.config.num_hidden_layers;
        let mut form = self.model.form(way.residency);
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

fn residency_word<S: serde::Serializer>(residency: &Residency, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match residency {
        Residency::Memory => "memory",
        Residency::Stream => "stream",
    })
}
