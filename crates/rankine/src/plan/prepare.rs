//! The plan's data, read and tokenised: what a run needs besides the model, and the numbers that follow from it.

use std::path::{Path, PathBuf};

use rankine_data::proof::{HeldOut, Proof, ProofInput, prove};
use rankine_data::{
    DataError, DatasetConfig, Examples, Loader, LoaderConfig, RecordType, Records, Remark, TextTokenizer,
    TokenizeConfig, TokenizeReport, Tokenized, split_validation, tokenize_records, tokenize_stored,
};
use rankine_train::config::ScheduleConfig;
use serde::Serialize;

use super::proof::{nothing_left, refuse};
use super::{Fit, Plan, Validation};
use crate::base;
use crate::fault::{Failure, Fault, chain};

/// What a run needs besides the model.
#[derive(Debug)]
pub struct Prepared {
    /// Text to tokens.
    pub tokenizer: TextTokenizer,
    /// Trained on.
    pub loader: Loader,
    /// Held out.
    pub validation: Examples,
    /// The numbers.
    pub forecast: Forecast,
    /// What the checks found.
    pub proof: Proof,
}

/// The numbers that follow from the data.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// Each of the plan's datasets, then each of its validation datasets.
    pub datasets: Vec<DatasetForecast>,
    /// What tokenising found in the training data, held-out records included.
    pub train: TokenizeReport,
    /// What it found in validation datasets of their own.
    pub validation: Option<TokenizeReport>,
    /// Records trained on, once each.
    pub train_examples: usize,
    /// Records held out.
    pub validation_examples: usize,
    /// Optimizer steps in the first epoch.
    pub steps_per_epoch: usize,
    /// Optimizer steps of the run.
    pub total_steps: usize,
    /// Steps of warm-up.
    pub warmup_steps: usize,
    /// Steps between evaluations.
    pub eval_steps: Option<usize>,
    /// Steps between checkpoints.
    pub save_steps: usize,
    /// The chat template: where it comes from, where conversations are rendered.
    pub chat_template: Option<String>,
    /// Fills rows up.
    pub pad_id: u32,
    /// How it is fitted into memory.
    #[serde(flatten)]
    pub fit: Fit,
}

/// One dataset as it was found.
#[derive(Debug, Clone, Serialize)]
pub struct DatasetForecast {
    /// As the plan has it; the name of a dataset on the Hub.
    pub path: String,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// The format of the records.
    pub record_type: RecordType,
    /// Whether the format was recognised rather than given.
    pub detected: bool,
    /// Records.
    pub records: usize,
    /// Whether it is held out.
    pub validation: bool,
}

/// What tokenising needs besides the data.
struct Pass<'a> {
    tokenizer: &'a TextTokenizer,
    cache: &'a Path,
    progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// What came of it.
struct Tokens {
    examples: Examples,
    report: TokenizeReport,
    remarks: Vec<Remark>,
    /// Of each dataset.
    records: Vec<usize>,
}

/// Steps between checkpoints and evaluations of a stream, where nothing else is said.
const STREAM_STEPS: usize = 500;

