//! The hyperparameters of a run, each beside the enum that it chooses from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay ([Loshchilov & Hutter 2017](https://arxiv.org/abs/1711.05101)).
    #[default]
    Adamw,
    /// Factored second moments ([Shazeer & Stern 2018](https://arxiv.org/abs/1804.04235)).
    Adafactor,
    /// The sign of an interpolated momentum ([Chen et al. 2023](https://arxiv.org/abs/2302.06675)).
    Lion,
    /// Stochastic gradient descent, with momentum where `beta1` is above 0.
    Sgd,
}

/// An update rule with its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    /// Which rule.
    pub kind: OptimizerKind,
    /// Decay of the first moment (momentum of `sgd`).
    pub beta1: f64,
    /// Decay of the second moment (`adafactor` uses its own schedule).
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay (L2 for `sgd`).
    pub weight_decay: f64,
    /// `B` matrices learn at this multiple of the learning rate ([LoRA+](https://arxiv.org/abs/2402.12354)).
    pub loraplus_lr_ratio: Option<f64>,
}

/// The learning rate's course after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LrScheduler {
    /// Stays.
    Constant,
    /// Falls to 0 in a line.
    Linear,
    /// Falls to 0 along half a cosine.
    #[default]
    Cosine,
    /// Falls along half a cosine to a tenth of the peak.
    CosineWithMin,
    /// Warm-up, stable, decay: stays, then falls along half a cosine over the last tenth.
    Wsd,
}

/// The learning rate over a whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleConfig {
    /// Which course.
    pub kind: LrScheduler,
    /// The peak.
    pub learning_rate: f64,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: usize,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
}

impl ScheduleConfig {
    /// The learning rate of optimizer step `step`, counted from 0 (`optimization.py` in transformers).
    pub fn rate(&self, step: usize) -> f64 {
        self.learning_rate * self.multiplier(step)
    }

    fn multiplier(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let left = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / left).min(1.0);
        let cosine = |progress: f64| 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        match self.kind {
            LrScheduler::Constant => 1.0,
            LrScheduler::Linear => 1.0 - progress,
            LrScheduler::Cosine => cosine(progress),
            LrScheduler::CosineWithMin => MIN_SHARE + (1.0 - MIN_SHARE) * cosine(progress),
            LrScheduler::Wsd => {
                let decay = (self.total_steps / 10).max(1);
                let stable = self.total_steps.saturating_sub(decay).max(self.warmup_steps);
                let progress = step.saturating_sub(stable) as f64 / decay as f64;
                cosine(progress.min(1.0))
            }
        }
    }
}

/// Share of the peak at which `cosine-with-min` ends.
const MIN_SHARE: f64 = 0.1;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn rates_equal_transformers() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/optimizers/schedules.json");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for (kind, name) in [
            (LrScheduler::Constant, "constant_with_warmup"),
            (LrScheduler::Linear, "linear"),
            (LrScheduler::Cosine, "cosine"),
            (LrScheduler::CosineWithMin, "cosine_with_min_lr"),
            (LrScheduler::Wsd, "warmup_stable_decay_cosine"),
        ] {
            let schedule = ScheduleConfig { kind, learning_rate: 2.0, warmup_steps: 5, total_steps: 40 };
            let expected = json["schedules"][name]["multipliers"].as_array().unwrap();
            for (step, expected) in expected.iter().enumerate() {
                let (found, expected) = (schedule.rate(step), 2.0 * expected.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-12, "{name} step {step}: {found}, {expected} expected");
            }
        }
    }
}
