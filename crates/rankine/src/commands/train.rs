//! `rankine train`: from a recipe to an adapter, its evaluation and its exports.

mod folder;
mod identity;
mod summary;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rankine_data::{Batch, DataError, Example, Examples};
use rankine_export::{ExportConfig, Target};
use rankine_models::model::Model;
use rankine_nn::lora::AdapterKind;
use rankine_nn::parameter::Pass;
use rankine_ops::{Compute, InstructionSet};
use rankine_train::artifact::Artifact;
use rankine_train::event::Event;
use rankine_train::objective::supervised;
use rankine_train::run::{End, Outcome, RunConfig, SamplePrompt, TrainData, TrainError, train};
use serde_json::json;

use super::export::{Export, Exported, Finished, Reference};
use super::open::{self, chat_ids, input, prompt_ids, stop_tokens};
use crate::Environment;
use crate::cli::TrainArgs;
use crate::devices;
use crate::fault::{Failure, Fault, chain};
use crate::lock::{self, Provenance};
use crate::plan::{Fit, Forecast, Plan, Prepared, data_failure, is_chat, refuse};
use crate::recipe::{self, BaseCompute};
use crate::repositories::Repositories;
use crate::terminal::training::Reporter;
use crate::terminal::{self, note, numbers, progress};

/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 128;
/// Held-out records on which an export is compared, and tokens of each.
const CHECKED: (usize, usize) = (8, 256);

/// Trains, evaluates and exports.
///
/// # Errors
/// Bad input, a run that failed, or a run that was interrupted and has a checkpoint.
pub fn run(args: &TrainArgs, environment: &Environment) -> Result<(), Failure> {
    let mut file = recipe::read(&args.recipe.recipe, &args.recipe.sets)?;
    if args.resume {
        file.recipe.resume = Some(true);
    }
    let talks = !args.json && !args.quiet;
    let repositories = lock::repositories(&file, args.recipe.locked, Repositories::new(environment, !talks)?)?;
    let plan = Plan::resolve(&file, &repositories)?;
    folder::refuse_occupied(&plan, args.overwrite)?;
    let prepared =
        progress::counting("tokenising", "records", !talks, |progress| plan.prepare(&environment.cache, progress))?;
    refuse(&prepared.proof, &file.sources)?;
    let provenance = match args.recipe.locked {
        true => lock::check(&file, &plan, &prepared)?,
        false => lock::update(&file, &plan, &prepared, !talks)?,
    };
    if talks {
        summary::introduce(&plan, &prepared);
    }
    if let Some(fault) = plan.refuse_memory(&prepared.forecast) {
        return Err(Failure::bad_input(fault));
    }
    prove_device(&plan, !args.quiet)?;
    let mut model = load(&plan, &prepared.forecast.fit)?;
    if plan.model.base_compute != BaseCompute::F32 {
        let error = round_base(&mut model, &plan, &prepared).map_err(data_failure)?;
        if !args.quiet {
            note(&error);
        }
    }
    if args.overwrite {
        folder::clear(&plan)?;
    }
    if !plan.output.resume {
        folder::write_run_files(&plan, &prepared.forecast, &file.recipe)?;
    }
    folder::write_provenance(&plan, &provenance)?;
    Run { plan, provenance, args }.go(model, prepared)
}

struct Run<'a> {
    plan: Plan,
    provenance: Provenance,
    args: &'a TrainArgs,
}

/// A text that the model generated during the run.
struct Sample {
    step: usize,
    prompt: String,
    text: String,
}

