//! `rankine train`: from a recipe to an adapter, its evaluation and its exports.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rankine_data::Example;
use rankine_export::{CardFacts, DatasetFacts, Target};
use rankine_models::model::Model;
use rankine_nn::lora::AdapterKind;
use rankine_train::artifact::Artifact;
use rankine_train::checkpoint::Checkpoint;
use rankine_train::evaluate::Evaluation;
use rankine_train::event::Event;
use rankine_train::run::{End, Outcome, RunConfig, SamplePrompt, TrainData, TrainError, train};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::export::{Export, Exported};
use super::open::{self, chat_ids, input, prompt_ids, stop_tokens};
use crate::Environment;
use crate::cli::TrainArgs;
use crate::fault::{Failure, Fault, chain};
use crate::plan::{Forecast, Plan, Prepared, is_chat};
use crate::recipe::{self, Recipe};
use crate::terminal::numbers::{count, counted, percent};
use crate::terminal::table::columns;
use crate::terminal::training::{Reporter, comparison, shortened};
use crate::terminal::{self, note, progress};

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
    let plan = Plan::resolve(&file, environment)?;
    make_room(&plan, args)?;
    let talks = !args.json && !args.quiet;
    let prepared =
        progress::counting("tokenising", "records", !talks, |progress| plan.prepare(&environment.cache, progress))?;
    if talks {
        introduce(&plan, &prepared.forecast);
    }
    if !plan.output.resume {
        write_run_files(&plan, &prepared.forecast, &file.recipe)?;
    }
    let model = load(&plan)?;
    Run { plan, args }.go(model, prepared)
}

struct Run<'a> {
    plan: Plan,
    args: &'a TrainArgs,
}

