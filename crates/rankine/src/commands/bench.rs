//! `rankine bench`: how fast training steps are on this machine, and where their time goes.

use std::path::{Path, PathBuf};

use rankine_models::attach::{AdapterLayout, Tying};
use rankine_models::model::Model;
use rankine_models::weights::WeightFiles;
use rankine_nn::lora::{AdapterKind, LoraConfig};
use rankine_ops::InstructionSet;
use rankine_train::bench::{BenchConfig, BenchReport, Parts, bench};
use rankine_train::config::{OptimizerConfig, OptimizerKind};
use serde_json::{Value as Json, json};

use super::open::{self, argument_fault};
use crate::Environment;
use crate::cli::BenchArgs;
use crate::devices::processor;
use crate::fault::{Failure, Fault};
use crate::plan::{DevicePlan, Plan, agree};
use crate::recipe::{self, BaseCompute};
use crate::repositories::Repositories;
use crate::terminal::{self, note, numbers, table};

/// Times optimizer steps over random full sequences, every token trained on.
///
/// # Errors
/// A recipe, a model or an argument that cannot be used.
pub fn run(args: &BenchArgs, environment: &Environment) -> Result<(), Failure> {
    let set = instruction_set(args)?;
    // The model is opened for the set, too: weights are rounded as it takes them.
    set.scope(|| on(set, args, environment))
}

fn on(set: InstructionSet, args: &BenchArgs, environment: &Environment) -> Result<(), Failure> {
    for (name, value) in [("--batch", args.batch), ("--steps", args.steps), ("--rank", args.rank)] {
        if value == Some(0) {
            return Err(Failure::bad_input(Fault::new(format!("`{name}` is 0; expected a whole number from 1"))));
        }
    }
    if args.seq.is_some_and(|seq| seq < 2) {
        return Err(Failure::bad_input(Fault::new(
            "`--seq` is below 2: the first token of a sequence predicts the next",
        )));
    }
    let mut subject = Subject::open(args, environment)?;
    let context = subject.model.config.max_position_embeddings;
    if subject.seq > context {
        let fault = Fault::new(format!("`--seq` is {}, and the model's context holds {context} tokens", subject.seq));
        return Err(Failure::bad_input(fault.help(format!("give at most `--seq {context}`"))));
    }
    let config = BenchConfig {
        batch: subject.batch,
        seq: subject.seq,
        steps: args.steps.unwrap_or(5),
        piece_tokens: args.piece_tokens.or(subject.device.piece_tokens()),
        optimizer: subject.optimizer.clone(),
        seed: 1,
    };
    let report = bench(&mut subject.model, &config, &mut |step, parts| {
        if !args.json {
            let pace = (config.batch * config.seq) as f64 / parts.total();
            note(&format!("step {step} of {}: {:.2} s, {pace:.0} tokens/s", config.steps, parts.total()));
        }
    });
    let machine = machine(set);
    if args.json {
        let mut object = json!(report);
        object["batch"] = json!(config.batch);
        object["seq"] = json!(config.seq);
        object["steps"] = json!(config.steps);
        object["piece_tokens"] = json!(config.piece_tokens);
        object["base_compute"] = json!(subject.compute);
        object["trained_parameters"] = json!(subject.trained);
        object["forecast_memory_bytes"] = json!(subject.forecast);
        object["machine"] = machine;
        return terminal::print(&format!("{object}\n"));
    }
    terminal::print(&describe(&subject, &config, &report, &machine))
}

/// What is timed.
struct Subject {
    model: Model,
    device: DevicePlan,
    compute: BaseCompute,
    batch: usize,
    seq: usize,
    trained: usize,
    optimizer: OptimizerConfig,
    /// What a recipe's plan says that it will hold.
    forecast: Option<u64>,
}

