//! The one loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rankine_data::{DataError, Example, GlobalBatch, Loader, TextTokenizer};
use rankine_models::generate::{GenerateConfig, GenerateError, generate};
use rankine_models::model::Model;
use rankine_models::sampling::Sampling;
use rankine_nn::parameter::{Noise, Pass};
use thiserror::Error;

use crate::artifact::{Artifact, ArtifactError};
use crate::checkpoint::{Best, Checkpoint, CheckpointError, RunState};
use crate::config::{OptimizerConfig, ScheduleConfig};
use crate::evaluate::{EvaluateConfig, Evaluation, evaluate};
use crate::event::{Event, StepMetrics, peak_memory_bytes};
use crate::gradients::GradientSum;
use crate::metrics::Metrics;
use crate::objective::{neftune_bound, passes, supervised, total};
use crate::optimizer::Optimizer;

/// Everything that decides how a run goes.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate, and how many steps there are.
    pub schedule: ScheduleConfig,
    /// Largest global norm of a step's gradients.
    pub max_grad_norm: Option<f64>,
    /// Embedding noise.
    pub neftune_alpha: Option<f64>,
    /// Of dropout and noise.
    pub seed: u64,
    /// Steps between evaluations; the last step is evaluated in any case.
    pub eval_steps: Option<usize>,
    /// Where padding is dropped and documents are laid side by side: tokens of one forward and backward pass. A device
    /// that wants few shapes takes micro-batches as they are.
    pub piece_tokens: Option<usize>,
    /// Rows of an evaluation at once.
    pub eval_batch_size: usize,
    /// Steps between checkpoints; the last step has one in any case.
    pub save_steps: Option<usize>,
    /// Checkpoints kept, beside the best one.
    pub save_total_limit: Option<usize>,
    /// Evaluations without a lower loss after which the run ends.
    pub early_stopping_patience: Option<usize>,
    /// Whether the result is the checkpoint of the lowest evaluation loss.
    pub load_best: bool,
    /// Continued at each evaluation.
    pub sample_prompts: Vec<SamplePrompt>,
    /// The run's folder.
    pub output_dir: PathBuf,
    /// Whether to go on from the newest whole checkpoint.
    pub resume: bool,
    /// What must be the same for a resume to be the same run.
    pub identity: serde_json::Value,
    /// Tokens that end a generated text.
    pub eos_token_ids: Vec<u32>,
    /// Fills rows up.
    pub pad_id: u32,
}

/// A prompt that is continued at each evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplePrompt {
    /// As the recipe has it.
    pub text: String,
    /// As the model sees it.
    pub ids: Vec<u32>,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
}

/// What a run reads.
#[derive(Debug)]
pub struct TrainData<'a> {
    /// Trained on.
    pub loader: Loader,
    /// Held out.
    pub validation: Vec<Example>,
    /// For samples and exact match.
    pub tokenizer: &'a TextTokenizer,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// Optimizer steps done.
    pub step: usize,
    /// What was trained (`adapter/`, or `model/` where all of the model was); of an interrupted run the last
    /// checkpoint.
    pub path: PathBuf,
    /// The evaluation before the first step.
    pub baseline: Option<Evaluation>,
    /// The evaluation of what was kept.
    pub evaluation: Option<Evaluation>,
    /// The lowest evaluation loss.
    pub best: Option<Best>,
    /// Loss per token of the last step.
    pub last_loss: Option<f64>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps were done.
    Finished,
    /// Evaluation loss stopped falling.
    Early,
    /// The caller said so; a checkpoint was written.
    Interrupted,
}

/// Trains the attached adapter (or the whole model), step by step, to the end of the schedule.
///
/// `interrupt` is looked at between micro-batches. The model is left with what was kept.
///
/// # Errors
/// A loss or gradient that is not finite, a checkpoint that cannot be written or does not fit, a generation that
/// cannot be done.
pub fn train(
    model: &mut Model,
    data: TrainData<'_>,
    artifact: &Artifact,
    config: &RunConfig,
    observe: &mut dyn FnMut(&Event),
    interrupt: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let optimizer = Optimizer::new(config.optimizer.clone());
    let state = RunState::start(config.seed, config.identity.clone());
    let mut run = Run {
        model,
        data,
        artifact,
        config,
        optimizer,
        state,
        observe,
        metrics: None,
        evaluation: None,
        last_loss: None,
    };
    run.go(interrupt)
}

