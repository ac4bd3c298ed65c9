//! What a run on the CPU will hold in memory, before it starts.
//!
//! The parts are counted from shapes: what is loaded, what is trained, and what one forward and backward pass keeps. Two
//! numbers were measured and are not counted: what the program holds without a model, and the share by which the
//! allocator's size classes exceed what was asked for. Both are held to the measured peak by a test.

use rankine_models::attach::{AdapterLayout, EMBEDDING, HEAD};
use rankine_models::config::DecoderConfig;
use rankine_models::model::{BaseForm, Residency, is_layer_linear};
use rankine_nn::lora::AdapterKind;
use rankine_ops::{Compute, HEAD_LOGITS, InstructionSet};
use serde::Serialize;

use crate::config::OptimizerKind;

/// Bytes by what holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryForecast {
    /// The frozen weights as they are held, with what is made of them for `base_compute`.
    pub base: u64,
    /// What is trained, in f32, with its gradients: those that are summed, and those of the last pass.
    pub trained: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    /// What forward passes keep for backward passes.
    pub activations: u64,
    /// Buffers of the largest operation, among them the head's logits.
    pub scratch: u64,
    /// The program with its tokenizer and records.
    pub program: u64,
}

/// What a forecast is made of.
#[derive(Debug, Clone, Copy)]
pub struct MemoryInputs<'a> {
    /// The model's shape.
    pub config: &'a DecoderConfig,
    /// How the base is held.
    pub form: BaseForm,
    /// How it is multiplied with.
    pub compute: Compute,
    /// What is trained.
    pub layout: &'a AdapterLayout,
    /// The update rule.
    pub optimizer: OptimizerKind,
    /// Tokens of the largest forward and backward pass.
    pub tokens: usize,
    /// Layers that keep their input alone.
    pub again: usize,
}

/// Measured: the program without a model, and its tokenizer by word.
const PROGRAM: u64 = 76 << 20;
const PROGRAM_WORD: u64 = 512;

/// Measured: what the allocator holds over what was asked for.
const SLACK: f64 = 1.12;

/// Bytes of an f32.
const F32: u64 = 4;

/// Panels that are packed for tiles, which are larger than those for vectors: seen in models of 9 million parameters.
const PANELS: u64 = 20 << 20;

impl MemoryForecast {
    /// Counts the parts.
    pub fn new(inputs: &MemoryInputs<'_>) -> Self {
        let MemoryInputs { config, layout, optimizer, tokens, again, .. } = *inputs;
        let trained: u64 = layout.trained.iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum();
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let ranks: usize = layout.modules.iter().map(|module| module.rank).sum();
        let layers = config.num_hidden_layers.max(1);
        // Of a token in a layer: both inputs, q, k, v, attention's result and log-sum-exps, gate and up, and the
        // low-rank parts.
        let kept = 2 * d + q + 2 * kv + q + config.num_attention_heads + 2 * f + ranks / layers + 2;
        // An operation of its own for the norm, each projection, rotation and update keeps its result as well.
        let apart = layout.kind == AdapterKind::Dora || layout.lora.dropout > 0.0 || config.qk_norm;
        let kept = if apart { kept + 3 * (q + kv) + 2 * d + 3 * f } else { kept };
        // Each projection's input with values dropped.
        let kept = if layout.lora.dropout > 0.0 { kept + 5 * d + q + f } else { kept };
        let again = if apart { 0 } else { again.min(layers - 1) };
        let activations = tokens * (again * 2 * d + (layers - again) * kept);
        // The largest: the feed-forward's backward pass with its packed gradients, and of a layer that is computed
        // again what it keeps.
        // On tiles a packed value takes six bytes, not four.
        let on_tiles = InstructionSet::current() == InstructionSet::Amx;
        let wider = if on_tiles { d + f } else { 0 };
        let largest = tokens * (4 * d + 6 * f + wider + if again > 0 { kept } else { 0 });
        // A head that is trained has all logits in the graph, with their softmax and its gradient.
        let head = [HEAD, EMBEDDING].map(|path| layout.saved.iter().any(|saved| saved == path));
        let trains_head = layout.kind == AdapterKind::Full
            || head[0]
            || (head[1] && config.tie_word_embeddings)
            || layout.modules.iter().any(|module| module.path == HEAD);
        let all = config.vocab_size * tokens;
        let logits = if trains_head { 3 * all } else { HEAD_LOGITS.min(all) };
        let slack = |values: usize| (F32 as f64 * values as f64 * SLACK) as u64;
        let moments = match optimizer {
            OptimizerKind::Adamw => 2,
            OptimizerKind::Lion | OptimizerKind::Sgd => 1,
            // A row and a column of each matrix.
            OptimizerKind::Adafactor => 0,
        };
        Self {
            base: base_bytes(inputs),
            trained: 3 * F32 * trained,
            optimizer: moments * F32 * trained,
            activations: slack(activations),
            scratch: slack(largest + logits) + if on_tiles { PANELS } else { 0 },
            program: PROGRAM + PROGRAM_WORD * config.vocab_size as u64,
        }
    }