impl Run<'_> {
    fn go(&self, mut model: Model, prepared: Prepared) -> Result<(), Failure> {
        let plan = &self.plan;
        let Prepared { tokenizer, loader, validation, forecast, .. } = prepared;
        let artifact = Artifact::new(
            &model,
            &plan.adapter.layout,
            &plan.model.folder,
            &plan.model.name(),
            plan.model.revision.as_deref(),
        )
        .map_err(|error| failed(&error))?;
        let training = &plan.training;
        let config = RunConfig {
            optimizer: training.optimizer.clone(),
            schedule: plan.schedule(&forecast),
            max_grad_norm: training.max_grad_norm,
            neftune_alpha: training.neftune_alpha,
            seed: training.seed,
            eval_steps: forecast.eval_steps,
            piece_tokens: plan.model.device.piece_tokens(),
            eval_batch_size: forecast.fit.micro_batch_size,
            save_steps: Some(forecast.save_steps),
            save_total_limit: Some(training.save_total_limit),
            early_stopping_patience: training.early_stopping_patience,
            load_best: training.load_best,
            sample_prompts: sample_prompts(plan, &forecast, &tokenizer)?,
            output_dir: plan.output.output_dir.clone(),
            resume: plan.output.resume,
            identity: identity::identity(plan, &forecast, &loader).map_err(data_failure)?,
            eos_token_ids: stop_tokens(&plan.model.folder, &tokenizer),
            pad_id: forecast.pad_id,
        };
        let checked = if validation.is_empty() { loader.examples() } else { &validation };
        let documents = documents(checked).map_err(data_failure)?;
        let validation = validation.into_memory().map_err(data_failure)?;
        let interrupt = Interrupt::install();
        let mut reporter = Reporter::new(self.args.json, self.args.quiet);
        let mut samples: Vec<Sample> = Vec::new();
        let data = TrainData { loader, validation, tokenizer: &tokenizer };
        let outcome = train(
            &mut model,
            data,
            &artifact,
            &config,
            &mut |event| {
                if let Event::Sample { step, prompt, text } = event {
                    samples.push(Sample { step: *step, prompt: prompt.clone(), text: text.clone() });
                }
                reporter.tell(event);
            },
            &interrupt.asked,
        );
        interrupt.training.store(false, Ordering::Relaxed);
        reporter.finish();
        let outcome = outcome.map_err(|error| train_failure(&error))?;
        if outcome.end == End::Interrupted {
            return Err(self.interrupted(&outcome));
        }
        // Exports load models of their own.
        drop(model);
        let facts = summary::facts(plan, &forecast, &outcome, &self.provenance);
        // An exported folder renders conversations as they were rendered in training.
        let template = tokenizer.chat_template().filter(|_| plan.data.chat_template.is_some());
        let template = template.map(|template| template.source());
        let finished = Finished { facts, chat_template: template.map(str::to_owned), documents };
        let exported = self.export(&outcome, &finished)?;
        finished.write(&plan.output.output_dir)?;
        if self.args.json {
            return terminal::print(&summary::export_events(&exported));
        }
        if self.args.quiet {
            return Ok(());
        }
        terminal::print(&summary::summary(plan, &outcome, &samples, &exported))
    }

    fn interrupted(&self, outcome: &Outcome) -> Failure {
        let sets = self.args.recipe.sets.iter().map(|set| format!(" --set {}", quoted(set)));
        let again = format!("rankine train {}{} --resume", self.args.recipe.recipe.display(), sets.collect::<String>());
        let what = format!("interrupted after step {}; the checkpoint is {}", outcome.step, outcome.path.display());
        Failure::Interrupted(Fault::new(what).help(format!("go on with `{again}`")))
    }

    /// The adapter with its card and tokenizer, then what the recipe asks for.
    fn export(&self, outcome: &Outcome, finished: &Finished) -> Result<Vec<Exported>, Failure> {
        let plan = &self.plan;
        let full = plan.adapter.kind == AdapterKind::Full;
        if !full {
            self.finish_adapter(&outcome.path, finished)?;
        }
        let base = if full { &outcome.path } else { &plan.model.folder };
        let adapter = (!full).then_some(outcome.path.as_path());
        let reference = Reference::new(base, adapter, &finished.documents, plan.model.device, plan.model.held());
        let mut exported = Vec::new();
        for asked in &plan.output.export {
            let export = Export {
                base,
                adapter,
                reference: Some(&reference),
                ..self.new_export(asked.config.clone(), &asked.out, finished)
            };
            exported.push(export.run()?);
        }
        Ok(exported)
    }

    /// Puts card, tokenizer and config files beside the trained tensors.
    fn finish_adapter(&self, adapter: &Path, finished: &Finished) -> Result<(), Failure> {
        let bare = adapter.with_file_name(".adapter.bare");
        let io = |error: std::io::Error| folder::failed_at(adapter, &error);
        if bare.exists() {
            fs::remove_dir_all(&bare).map_err(io)?;
        }
        fs::rename(adapter, &bare).map_err(io)?;
        let export = Export {
            base: &self.plan.model.folder,
            adapter: Some(&bare),
            quiet: true,
            ..self.new_export(ExportConfig::new(Target::Peft), adapter, finished)
        };
        if let Err(failure) = export.run() {
            // What was trained must not be lost over its card.
            let _ = fs::rename(&bare, adapter);
            return Err(failure);
        }
        fs::remove_dir_all(&bare).map_err(io)
    }

    fn new_export<'e>(&'e self, config: ExportConfig, out: &'e Path, finished: &'e Finished) -> Export<'e> {
        Export {
            config: ExportConfig { held: self.plan.model.held(), ..config },
            base: &self.plan.model.folder,
            adapter: None,
            tokenizer: None,
            out,
            facts: &finished.facts,
            chat_template: finished.chat_template.as_deref(),
            reference: None,
            quiet: self.args.json || self.args.quiet,
        }
    }
}

