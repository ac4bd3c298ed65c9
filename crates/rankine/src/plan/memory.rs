//! What a run will hold in memory, and whether that is there.

use rankine_data::TokenizeReport;
use rankine_models::config::TensorSpec;
use rankine_models::weights::StoredDtype;
use rankine_train::memory::{MemoryForecast, MemoryInputs};

use super::{Forecast, GradientCheckpointing, Plan};
use crate::devices::{free_memory, max_tensor_bytes};
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
        if let Some(most) = max_tensor_bytes(self.model.device) {
            return self.refuse_tensors(self.longest(&forecast.train), most);
        }
        let (memory, free) = (forecast.memory?, free_memory()?);
        (memory.total() > free).then(|| {
            let what =
                format!("the run will hold about {}, and {} of memory is free", bytes(memory.total()), bytes(free));
            let own = self.way(forecast.gradient_checkpointing);
            Fault::new(what).help(self.cheapest(self.longest(&forecast.train), free, own))
        })
    }

    /// A fault where a tensor would be larger than what the device holds in one buffer.
    fn refuse_tensors(&self, longest: usize, most: u64) -> Option<Fault> {
        let too_large = |what: String, size: u64, help: &str| {
            let limit = format!("the largest tensor of {} has {}", self.model.device, bytes(most));
            (size > most).then(|| Fault::new(format!("{what} takes {}, and {limit}", bytes(size))).help(help))
        };
        let each = if self.model.dtype == StoredDtype::F32 { 4 } else { 2 };
        let sized = |tensor: TensorSpec| (each * tensor.shape.iter().product::<usize>() as u64, tensor.name);
        let (size, name) = self.model.config.tensors().into_iter().map(sized).max()?;
        let weight = too_large(name, size, "use a `dtype` of half the size, or `device: cpu`");
        let length = if self.data.packing { self.data.max_seq_len } else { longest };
        let scores = self.training.micro_batch_size * self.model.config.num_attention_heads * length * length;
        let help = "take a smaller `micro_batch_size` or `max_seq_len`, or `device: cpu`";
        weight.or_else(|| too_large("attention over one micro-batch".to_owned(), 4 * scores as u64, help))
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
        if !self.model.device.is_cpu() {
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