impl Subject {
    /// By a recipe, or a model with the adapter that most people train.
    fn open(args: &BenchArgs, environment: &Environment) -> Result<Self, Failure> {
        let path = Path::new(&args.subject);
        let is_recipe = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        if is_recipe {
            if let Some(format) = args.quantize {
                let fault = Fault::new("`--quantize` is for a model without a recipe");
                return Err(Failure::bad_input(fault.help(format!("give `--set quantize={}`", format.name()))));
            }
            let file = recipe::read(&PathBuf::from(&args.subject), &args.sets)?;
            let plan = Plan::resolve(&file, &Repositories::new(environment, args.json)?)?;
            let compute = args.base_compute.unwrap_or(plan.model.base_compute);
            agree(plan.model.quantize, compute).map_err(argument_fault)?;
            let seq = args.seq.unwrap_or(plan.data.max_seq_len);
            let fit = plan.fit(seq);
            let model = super::train::load(&plan, &fit)?;
            let forecast = fit.memory.map(|memory| memory.total());
            let subject = Self::with(
                args,
                model,
                plan.model.device,
                compute,
                (plan.sequences(), plan.data.max_seq_len),
                plan.training.optimizer.clone(),
            );
            return Ok(Self { forecast, ..subject });
        }
        let folder = open::find_model(&args.subject, environment)?;
        let device = DevicePlan::parse(&args.device).map_err(argument_fault)?;
        let files = WeightFiles::open(&folder).map_err(|error| open::input(&error))?;
        let asked = args.base_compute.unwrap_or_default();
        let (form, compute) = open::base_form(&files, device, args.dtype, args.quantize, asked)?;
        let mut model =
            Model::load(&folder, form, &device.open().map_err(argument_fault)?).map_err(|error| open::input(&error))?;
        let r = args.rank.unwrap_or(16);
        let lora = LoraConfig { r, alpha: 2.0 * r as f64, ..LoraConfig::default() };
        let layout = AdapterLayout::resolve(&model.config, AdapterKind::Lora, &lora, Tying::default());
        model.attach(&layout.map_err(|error| open::input(&error))?, 1);
        let optimizer = OptimizerConfig {
            kind: OptimizerKind::Adamw,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            loraplus_lr_ratio: None,
        };
        Ok(Self::with(args, model, device, compute, (4, 256), optimizer))
    }

    fn with(
        args: &BenchArgs,
        mut model: Model,
        device: DevicePlan,
        compute: BaseCompute,
        (batch, seq): (usize, usize),
        optimizer: OptimizerConfig,
    ) -> Self {
        model.set_compute(compute.into());
        let trained = model.trained_tensors().iter().map(|(_, _, values)| values.len()).sum();
        let (batch, seq) = (args.batch.unwrap_or(batch), args.seq.unwrap_or(seq));
        Self { model, device, compute, batch, seq, trained, optimizer, forecast: None }
    }
}

/// The set that was asked for, or the widest.
fn instruction_set(args: &BenchArgs) -> Result<InstructionSet, Failure> {
    let Some(name) = &args.instruction_set else { return Ok(InstructionSet::current()) };
    let fault = |what: String| Failure::bad_input(Fault::new(format!("`--instruction-set`: {what}")));
    let set: InstructionSet = name.parse().map_err(fault)?;
    if !set.is_available() {
        let has: Vec<String> = InstructionSet::available().map(|set| set.to_string()).collect();
        return Err(fault(format!("this machine has no {set}; it has {}", has.join(", "))));
    }
    Ok(set)
}

/// What the figures depend on.
fn machine(set: InstructionSet) -> Json {
    let sets: Vec<String> = InstructionSet::available().map(|set| set.to_string()).collect();
    json!({
        "cpu": processor(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "instruction_sets": sets,
        "used": set.to_string(),
        "os": std::env::consts::OS,
        "rankine": env!("CARGO_PKG_VERSION"),
    })
}

fn describe(subject: &Subject, config: &BenchConfig, report: &BenchReport, machine: &Json) -> String {
    let Parts { forward, head, backward, gradients, optimizer } = report.parts;
    let total = report.parts.total();
    let part = |name: &str, seconds: f64| {
        vec![name.to_owned(), format!("{:.3} s", seconds), format!("{:.1}%", 100.0 * seconds / total)]
    };
    let parts = [
        part("forward", forward),
        part("head and loss", head),
        part("backward", backward),
        part("gradients", gradients),
        part("optimizer", optimizer),
        part("step", total),
    ];
    let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
    let head = format!(
        "{:.0} tokens/s (best {:.0}), {} at its peak\n{} sequences of {} tokens, {} trained parameters, base in {}\n\
         {}, {} cores, {}\n\n",
        report.tokens_per_second,
        report.best_tokens_per_second,
        report.peak_memory_bytes.map_or_else(|| "memory unknown".to_owned(), numbers::bytes),
        config.batch,
        config.seq,
        numbers::count(subject.trained),
        subject.compute.name(),
        text("cpu"),
        machine["cores"],
        text("used"),
    );
    head + &table::columns(&parts, &[1, 2], "  ")
}