impl Run<'_> {
    fn go(&self, mut model: Model, prepared: Prepared) -> Result<(), Failure> {
        let plan = &self.plan;
        let Prepared { tokenizer, loader, validation, forecast } = prepared;
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
            eval_batch_size: training.micro_batch_size,
            save_steps: Some(forecast.save_steps),
            save_total_limit: Some(training.save_total_limit),
            early_stopping_patience: training.early_stopping_patience,
            load_best: training.load_best,
            sample_prompts: sample_prompts(plan, &forecast, &tokenizer)?,
            output_dir: plan.output.output_dir.clone(),
            resume: plan.output.resume,
            identity: identity(plan, &forecast, loader.examples()),
            eos_token_ids: stop_tokens(&plan.model.folder, &tokenizer),
            pad_id: forecast.pad_id,
        };
        let documents = documents(if validation.is_empty() { loader.examples() } else { &validation });
        let interrupt = on_interrupt();
        let mut reporter = Reporter::new(self.args.json, self.args.quiet);
        let mut samples: Vec<(usize, String, String)> = Vec::new();
        let data = TrainData { loader, validation, tokenizer: &tokenizer };
        let outcome = train(
            &mut model,
            data,
            &artifact,
            &config,
            &mut |event| {
                if let Event::Sample { step, prompt, text } = event {
                    samples.push((*step, prompt.clone(), text.clone()));
                }
                reporter.tell(event);
            },
            &interrupt,
        );
        reporter.finish();
        let outcome = outcome.map_err(|error| train_failure(&error))?;
        if outcome.end == End::Interrupted {
            return Err(self.interrupted(&outcome));
        }
        // Exports load models of their own.
        drop(model);
        let facts = facts(plan, &forecast, &outcome);
        let exported = self.export(&outcome, &facts, &documents)?;
        self.summarise(&outcome, &samples, &exported)
    }

    fn interrupted(&self, outcome: &Outcome) -> Failure {
        let sets = self.args.recipe.sets.iter().map(|set| format!(" --set {}", quoted(set)));
        let again = format!("rankine train {}{} --resume", self.args.recipe.recipe.display(), sets.collect::<String>());
        let what = format!("interrupted after step {}; the checkpoint is {}", outcome.step, outcome.path.display());
        Failure::Interrupted(Fault::new(what).help(format!("go on with `{again}`")))
    }

    /// The adapter with its card and tokenizer, then what the recipe asks for.
    fn export(&self, outcome: &Outcome, facts: &CardFacts, documents: &[Vec<u32>]) -> Result<Vec<Exported>, Failure> {
        let plan = &self.plan;
        let full = plan.adapter.kind == AdapterKind::Full;
        if !full {
            self.finish_adapter(&outcome.path, facts)?;
        }
        let mut exported = Vec::new();
        for asked in &plan.output.export {
            let export = Export {
                dtype: asked.dtype,
                base: if full { &outcome.path } else { &plan.model.folder },
                adapter: (!full).then_some(outcome.path.as_path()),
                documents,
                ..self.new_export(asked.target, &asked.out, facts)
            };
            exported.push(export.run()?);
        }
        Ok(exported)
    }

    /// Puts card, tokenizer and config files beside the trained tensors.
    fn finish_adapter(&self, adapter: &Path, facts: &CardFacts) -> Result<(), Failure> {
        let bare = adapter.with_file_name(".adapter.bare");
        let io = |error: std::io::Error| failed_at(adapter, &error);
        if bare.exists() {
            fs::remove_dir_all(&bare).map_err(io)?;
        }
        fs::rename(adapter, &bare).map_err(io)?;
        let export = Export {
            base: &self.plan.model.folder,
            adapter: Some(&bare),
            quiet: true,
            ..self.new_export(Target::Peft, adapter, facts)
        };
        if let Err(failure) = export.run() {
            // What was trained must not be lost over its card.
            let _ = fs::rename(&bare, adapter);
            return Err(failure);
        }
        fs::remove_dir_all(&bare).map_err(io)
    }

    fn new_export<'e>(&'e self, target: Target, out: &'e Path, facts: &'e CardFacts) -> Export<'e> {
        Export {
            target,
            dtype: None,
            base: &self.plan.model.folder,
            adapter: None,
            out,
            facts,
            chat_template: None,
            documents: &[],
            device: self.plan.model.device,
            quiet: self.args.json || self.args.quiet,
        }
    }

    /// What came of it: before and after, a sample of each, and where things are.
    fn summarise(
        &self,
        outcome: &Outcome,
        samples: &[(usize, String, String)],
        exported: &[Exported],
    ) -> Result<(), Failure> {
        if self.args.json {
            for export in exported {
                let event = ExportEvent { event: "export", export };
                // Plain fields of numbers and texts: this cannot fail.
                terminal::print(&(serde_json::to_string(&event).unwrap_or_default() + "\n"))?;
            }
            return Ok(());
        }
        if self.args.quiet {
            return Ok(());
        }
        let mut text = String::new();
        if let Some(after) = &evaluation(outcome) {
            text.push_str(&columns(&comparison(outcome.baseline.as_ref(), after), &[], ""));
        }
        if let Some((_, prompt, _)) = samples.first() {
            let of = |step: &dyn Fn(usize) -> bool| {
                let found = samples.iter().rev().find(|(at, asked, _)| step(*at) && asked == prompt);
                found.map(|(_, _, text)| shortened(text, 300))
            };
            text.push_str(&format!("\nprompt  {}\n", shortened(prompt, 300)));
            for (name, found) in [("before", of(&|step| step == 0)), ("after", of(&|step| step > 0))] {
                match found.as_deref() {
                    None => {}
                    Some("") => text.push_str(&format!("{name:<6}  (nothing)\n")),
                    Some(answer) => text.push_str(&format!("{name:<6}  {answer}\n")),
                }
            }
        }
        let adapter = outcome.path.display();
        text.push_str(&format!("\nwrote {adapter}\n"));
        for export in exported {
            let drift = export.drift.map_or(String::new(), |drift| {
                format!(", largest difference of a logit from base and adapter {:.1e}", drift.max_abs)
            });
            text.push_str(&format!("wrote {}{drift}\n", export.out.display()));
        }
        let run = match self.plan.adapter.kind {
            AdapterKind::Full => format!("rankine generate {adapter} --prompt \"...\""),
            _ => format!("rankine generate {} --adapter {adapter} --prompt \"...\"", self.plan.model.folder.display()),
        };
        text.push_str(&format!("try it: {run}\n"));
        terminal::print(&text)
    }
}