impl Plan {
    /// Reads and tokenises the data; `cache` keeps the tokens for the next time. `progress` is told how many records
    /// are done and how many there are.
    ///
    /// # Errors
    /// Data that cannot be used: files, records by line, a template that refuses them.
    pub fn prepare(&self, cache: &Path, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Prepared, Failure> {
        let tokenizer = base::tokenizer(&self.model.folder, self.data.chat_template.as_deref())?;
        let pass = Pass { tokenizer: &tokenizer, cache, progress };
        // Everything is found before anything is tokenised, which may take long.
        // Of a stream the checks are made on what would be the first block.
        let sampled = self.data.stream.map(|buffer| first_records(&self.data.datasets, buffer));
        let datasets = open_all(sampled.as_ref().unwrap_or(&self.data.datasets))?;
        let held_out = match &self.data.validation {
            Validation::Datasets(configs) => open_all(configs)?,
            Validation::None | Validation::Part(_) => Vec::new(),
        };
        let mut forecasts = Vec::new();
        let train = self.tokenized(&datasets, &pass)?;
        self.forecast(&datasets, &train, false, &mut forecasts);
        let mut remarks = train.remarks;
        let (examples, validation, validation_report) = match self.data.validation {
            Validation::None => (train.examples, Examples::default(), None),
            Validation::Part(size) => {
                let (train, validation) =
                    split_validation(train.examples, size, self.training.seed).map_err(data_failure)?;
                (train, validation, None)
            }
            Validation::Datasets(_) => {
                let validation = self.tokenized(&held_out, &pass)?;
                self.forecast(&held_out, &validation, true, &mut forecasts);
                // Datasets are counted on, so that no two records of the same file and line are taken for one.
                let apart = |remark: Remark| Remark { dataset: remark.dataset + datasets.len() as u32, ..remark };
                remarks.extend(validation.remarks.into_iter().map(apart));
                (train.examples, validation.examples, Some(validation.report))
            }
        };
        let known = HeldOut::of(&validation).map_err(data_failure)?;
        let records = forecasts.iter().map(|dataset| dataset.records).sum();
        let input = ProofInput {
            train: &examples,
            validation: &validation,
            held_out: &known,
            remarks: &remarks,
            records,
            tokenizer: &tokenizer,
        };
        let proof = prove(&input, &self.proof_config()).map_err(data_failure)?;
        if examples.is_empty() {
            refuse(&proof, &[])?;
            return Err(nothing_left(train.report.records));
        }
        let pad_id = tokenizer.pad_id().or(tokenizer.eos_id()).unwrap_or(0);
        let weights = self.data.datasets.iter().map(|dataset| dataset.weight.unwrap_or(1.0)).collect();
        let fit = self.fit(self.longest(&train.report));
        let (loader, train_examples) = match self.data.stream {
            None => {
                let count = examples.len();
                (Loader::new(examples, weights, self.loader_config(pad_id, &fit)), count)
            }
            Some(buffer) => {
                let loader =
                    self.stream(buffer, (examples, known), self.loader_config(pad_id, &fit), &mut forecasts)?;
                let trained = forecasts.iter().filter(|dataset| !dataset.validation);
                (loader, trained.map(|dataset| dataset.records).sum())
            }
        };
        let (steps_per_epoch, total_steps) = self.steps(&loader);
        let evaluates = !validation.is_empty() || !self.training.sample_prompts.is_empty();
        let eval_steps = evaluates.then(|| self.training.eval_steps.unwrap_or(steps_per_epoch));
        let has_chats = forecasts.iter().any(|dataset| is_chat(dataset.record_type));
        let forecast = Forecast {
            train: train.report,
            validation: validation_report,
            train_examples,
            validation_examples: validation.len(),
            steps_per_epoch,
            total_steps,
            warmup_steps: self.training.warmup.steps(total_steps).min(total_steps),
            eval_steps,
            save_steps: self.training.save_steps.or(eval_steps).unwrap_or(steps_per_epoch),
            chat_template: has_chats.then(|| self.template_source()),
            pad_id,
            fit,
            datasets: forecasts,
        };
        Ok(Prepared { tokenizer, loader, validation, forecast, proof })
    }

    /// How the records become tokens.
    pub fn tokenize_config(&self) -> TokenizeConfig {
        TokenizeConfig { max_seq_len: self.data.max_seq_len, train_on: self.data.train_on }
    }

    /// The learning rate's course over a run of this length.
    pub fn schedule(&self, forecast: &Forecast) -> ScheduleConfig {
        ScheduleConfig {
            kind: self.training.lr_scheduler,
            learning_rate: self.training.learning_rate,
            warmup_steps: forecast.warmup_steps,
            total_steps: forecast.total_steps,
        }
    }

    fn loader_config(&self, pad_id: u32, fit: &Fit) -> LoaderConfig {
        LoaderConfig {
            micro_batch_size: fit.micro_batch_size,
            gradient_accumulation_steps: fit.gradient_accumulation_steps,
            max_seq_len: self.data.max_seq_len,
            packing: self.data.packing,
            shuffle: self.data.shuffle,
            seed: self.training.seed,
            pad_id,
        }
    }

    /// Steps of the first epoch and of the run.
    fn steps(&self, loader: &Loader) -> (usize, usize) {
        let first = loader.steps_in_epoch(0);
        if let Some(steps) = self.training.max_steps {
            // A stream has no epoch to count by.
            return (if loader.is_stream() { steps.min(STREAM_STEPS) } else { first }, steps);
        }
        let whole = self.training.epochs.floor() as usize;
        let rest = self.training.epochs - whole as f64;
        let mut total: usize = (0..whole).map(|epoch| loader.steps_in_epoch(epoch)).sum();
        if rest > 0.0 {
            total += (rest * loader.steps_in_epoch(whole) as f64).ceil() as usize;
        }
        (first, total.max(1))
    }

    /// Tokens in a file of the cache; of a stream's first records, and of what is held out beside it, in memory: to
    /// know a file of the cache again, all of the data would have to be read.
    fn tokenized(&self, datasets: &[Records], pass: &Pass<'_>) -> Result<Tokens, Failure> {
        let config = self.tokenize_config();
        let (tokens, highest) = if self.data.stream.is_some() {
            let made = tokenize_records(datasets, pass.tokenizer, &config, pass.progress);
            let (Tokenized { examples, report, remarks }, records) = made.map_err(data_failure)?;
            let highest = examples.iter().flat_map(|example| &example.input_ids).copied().max();
            (Tokens { examples: examples.into(), report, remarks, records }, highest.unwrap_or_default())
        } else {
            let made = tokenize_stored(pass.cache, datasets, pass.tokenizer, &config, pass.progress);
            let (stored, _) = made.map_err(data_failure)?;
            let (report, remarks) = (stored.report().clone(), stored.remarks().to_vec());
            let (records, highest) = (stored.records().to_vec(), stored.highest_id());
            (Tokens { examples: stored.into(), report, remarks, records }, highest)
        };
        if highest as usize >= self.model.config.vocab_size {
            self.check_vocabulary(&tokens.examples, pass.tokenizer)?;
        }
        Ok(tokens)
    }

    fn check_vocabulary(&self, examples: &Examples, tokenizer: &TextTokenizer) -> Result<(), Failure> {
        let limit = self.model.config.vocab_size;
        for example in examples.iter() {
            let example = example.map_err(data_failure)?;
            let Some(id) = example.input_ids.iter().find(|id| **id as usize >= limit) else { continue };
            let (source, token) = (&example.source, tokenizer.decode(&[*id], false).unwrap_or_default());
            let fault = Fault::new(format!(
                "{source}: the tokenizer makes token {id} ({token:?}) of it, and the model's vocabulary has {limit}"
            ));
            return Err(Failure::bad_input(
                fault.help("the tokenizer belongs to another model: copy the one of this model into its folder"),
            ));
        }
        Ok(())
    }

    fn forecast(&self, datasets: &[Records], tokens: &Tokens, validation: bool, forecasts: &mut Vec<DatasetForecast>) {
        let configs = match &self.data.validation {
            Validation::Datasets(configs) if validation => configs,
            _ => &self.data.datasets,
        };
        for ((config, dataset), records) in configs.iter().zip(datasets).zip(&tokens.records) {
            forecasts.push(DatasetForecast {
                path: self.label(Path::new(&config.path)).unwrap_or_else(|| config.path.clone()),
                files: dataset.files().iter().map(|file| super::tidy(file)).collect(),
                record_type: dataset.record_type(),
                detected: dataset.detected(),
                records: *records,
                validation,
            });
        }
    }

    fn template_source(&self) -> String {
        let folder = &self.model.folder;
        let own = folder.join("chat_template.jinja");
        match &self.data.chat_template {
            Some(text) if text.contains(['{', '\n']) => "the recipe's own text".to_owned(),
            Some(name) => name.clone(),
            None if own.is_file() => own.display().to_string(),
            // A GGUF file has it among its metadata.
            None if folder.is_file() => folder.display().to_string(),
            None => folder.join("tokenizer_config.json").display().to_string(),
        }
    }
}

/// Whether records of this type are rendered by the chat template.
pub(crate) fn is_chat(record_type: RecordType) -> bool {
    match record_type {
        RecordType::Chat | RecordType::Sharegpt | RecordType::Alpaca => true,
        RecordType::PromptCompletion | RecordType::Text => false,
    }
}

/// The datasets with only so many records of each.
fn first_records(configs: &[DatasetConfig], most: usize) -> Vec<DatasetConfig> {
    let first = |config: &DatasetConfig| DatasetConfig {
        max_records: Some(config.max_records.map_or(most, |limit| limit.min(most))),
        ..config.clone()
    };
    configs.iter().map(first).collect()
}

pub(super) fn open_all(configs: &[DatasetConfig]) -> Result<Vec<Records>, Failure> {
    configs.iter().map(|config| Records::open(config, Path::new(".")).map_err(data_failure)).collect()
}

/// Data that cannot be used is bad input; a cache that cannot be written is a failure.
pub(crate) fn data_failure(error: DataError) -> Failure {
    let text = chain(&error);
    // The library's own advice stands on a last line of its own.
    let (what, help) = match text.rsplit_once("\n  help: ") {
        Some((what, help)) => (what.to_owned(), Some(help.to_owned())),
        None => (text, None),
    };
    let fault = Fault { help, ..Fault::new(what) };
    match error {
        DataError::Io { action, .. } if action.starts_with("write") => Failure::Failed(fault),
        _ => Failure::bad_input(fault),
    }
}