struct Run<'a, 'd> {
    model: &'a mut Model,
    data: TrainData<'d>,
    artifact: &'a Artifact,
    config: &'a RunConfig,
    optimizer: Optimizer,
    state: RunState,
    observe: &'a mut dyn FnMut(&Event),
    metrics: Option<Metrics>,
    /// The evaluation of the newest step that had one.
    evaluation: Option<(usize, Evaluation)>,
    last_loss: Option<f64>,
}

/// One optimizer step's numbers, before they are reported.
struct StepResult {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    trained_tokens: usize,
    tokens: usize,
}

impl Run<'_, '_> {
    fn go(&mut self, interrupt: &AtomicBool) -> Result<Outcome, TrainError> {
        let output = &self.config.output_dir;
        std::fs::create_dir_all(output).map_err(|source| TrainError::io(output, source))?;
        let resumed_from = if self.config.resume { self.resume()? } else { None };
        let metrics = Metrics::open(output, self.state.step).map_err(|source| TrainError::io(output, source))?;
        self.metrics = Some(metrics);
        let total = self.config.schedule.total_steps;
        self.tell(Event::Start {
            step: self.state.step + 1,
            total_steps: total,
            trained_parameters: self.artifact.trained_parameters(),
            resumed_from,
        })?;
        if self.state.step == 0 && !interrupt.load(Ordering::Relaxed) {
            self.baseline()?;
        }
        let begun = Instant::now();
        let first = self.state.step;
        let mut trained = 0;
        let mut saved_at = None;
        let mut end = End::Finished;
        while self.state.step < total {
            let started = Instant::now();
            let batch = self.data.loader.next();
            if let Some(fault) = self.data.loader.take_fault() {
                return Err(TrainError::Data(fault));
            }
            let Some(result) = self.step(&batch, interrupt)? else {
                end = End::Interrupted;
                break;
            };
            self.state.step += 1;
            self.state.cursor = self.data.loader.cursor();
            self.last_loss = Some(result.loss);
            trained += result.trained_tokens;
            let done = self.state.step - first;
            let pace = begun.elapsed().as_secs_f64() / done as f64;
            self.tell(Event::Step(StepMetrics {
                step: self.state.step,
                total_steps: total,
                epoch: batch.epoch as f64 + batch.epoch_fraction,
                loss: result.loss,
                learning_rate: result.learning_rate,
                grad_norm: result.grad_norm,
                trained_tokens: result.trained_tokens,
                tokens: result.tokens,
                tokens_per_second: result.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9),
                peak_memory_bytes: peak_memory_bytes(),
                seconds_left: pace * (total - self.state.step) as f64,
            }))?;
            let last = self.state.step == total;
            let stop = if last || due(self.state.step, self.config.eval_steps) { self.evaluate_step()? } else { false };
            // The best checkpoint must exist to be kept.
            let best = self.config.load_best && self.state.best.is_some_and(|best| best.step == self.state.step);
            if last || stop || best || due(self.state.step, self.config.save_steps) {
                self.save()?;
                saved_at = Some(self.state.step);
            }
            if stop {
                end = End::Early;
                break;
            }
            if interrupt.load(Ordering::Relaxed) && !last {
                end = End::Interrupted;
                break;
            }
        }
        if end == End::Interrupted {
            if saved_at != Some(self.state.step) {
                self.save()?;
            }
            return Ok(
                self.outcome(end, crate::checkpoint::folder(output).join(format!("step-{:06}", self.state.step)))
            );
        }
        self.keep_best()?;
        let path = output.join(self.artifact.name());
        self.artifact.write_final(&path, self.model)?;
        let seconds = begun.elapsed().as_secs_f64();
        let tokens_per_second = trained as f64 / seconds.max(1e-9);
        self.tell(Event::Done { step: self.state.step, path: path.clone(), seconds, tokens_per_second })?;
        Ok(self.outcome(end, path))
    }

    /// Goes on from the newest whole checkpoint, if there is one.
    fn resume(&mut self) -> Result<Option<PathBuf>, TrainError> {
        let Some(checkpoint) = Checkpoint::list(&self.config.output_dir).pop() else { return Ok(None) };
        let state = checkpoint.state()?;
        if state.identity != self.config.identity {
            let differs = differing(&state.identity, &self.config.identity);
            return Err(TrainError::OtherRun { checkpoint: checkpoint.path, differs });
        }
        checkpoint.restore(&state, self.model, &mut self.optimizer, self.artifact)?;
        self.data.loader.seek(state.cursor);
        self.state = state;
        Ok(Some(checkpoint.path))
    }

    fn baseline(&mut self) -> Result<(), TrainError> {
        if !self.data.validation.is_empty() {
            let evaluation = self.evaluate()?;
            self.state.baseline = Some(evaluation);
            self.tell(Event::Eval { step: 0, evaluation, best: false })?;
        }
        self.samples()
    }

    /// One optimizer step over a global batch; `None` where it was interrupted before the end.
    fn step(&mut self, batch: &GlobalBatch, interrupt: &AtomicBool) -> Result<Option<StepResult>, TrainError> {
        let step = self.state.step;
        let mut gradients = GradientSum::default();
        let (mut sums, mut trained_tokens, mut tokens) = (Vec::new(), 0, 0);
        let mut pass_index = 0;
        for micro in &batch.micro_batches {
            tokens += micro.tokens();
            if micro.trained_tokens() == 0 {
                continue;
            }
            let neftune = self.config.neftune_alpha;
            let neftune = neftune.map(|alpha| neftune_bound(alpha, micro.length, self.model.config.hidden_size));
            for piece in passes(micro, self.config.piece_tokens, self.config.pad_id) {
                if interrupt.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let mut pass = Pass::Train(Noise::new(self.config.seed, step, pass_index));
                pass_index += 1;
                let loss = supervised(self.model, &piece, &mut pass, neftune);
                sums.push(loss.sum);
                trained_tokens += loss.tokens;
                gradients.add(self.model, &mut loss.objective.backward());
            }
        }
        // Here a device is waited for, once for the losses and once for the norm.
        let sum = total(sums);
        if !sum.is_finite() {
            return Err(self.not_finite(format!("the loss is {sum}"), batch));
        }
        // The one division, by the tokens of the whole global batch.
        gradients.scale(1.0 / trained_tokens.max(1) as f64);
        let grad_norm = gradients.clip(self.config.max_grad_norm);
        if !grad_norm.is_finite() {
            let names = gradients.not_finite();
            return Err(self.not_finite(format!("the gradient of {} is not finite", shown(&names)), batch));
        }
        let learning_rate = self.config.schedule.rate(step);
        self.optimizer.step(self.model, &gradients, learning_rate);
        let loss = sum / trained_tokens.max(1) as f64;
        Ok(Some(StepResult { loss, grad_norm, learning_rate, trained_tokens, tokens }))
    }

    /// Evaluates and samples; whether the run should end here.
    fn evaluate_step(&mut self) -> Result<bool, TrainError> {
        let step = self.state.step;
        let mut stop = false;
        if !self.data.validation.is_empty() {
            let evaluation = self.evaluate()?;
            let best = self.state.best.is_none_or(|best| evaluation.loss < best.evaluation.loss);
            if best {
                self.state.best = Some(Best { step, evaluation });
                self.state.evaluations_since_best = 0;
            } else {
                self.state.evaluations_since_best += 1;
            }
            self.tell(Event::Eval { step, evaluation, best })?;
            let patience = self.config.early_stopping_patience;
            stop = patience.is_some_and(|patience| self.state.evaluations_since_best >= patience);
        }
        self.samples()?;
        if stop {
            let best_step = self.state.best.map_or(0, |best| best.step);
            self.tell(Event::EarlyStop { step, best_step })?;
        }
        Ok(stop)
    }

    fn evaluate(&mut self) -> Result<Evaluation, TrainError> {
        let config = EvaluateConfig {
            tokenizer: self.data.tokenizer,
            eos_token_ids: &self.config.eos_token_ids,
            batch_size: self.config.eval_batch_size,
            piece_tokens: self.config.piece_tokens,
            pad_id: self.config.pad_id,
            exact_match: true,
        };
        let observe = &mut self.observe;
        let evaluation = evaluate(self.model, &self.data.validation, &config, &mut |done, total| {
            observe(&Event::Evaluating { done, total });
        })?;
        self.evaluation = Some((self.state.step, evaluation));
        Ok(evaluation)
    }

    fn samples(&mut self) -> Result<(), TrainError> {
        for prompt in &self.config.sample_prompts {
            let settings = GenerateConfig {
                max_new_tokens: prompt.max_new_tokens,
                sampling: Sampling::default(),
                stop: Vec::new(),
                eos_token_ids: self.config.eos_token_ids.clone(),
            };
            let tokenizer = self.data.tokenizer.inner();
            let generated =
                generate(self.model, tokenizer, &prompt.ids, &settings, &mut |_| std::ops::ControlFlow::Continue(()))?;
            let (prompt, text) = (prompt.text.clone(), generated.text);
            self.tell(Event::Sample { step: self.state.step, prompt, text })?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let output = &self.config.output_dir;
        let checkpoint = Checkpoint::write(output, &self.state, self.model, &self.optimizer, self.artifact)?;
        let kept = self.state.best.filter(|_| self.config.load_best).map(|best| best.step);
        if let Some(limit) = self.config.save_total_limit {
            Checkpoint::prune(output, limit, kept)?;
        }
        self.tell(Event::Checkpoint { step: checkpoint.step, path: checkpoint.path })
    }

    /// Puts the checkpoint of the lowest evaluation loss into the model, where the run asks for it.
    fn keep_best(&mut self) -> Result<(), TrainError> {
        let Some(best) = self.state.best.filter(|best| self.config.load_best && best.step != self.state.step) else {
            return Ok(());
        };
        let all = Checkpoint::list(&self.config.output_dir);
        if let Some(checkpoint) = all.iter().find(|checkpoint| checkpoint.step == best.step) {
            checkpoint.restore_model(self.model, self.artifact)?;
            self.evaluation = Some((best.step, best.evaluation));
        }
        Ok(())
    }

    fn outcome(&self, end: End, path: PathBuf) -> Outcome {
        Outcome {
            end,
            step: self.state.step,
            path,
            baseline: self.state.baseline,
            evaluation: self.evaluation.map(|(_, evaluation)| evaluation),
            best: self.state.best,
            last_loss: self.last_loss,
        }
    }

    fn tell(&mut self, event: Event) -> Result<(), TrainError> {
        if let Some(metrics) = &mut self.metrics {
            metrics.write(&event).map_err(|source| TrainError::io(metrics.path(), source))?;
        }
        (self.observe)(&event);
        Ok(())
    }

    fn not_finite(&self, what: String, batch: &GlobalBatch) -> TrainError {
        let mut records: Vec<String> =
            batch.micro_batches.iter().flat_map(|micro| &micro.sources).map(ToString::to_string).collect();
        records.dedup();
        let last = Checkpoint::list(&self.config.output_dir).pop();
        TrainError::NotFinite {
            step: self.state.step + 1,
            what,
            records: shown(&records),
            checkpoint: last.map_or("none was written yet".to_owned(), |last| last.path.display().to_string()),
        }
    }
}