/// The last events of `--json`.
#[derive(Serialize)]
struct ExportEvent<'a> {
    event: &'static str,
    #[serde(flatten)]
    export: &'a Exported,
}

/// A folder that holds a run is not written over unless that was asked for.
fn make_room(plan: &Plan, args: &TrainArgs) -> Result<(), Failure> {
    let folder = &plan.output.output_dir;
    let metrics = folder.join("metrics.jsonl");
    let holds_run = metrics.exists() || !Checkpoint::list(folder).is_empty();
    if plan.output.resume || !holds_run {
        return Ok(());
    }
    if !args.overwrite {
        let fault = Fault::new(format!("{} already holds a run", folder.display()));
        let help = "`--resume` goes on with it, `--overwrite` starts over, `--set output_dir=...` keeps both";
        return Err(Failure::bad_input(fault.help(help)));
    }
    // Only what a run writes: the folder may hold other things, too.
    let checkpoints = rankine_train::checkpoint::folder(folder);
    for path in [checkpoints, folder.join("adapter"), folder.join("model")] {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| failed_at(&path, &error))?;
        }
    }
    if metrics.exists() {
        fs::remove_file(&metrics).map_err(|error| failed_at(&metrics, &error))?;
    }
    Ok(())
}

fn introduce(plan: &Plan, forecast: &Forecast) {
    let trained = plan.adapter.trained_parameters;
    note(&format!(
        "{} on {}: {} trained parameters ({} of {})",
        plan.name,
        plan.model.folder.display(),
        count(trained),
        percent(trained, plan.model.parameters),
        count(plan.model.parameters)
    ));
    note(&format!(
        "{}, {} trained tokens, {} to {}",
        counted(forecast.train_examples, "example"),
        count(forecast.train.trained_tokens),
        counted(forecast.total_steps, "step"),
        plan.output.output_dir.display()
    ));
    for (number, words) in [
        (forecast.train.truncated, "longer than max_seq_len and cut"),
        (forecast.train.dropped, "without a trained token and left out"),
        (forecast.train.without_stop, "without a stop token at the end: stopping is not learnt from them"),
    ] {
        if number > 0 {
            note(&format!("note: {} {words}", counted(number, "record")));
        }
    }
}

/// `recipe.json` (what was asked for, `--set` included) and `plan.json` (what was decided) in the run's folder.
fn write_run_files(plan: &Plan, forecast: &Forecast, recipe: &Recipe) -> Result<(), Failure> {
    let folder = &plan.output.output_dir;
    fs::create_dir_all(folder).map_err(|error| failed_at(folder, &error))?;
    for (name, value) in [("recipe.json", json!(recipe)), ("plan.json", plan.to_json(forecast))] {
        let path = folder.join(name);
        fs::write(&path, format!("{value:#}\n")).map_err(|error| failed_at(&path, &error))?;
    }
    Ok(())
}

