//! How it is trained: numbers, and what contradicts what.

use std::num::NonZeroUsize;

use rankine_nn::lora::AdapterKind;
use rankine_train::config::{LrScheduler, OptimizerConfig, OptimizerKind};
use serde::Serialize;

use super::{Decider, DevicePlan, defaults};
use crate::recipe::MicroBatchSize;

/// How it is trained. What depends on the number of records is decided when they are known ([`super::Forecast`]).
#[derive(Debug, Serialize)]
pub struct TrainingPlan {
    /// How often each record is seen.
    pub epochs: f64,
    /// Steps, whatever `epochs` says.
    pub max_steps: Option<usize>,
    /// Sequences a pass; `auto` is decided when their lengths are known.
    pub micro_batch_size: MicroBatchSize,
    /// Passes a step.
    pub gradient_accumulation_steps: usize,
    /// The peak.
    pub learning_rate: f64,
    /// Its course.
    pub lr_scheduler: LrScheduler,
    /// How it rises.
    pub warmup: Warmup,
    /// The update rule with its constants.
    pub optimizer: OptimizerConfig,
    /// Largest global norm of a step's gradients.
    pub max_grad_norm: Option<f64>,
    /// Embedding noise.
    pub neftune_alpha: Option<f64>,
    /// Which layers compute their activations again.
    pub gradient_checkpointing: GradientCheckpointing,
    /// Decides every random choice.
    pub seed: u64,
    /// Steps between evaluations; an epoch's where `None`.
    pub eval_steps: Option<usize>,
    /// Steps between checkpoints; as evaluations where `None`.
    pub save_steps: Option<usize>,
    /// Checkpoints kept.
    pub save_total_limit: usize,
    /// Evaluations without a lower loss after which it ends.
    pub early_stopping_patience: Option<usize>,
    /// Whether the checkpoint of the lowest validation loss is the result.
    pub load_best: bool,
    /// Continued at each evaluation.
    pub sample_prompts: Vec<String>,
}

/// Which layers keep their input alone and compute the rest again in the backward pass. The last one never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GradientCheckpointing {
    /// None.
    None,
    /// All.
    Block,
    /// The last of each so many.
    Every(usize),
    /// None where that fits the memory that is free, else all.
    Auto,
}

impl GradientCheckpointing {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "block" => Some(Self::Block),
            "auto" => Some(Self::Auto),
            _ => text.strip_prefix("every ")?.trim().parse().ok().filter(|count| *count > 0).map(Self::Every),
        }
    }

    /// Whether layer `index` does.
    pub fn again(self, index: usize) -> bool {
        match self {
            // `Plan::fit` decides `auto`.
            Self::None | Self::Auto => false,
            Self::Block => true,
            Self::Every(count) => (index + 1).is_multiple_of(count),
        }
    }
}

impl std::fmt::Display for GradientCheckpointing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Block => f.write_str("block"),
            Self::Auto => f.write_str("auto"),
            Self::Every(count) => write!(f, "every {count}"),
        }
    }
}

impl Serialize for GradientCheckpointing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// Share of all steps.
    Ratio(f64),
    /// Steps.
    Steps(usize),
}

impl Warmup {
    /// Steps of `total`, as transformers rounds them.
    pub fn steps(self, total: usize) -> usize {
        match self {
            Self::Ratio(ratio) => (ratio * total as f64).ceil() as usize,
            Self::Steps(steps) => steps,
        }
    }
}

fn gradient_checkpointing(decider: &mut Decider<'_>, device: Option<DevicePlan>) -> GradientCheckpointing {
    let Some(text) = &decider.file.recipe.gradient_checkpointing else { return GradientCheckpointing::None };
    let Some(found) = GradientCheckpointing::parse(text) else {
        let what = format!(
            "`gradient_checkpointing` is `{text}`; expected `none`, `block`, `auto` or `every N` with N of at least 1"
        );
        decider.fault("gradient_checkpointing", what, "");
        return GradientCheckpointing::None;
    };
    if let Some(Err((what, help))) = device.map(|device| device.allows(found)) {
        decider.fault("gradient_checkpointing", what, help);
    }
    found
}

fn micro_batch_size(decider: &mut Decider<'_>, device: Option<DevicePlan>) -> MicroBatchSize {
    let default = || NonZeroUsize::new(defaults::MICRO_BATCH_SIZE).unwrap_or(NonZeroUsize::MIN);
    let asked = decider.file.recipe.micro_batch_size.unwrap_or_else(|| MicroBatchSize::Sequences(default()));
    if let Some(Err((what, help))) = device.map(|device| device.allows(asked)) {
        decider.fault("micro_batch_size", what, help);
    }
    asked
}