/// Has the base multiplied in integers, and says what that does to the loss of the first records.
fn round_base(model: &mut Model, plan: &Plan, prepared: &Prepared) -> Result<String, DataError> {
    const TOKENS: usize = 1024;
    let examples = prepared.loader.examples();
    let mut tokens = 0;
    let fits = |index: &usize| {
        tokens += examples.tokens_of(*index);
        *index == 0 || tokens <= TOKENS
    };
    let first = (0..examples.len()).take_while(fits).map(|index| examples.get(index)).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<Vec<&Example>> = first.iter().map(|example| vec![example.as_ref()]).collect();
    let batch = Batch::from_examples(&rows, prepared.forecast.pad_id);
    let loss = |model: &Model| {
        let pieces = batch.pieces(TOKENS);
        let losses = pieces.iter().map(|piece| supervised(model, piece, &mut Pass::Infer, None));
        let (sum, tokens) = losses.fold((0.0, 0), |(sum, tokens), loss| {
            (sum + f64::from(loss.sum.into_scalar::<f32>()), tokens + loss.tokens)
        });
        sum / tokens.max(1) as f64
    };
    let way = plan.model.base_compute.name();
    let (compute, set) = (Compute::from(plan.model.base_compute), InstructionSet::current());
    let computed = compute.on(set);
    let instead = match computed {
        Compute::F32 => {
            return Ok(format!("base_compute {way}: f32 is faster on this processor ({set}), and is computed instead"));
        }
        Compute::Bf16x2 => "pairs of bf16",
        Compute::Bf16 => "bf16",
        Compute::Int16 => "int16",
        Compute::Int8 => "int8",
    };
    let way = if computed == compute {
        way.to_owned()
    } else {
        format!("{way}, computed in {instead} on this processor ({set})")
    };
    let exact = loss(model);
    model.set_compute(compute);
    let rounded = loss(model);
    let records = numbers::counted(rows.len(), "record");
    let change = 100.0 * (rounded - exact) / exact.abs().max(f64::MIN_POSITIVE);
    Ok(format!(
        "base_compute {way}: the first {records} have a loss of {rounded:.5}, {exact:.5} in f32 ({change:+.3}%)"
    ))
}

/// Trains nothing on a device that computes wrongly.
fn prove_device(plan: &Plan, talks: bool) -> Result<(), Failure> {
    let device = plan.model.device;
    if device.is_cpu() {
        return Ok(());
    }
    if talks {
        note(&format!("testing {device}: its kernels are compiled first"));
    }
    let agreement = devices::prove(device, plan.model.dtype).map_err(Failure::Failed)?;
    if talks {
        note(&format!(
            "{device} computes what the CPU computes: {} losses, gradients and logits, at most {:.1e} of their size apart",
            agreement.compared, agreement.apart
        ));
    }
    Ok(())
}

/// The base with the plan's adapter on it, multiplied in f32.
pub(super) fn load(plan: &Plan, fit: &Fit) -> Result<Model, Failure> {
    let model = &plan.model;
    let device = model.device.open().map_err(open::argument_fault)?;
    let mut loaded = Model::load(&model.folder, model.form(fit.residency), &device).map_err(|error| input(&error))?;
    match &plan.adapter.adapter_path {
        Some(path) => open::attach(&mut loaded, path)?,
        None => loaded.attach(&plan.adapter.layout, plan.training.seed),
    }
    loaded.set_gradient_checkpointing(|layer| fit.gradient_checkpointing.again(layer));
    Ok(loaded)
}

/// Prompts as the data has them: a message to be answered where all records are conversations, else a text to go on
/// from.
fn sample_prompts(
    plan: &Plan,
    forecast: &Forecast,
    tokenizer: &rankine_data::TextTokenizer,
) -> Result<Vec<SamplePrompt>, Failure> {
    let chats =
        forecast.datasets.iter().filter(|dataset| !dataset.validation).all(|dataset| is_chat(dataset.record_type));
    let prompts = plan.training.sample_prompts.iter().map(|text| {
        let ids = if chats {
            chat_ids(tokenizer, &[json!({"role": "user", "content": text})], None)?
        } else {
            prompt_ids(tokenizer, text)?
        };
        Ok(SamplePrompt { text: text.clone(), ids, max_new_tokens: SAMPLE_TOKENS })
    });
    prompts.collect()
}

/// The first held-out records, on which an export is compared.
fn documents(examples: &Examples) -> Result<Vec<Vec<u32>>, DataError> {
    let (records, tokens) = CHECKED;
    let first = examples.iter().take(records);
    first.map(|example| Ok(example?.input_ids.iter().copied().take(tokens).collect())).collect()
}

/// Ctrl-C during training.
struct Interrupt {
    asked: Arc<AtomicBool>,
    training: Arc<AtomicBool>,
}

impl Interrupt {
    /// The first Ctrl-C asks for a checkpoint; the second, or one after training, ends at once.
    fn install() -> Self {
        let interrupt = Self { asked: Arc::new(AtomicBool::new(false)), training: Arc::new(AtomicBool::new(true)) };
        let (asked, training) = (Arc::clone(&interrupt.asked), Arc::clone(&interrupt.training));
        let set = ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::Relaxed) || !training.load(Ordering::Relaxed) {
                std::process::exit(130);
            }
            note("\ninterrupted: a checkpoint is written after this step; again to stop at once without one");
        });
        if let Err(error) = set {
            note(&format!("note: Ctrl-C will end the run without a checkpoint: {error}"));
        }
        interrupt
    }
}

fn train_failure(error: &TrainError) -> Failure {
    match error {
        TrainError::OtherRun { .. } | TrainError::Data(_) => input(error),
        _ => failed(error),
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::Failed(Fault::new(chain(error)))
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"=._-/:,".contains(&byte);
    if argument.bytes().all(plain) { argument.to_owned() } else { format!("'{}'", argument.replace('\'', r"'\''")) }
}
