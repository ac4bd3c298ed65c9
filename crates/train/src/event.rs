//! What a run tells while it goes: one value for the terminal, for `--json` and for `metrics.jsonl`.

use std::path::PathBuf;

use serde::Serialize;

use crate::evaluate::Evaluation;

/// Something that happened in a run.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Before the first step.
    Start {
        /// The first step that will be done, counted from 1; above 1 after a resume.
        step: usize,
        /// Steps of the whole run.
        total_steps: usize,
        /// Trained numbers.
        trained_parameters: usize,
        /// The checkpoint that the run goes on from.
        resumed_from: Option<PathBuf>,
    },
    /// After each optimizer step.
    Step(StepMetrics),
    /// An evaluation is under way.
    Evaluating {
        /// Records done.
        done: usize,
        /// Records in all.
        total: usize,
    },
    /// After an evaluation; step 0 is the base before training.
    Eval {
        /// Optimizer steps done.
        step: usize,
        /// What was measured.
        #[serde(flatten)]
        evaluation: Evaluation,
        /// Whether it is the lowest loss so far.
        best: bool,
    },
    /// Text generated from a sample prompt.
    Sample {
        /// Optimizer steps done.
        step: usize,
        /// The prompt.
        prompt: String,
        /// The continuation.
        text: String,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Optimizer steps done.
        step: usize,
        /// Its folder.
        path: PathBuf,
    },
    /// Evaluation loss has not fallen for `early_stopping_patience` evaluations.
    EarlyStop {
        /// Optimizer steps done.
        step: usize,
        /// The step of the lowest loss.
        best_step: usize,
    },
    /// The end.
    Done {
        /// Optimizer steps done.
        step: usize,
        /// What was trained, ready to be used.
        path: PathBuf,
        /// Seconds of this process.
        seconds: f64,
        /// Trained tokens a second over them.
        tokens_per_second: f64,
    },
}

/// One optimizer step.
#[derive(Debug, Clone, Serialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Loss per trained token, in nats, before the step.
    pub loss: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// Global norm before clipping.
    pub grad_norm: f64,
    /// Tokens that the loss is over.
    pub trained_tokens: usize,
    /// Tokens that the model saw, padding aside.
    pub tokens: usize,
    /// Tokens seen a second in this step.
    pub tokens_per_second: f64,
    /// Most memory that the process has held so far, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Seconds that the remaining steps will take at the pace so far.
    pub seconds_left: f64,
}

/// The most memory that this process has held, where the system tells (Linux).
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