fn due(step: usize, every: Option<usize>) -> bool {
    every.is_some_and(|every| every > 0 && step.is_multiple_of(every))
}

/// The first few, and how many more.
fn shown(items: &[String]) -> String {
    const SHOWN: usize = 8;
    let head = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => head,
        more => format!("{head} and {more} more"),
    }
}

/// The top-level keys whose values differ, with both values.
fn differing(before: &serde_json::Value, now: &serde_json::Value) -> String {
    let empty = serde_json::Map::new();
    let (before, now) = (before.as_object().unwrap_or(&empty), now.as_object().unwrap_or(&empty));
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let null = serde_json::Value::Null;
    let lines = keys
        .into_iter()
        .filter(|key| before.get(*key) != now.get(*key))
        .map(|key| format!("{key}: {} then, {} now", before.get(key).unwrap_or(&null), now.get(key).unwrap_or(&null)));
    lines.collect::<Vec<_>>().join("\n  ")
}

/// A run that cannot go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// NaN or infinity.
    #[error(
        "step {step}: {what}\n  records of the batch: {records}\n  last good checkpoint: {checkpoint}\n  \
         try a lower learning_rate, more warmup_steps or a max_grad_norm, and look at these records"
    )]
    NotFinite {
        /// Counted from 1.
        step: usize,
        /// What is not finite.
        what: String,
        /// Of the global batch.
        records: String,
        /// The newest one.
        checkpoint: String,
    },
    /// Data that is read while it is trained on and cannot be.
    #[error(transparent)]
    Data(DataError),
    /// The folder holds another run.
    #[error(
        "{}: this checkpoint belongs to another run:\n  {differs}\n  \
         resume with the recipe that began it, or choose another output_dir", checkpoint.display()
    )]
    OtherRun {
        /// The newest one.
        checkpoint: PathBuf,
        /// What is not the same.
        differs: String,
    },
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What was trained.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A sample or an exact match.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A file of the run.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl TrainError {
    fn io(file: &Path, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }
}