fn load(plan: &Plan) -> Result<Model, Failure> {
    let model = &plan.model;
    let mut loaded = Model::load(&model.folder, model.dtype, &model.device.open()).map_err(|error| input(&error))?;
    match &plan.adapter.adapter_path {
        Some(path) => open::attach(&mut loaded, path)?,
        None => loaded.attach(&plan.adapter.layout, plan.training.seed),
    }
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

/// What must be the same for a resumed run to be the same run.
fn identity(plan: &Plan, forecast: &Forecast, examples: &[Example]) -> Json {
    let mut hash = Sha256::new();
    for example in examples {
        hash.update((example.input_ids.len() as u64).to_le_bytes());
        example.input_ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        example.labels.iter().for_each(|label| hash.update(label.to_le_bytes()));
    }
    let data: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let (training, model) = (&plan.training, &plan.model);
    let mut identity = Map::new();
    let nested = [
        ("lora", json!(plan.adapter.lora)),
        ("optimizer", json!(training.optimizer)),
        ("schedule", json!(plan.schedule(forecast))),
    ];
    // Flat, so that what differs is named by its own key.
    for (section, value) in nested {
        if let Json::Object(fields) = value {
            identity.extend(fields.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
        }
    }
    let plain = [
        ("model", json!(format!("{} of {} parameters", model.model_type, model.parameters))),
        ("dtype", json!(model.dtype.name())),
        ("adapter", json!(plan.adapter.kind)),
        ("data", json!(data)),
        ("weights", json!(plan.data.datasets.iter().map(|dataset| dataset.weight).collect::<Vec<_>>())),
        ("max_seq_len", json!(plan.data.max_seq_len)),
        ("packing", json!(plan.data.packing)),
        ("shuffle", json!(plan.data.shuffle)),
        ("micro_batch_size", json!(training.micro_batch_size)),
        ("gradient_accumulation_steps", json!(training.gradient_accumulation_steps)),
        ("max_grad_norm", json!(training.max_grad_norm)),
        ("neftune_alpha", json!(training.neftune_alpha)),
        ("seed", json!(training.seed)),
    ];
    identity.extend(plain.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Json::Object(identity)
}

/// The first held-out records, on which an export is compared.
fn documents(examples: &[Example]) -> Vec<Vec<u32>> {
    let (records, tokens) = CHECKED;
    examples.iter().take(records).map(|example| example.input_ids.iter().copied().take(tokens).collect()).collect()
}

/// The first Ctrl-C asks for a checkpoint, the second ends at once.
fn on_interrupt() -> Arc<AtomicBool> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupt);
    let set = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        note("\ninterrupted: a checkpoint is written after this step; again to stop at once without one");
    });
    if let Err(error) = set {
        note(&format!("note: Ctrl-C will end the run without a checkpoint: {error}"));
    }
    interrupt
}

/// The evaluation of what was kept. A finished run that is resumed evaluates nothing, but knows its best.
fn evaluation(outcome: &Outcome) -> Option<Evaluation> {
    let best = outcome.best.filter(|best| best.step == outcome.step).map(|best| best.evaluation);
    outcome.evaluation.or(best)
}

fn facts(plan: &Plan, forecast: &Forecast, outcome: &Outcome) -> CardFacts {
    let trained_on = forecast.datasets.iter().filter(|dataset| !dataset.validation);
    let dataset = |dataset: &crate::plan::DatasetForecast| DatasetFacts {
        name: PathBuf::from(&dataset.path).file_name().unwrap_or_default().to_string_lossy().into_owned(),
        records: dataset.records as u64,
    };
    CardFacts {
        title: Some(plan.name.clone()),
        base_model: Some(plan.model.name()),
        license: None,
        datasets: trained_on.map(dataset).collect(),
        validation_records: (forecast.validation_examples > 0).then_some(forecast.validation_examples as u64),
        steps: Some(outcome.step as u64),
        train_loss: outcome.last_loss,
        eval_loss_before: outcome.baseline.map(|evaluation| evaluation.loss),
        eval_loss: evaluation(outcome).map(|evaluation| evaluation.loss),
        figures: Vec::new(),
    }
}

fn train_failure(error: &TrainError) -> Failure {
    match error {
        TrainError::OtherRun { .. } => input(error),
        _ => failed(error),
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::Failed(Fault::new(chain(error)))
}

fn failed_at(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(Fault::new(format!("{}: {error}", path.display())))
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"=._-/:,".contains(&byte);
    if argument.bytes().all(plain) { argument.to_owned() } else { format!("'{}'", argument.replace('\'', r"'\''")) }
}