    /// All parts.
    pub fn total(&self) -> u64 {
        self.base + self.trained + self.optimizer + self.activations + self.scratch + self.program
    }
}

fn base_bytes(inputs: &MemoryInputs<'_>) -> u64 {
    let MemoryInputs { config, form, compute, layout, .. } = *inputs;
    let full = layout.kind == AdapterKind::Full;
    let tied_head = u64::from(config.tie_word_embeddings) * (config.vocab_size * config.hidden_size) as u64;
    let tensors = config.tensors();
    let bytes = |spec: &rankine_models::config::TensorSpec| -> u64 {
        let count = spec.shape.iter().product::<usize>() as u64;
        let quantised = form.quantize.filter(|_| is_layer_linear(&spec.name));
        let in_file = form.residency == Residency::Stream && is_layer_linear(&spec.name);
        // A whole model is counted as what is trained; what stays in a file, as what is read of it at a time.
        if full || in_file {
            return 0;
        }
        match (quantised, spec.shape.as_slice()) {
            (Some(format), &[out, input]) => format.bytes([out, input]) as u64,
            (_, [_]) => F32 * count,
            _ => form.dtype.bytes() as u64 * count,
        }
    };
    let multiplied: u64 = tensors
        .iter()
        .filter(|spec| is_layer_linear(&spec.name) || spec.name == "lm_head.weight")
        .map(|spec| spec.shape.iter().product::<usize>() as u64)
        .sum::<u64>()
        + tied_head;
    // Integers of each weight for both passes, with their scales.
    let integers = match compute.on(InstructionSet::current()) {
        Compute::F32 | Compute::Bf16 | Compute::Bf16x2 => 0,
        Compute::Int16 => multiplied * 17 / 4,
        Compute::Int8 => multiplied * 9 / 4,
    };
    tensors.iter().map(bytes).sum::<u64>() + streamed_bytes(inputs) + if full { 0 } else { integers }
}

/// Of a base that stays in its files: the larger half of a layer, whose pages are in memory while it is used.
fn streamed_bytes(inputs: &MemoryInputs<'_>) -> u64 {
    let MemoryInputs { config, form, .. } = *inputs;
    if form.residency == Residency::Memory {
        return 0;
    }
    let of_layer = |half: &str| {
        let prefix = format!("model.layers.0.{half}.");
        let tensors = config.tensors().into_iter().filter(|spec| spec.name.starts_with(&prefix));
        let weights = tensors.filter(|spec| is_layer_linear(&spec.name));
        weights.map(|spec| spec.shape.iter().product::<usize>() as u64).sum::<u64>()
    };
    form.dtype.bytes() as u64 * of_layer("self_attn").max(of_layer("mlp"))
}