pub(super) fn decide(decider: &mut Decider<'_>, device: Option<DevicePlan>) -> Option<TrainingPlan> {
    let faults = decider.faults.len();
    let recipe = decider.file.recipe.clone();
    let adapter = recipe.adapter.unwrap_or_default();
    let epochs = recipe.epochs.unwrap_or(defaults::EPOCHS);
    let gradient_checkpointing = gradient_checkpointing(decider, device);
    let positive = |number: f64| number.is_finite() && number > 0.0;
    decider.check(positive(epochs), "epochs", epochs, "a number above 0");
    let learning_rate = recipe.learning_rate.unwrap_or_else(|| defaults::learning_rate(adapter));
    decider.check(positive(learning_rate), "learning_rate", learning_rate, "a number above 0");
    for (path, value) in [("loraplus_lr_ratio", recipe.loraplus_lr_ratio), ("neftune_alpha", recipe.neftune_alpha)] {
        if let Some(value) = value {
            decider.check(positive(value), path, value, "a number above 0; leave it out for none");
        }
    }
    let max_grad_norm = recipe.max_grad_norm.unwrap_or(defaults::MAX_GRAD_NORM);
    decider.check(max_grad_norm.is_finite() && max_grad_norm >= 0.0, "max_grad_norm", max_grad_norm, "0 (off) or more");
    let warmup = warmup(decider, recipe.warmup_ratio, recipe.warmup_steps);
    let optimizer = optimizer(decider, adapter);
    let (early, load_best) = (recipe.early_stopping_patience, recipe.load_best);
    check_evaluations(decider);
    let sample_prompts = recipe.sample_prompts.unwrap_or_default();
    for (index, prompt) in sample_prompts.iter().enumerate() {
        if prompt.trim().is_empty() {
            let path = format!("sample_prompts[{index}]");
            decider.fault(&path, format!("`{path}` is empty"), "give a text to go on from, or leave it out");
        }
    }
    let micro_batch_size = micro_batch_size(decider, device);
    (decider.faults.len() == faults).then_some(TrainingPlan {
        epochs,
        max_steps: recipe.max_steps,
        micro_batch_size,
        gradient_accumulation_steps: recipe
            .gradient_accumulation_steps
            .unwrap_or(defaults::GRADIENT_ACCUMULATION_STEPS),
        learning_rate,
        lr_scheduler: recipe.lr_scheduler.unwrap_or_default(),
        warmup,
        optimizer,
        max_grad_norm: (max_grad_norm > 0.0).then_some(max_grad_norm),
        neftune_alpha: recipe.neftune_alpha,
        gradient_checkpointing,
        seed: recipe.seed.unwrap_or(defaults::SEED),
        eval_steps: recipe.eval_steps,
        save_steps: recipe.save_steps,
        save_total_limit: recipe.save_total_limit.unwrap_or(defaults::SAVE_TOTAL_LIMIT),
        early_stopping_patience: early,
        load_best: load_best.unwrap_or(early.is_some()),
        sample_prompts,
    })
}

fn warmup(decider: &mut Decider<'_>, ratio: Option<f64>, steps: Option<usize>) -> Warmup {
    if let Some(ratio) = ratio {
        decider.check((0.0..=1.0).contains(&ratio), "warmup_ratio", ratio, "a share from 0 to 1");
    }
    match (ratio, steps) {
        (Some(_), Some(steps)) => {
            let what = "`warmup_ratio` and `warmup_steps` both say how long the learning rate rises";
            decider.fault("warmup_ratio", what, "leave one of the two out");
            Warmup::Steps(steps)
        }
        (None, Some(steps)) => Warmup::Steps(steps),
        (ratio, None) => Warmup::Ratio(ratio.unwrap_or(defaults::WARMUP_RATIO)),
    }
}

fn optimizer(decider: &mut Decider<'_>, adapter: AdapterKind) -> OptimizerConfig {
    let recipe = decider.file.recipe.clone();
    let kind = recipe.optimizer.unwrap_or_default();
    if kind == OptimizerKind::Adafactor {
        decider.without("betas", "`adafactor` has its own decay");
    }
    match kind {
        OptimizerKind::Adamw => {}
        OptimizerKind::Adafactor => decider.without("eps", "`adafactor` has its own"),
        OptimizerKind::Lion | OptimizerKind::Sgd => {
            decider.without("eps", "only `adamw` divides by what it is added to")
        }
    }
    let [beta1, beta2] = recipe.betas.unwrap_or_else(|| defaults::betas(kind));
    for (path, beta) in [("betas[0]", beta1), ("betas[1]", beta2)] {
        decider.check((0.0..1.0).contains(&beta), path, beta, "a number from 0 to below 1");
    }
    let eps = recipe.eps.unwrap_or(defaults::EPS);
    decider.check(eps.is_finite() && eps > 0.0, "eps", eps, "a number above 0");
    let weight_decay = recipe.weight_decay.unwrap_or(defaults::WEIGHT_DECAY);
    decider.check(weight_decay.is_finite() && weight_decay >= 0.0, "weight_decay", weight_decay, "0 or more");
    let loraplus_lr_ratio = recipe.loraplus_lr_ratio.filter(|_| adapter != AdapterKind::Full);
    OptimizerConfig { kind, beta1, beta2, eps, weight_decay, loraplus_lr_ratio }
}

/// What looks at an evaluation needs something to evaluate on.
fn check_evaluations(decider: &mut Decider<'_>) {
    let recipe = decider.file.recipe.clone();
    let validation = recipe.val_size.is_some() || recipe.val_datasets.is_some();
    let help = "add `val_size: 0.05`, or `val_datasets`";
    if validation {
        return;
    }
    if recipe.early_stopping_patience.is_some() {
        decider.fault(
            "early_stopping_patience",
            "`early_stopping_patience` watches the validation loss, and there is no validation data",
            help,
        );
    }
    if recipe.load_best == Some(true) {
        decider.fault(
            "load_best",
            "`load_best` keeps the lowest validation loss, and there is no validation data",
            help,
        );
    }
    if recipe.eval_steps.is_some() && recipe.sample_prompts.is_none() {
        decider.fault(
            "eval_steps",
            "`eval_steps` says how often to evaluate, and there is no validation data and no `sample_prompts`",
            help,
        );
    }
}
