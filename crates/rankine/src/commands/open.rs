//! A model with its tokenizer, and what a prompt becomes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rankine_data::TextTokenizer;
use rankine_hub::ModelPart;
use rankine_models::adapter_file::read_adapter;
use rankine_models::generate::{GenerateConfig, eos_token_ids};
use rankine_models::model::{BaseForm, Model, Residency};
use rankine_models::sampling::Sampling;
use rankine_models::weights::WeightFiles;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use crate::Environment;
use crate::base;
use crate::cli::{ModelArgs, SamplingArgs};
use crate::fault::{BadInput, Failure, Fault, chain};
use crate::plan::{DevicePlan, agree, data_failure, held_dtype, trained_model};
use crate::recipe::{BaseCompute, Dtype, Quantize};
use crate::repositories::Repositories;
use crate::terminal::{note, numbers};

/// A model that is ready to run.
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) device: DevicePlan,
}

/// Loads a model, and an adapter onto it.
pub(crate) fn open(args: &ModelArgs, environment: &Environment) -> Result<Opened, Failure> {
    let folder = find_model(&args.model, environment)?;
    let tokenizer = base::tokenizer(&folder, None)?;
    // `strftime_now` of a template means the day of the conversation.
    for template in [tokenizer.chat_template(), tokenizer.tool_template()].into_iter().flatten() {
        template.set_time(SystemTime::now());
    }
    let device = DevicePlan::parse(&args.device).map_err(argument_fault)?;
    let files = WeightFiles::open(&folder).map_err(|error| input(&error))?;
    let (form, compute) = base_form(&files, device, args.dtype, args.quantize, args.base_compute)?;
    if files.total_bytes() > 1 << 30 {
        note(&format!("loading {} ({})", folder.display(), numbers::bytes(files.total_bytes())));
    }
    let mut model =
        Model::load(&folder, form, &device.open().map_err(argument_fault)?).map_err(|error| input(&error))?;
    if let Some(path) = &args.adapter {
        attach(&mut model, path)?;
    }
    let eos_token_ids = stop_tokens(&folder, &tokenizer);
    model.set_compute(compute.into());
    Ok(Opened { model, tokenizer, eos_token_ids, device })
}

/// How a base is held and multiplied with, as the arguments say.
pub(crate) fn base_form(
    files: &WeightFiles,
    device: DevicePlan,
    dtype: Dtype,
    quantize: Option<Quantize>,
    base_compute: BaseCompute,
) -> Result<(BaseForm, BaseCompute), Failure> {
    let dtype = device.dtype(dtype, held_dtype(files, device)).map_err(argument_fault)?;
    let compute = device.allows(base_compute).map_err(argument_fault)?;
    agree(quantize, compute).map_err(argument_fault)?;
    let form = BaseForm { dtype, quantize: quantize.map(Into::into), residency: Residency::Memory };
    Ok((form, compute))
}

/// Attaches the adapter of a folder; a run's folder means the adapter in it.
pub(crate) fn attach(model: &mut Model, path: &Path) -> Result<(), Failure> {
    let folder = adapter_folder(path);
    let adapter = read_adapter(&folder).map_err(|error| input(&error))?;
    model.attach_file(&adapter).map_err(|error| {
        Failure::bad_input(
            Fault::new(format!("{}: {}", folder.display(), chain(&error)))
                .help("give the base model that the adapter was trained on"),
        )
    })?;
    Ok(())
}

/// The folder itself, or `adapter` in the folder of a run.
pub(crate) fn adapter_folder(path: &Path) -> PathBuf {
    let inner = path.join("adapter");
    let is_adapter = |folder: &Path| folder.join("adapter_config.json").is_file();
    if !is_adapter(path) && is_adapter(&inner) { inner } else { path.to_owned() }
}

/// The folder of a model: local, or fetched from the Hub.
pub(crate) fn find_model(reference: &str, environment: &Environment) -> Result<PathBuf, Failure> {
    let repositories = Repositories::new(environment, false)?;
    let found = repositories.model(reference, None, &[PathBuf::from(".")], ModelPart::Whole);
    Ok(trained_model(found.map_err(|error| error.failure())?.folder))
}

/// The tokens that end a generation: those of the model's folder, and the tokenizer's own end of text.
pub(crate) fn stop_tokens(folder: &Path, tokenizer: &TextTokenizer) -> Vec<u32> {
    let mut ids = eos_token_ids(folder);
    ids.extend(tokenizer.eos_id().filter(|id| !ids.contains(id)));
    ids
}

/// A text to go on from, as the model sees it.
pub(crate) fn prompt_ids(tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>, Failure> {
    tokenizer.encode_prompt(text).map_err(data_failure)
}

/// A conversation up to where the assistant answers, as the model sees it.
pub(crate) fn chat_ids(
    tokenizer: &TextTokenizer,
    messages: &[Json],
    tools: Option<&Json>,
) -> Result<Vec<u32>, Failure> {
    if tokenizer.chat_template().is_none() && tokenizer.tool_template().is_none() {
        let fault =
            Fault::new("the model has no chat template: it is a base model that was not trained on conversations");
        return Err(Failure::bad_input(fault.help("give it a text to go on from, with `generate --prompt`")));
    }
    tokenizer.encode_chat(messages, tools, &Map::new()).map_err(data_failure)
}

/// How the next token is chosen.
pub(crate) fn generate_config(args: &SamplingArgs, eos_token_ids: &[u32]) -> Result<GenerateConfig, Failure> {
    let off = Sampling::default();
    let sampling = Sampling {
        repetition_penalty: args.repetition_penalty.map_or(off.repetition_penalty, |x| x as f32),
        temperature: args.temperature as f32,
        top_k: args.top_k.unwrap_or(off.top_k),
        top_p: args.top_p.map_or(off.top_p, |p| p as f32),
        min_p: args.min_p.map_or(off.min_p, |p| p as f32),
        seed: args.seed,
    };
    let mut faults: Vec<Fault> = sampling.faults().into_iter().map(Fault::new).collect();
    if args.stop.iter().any(String::is_empty) {
        faults.push(Fault::new("`--stop` is empty: it would end every text before it begins"));
    }
    if !faults.is_empty() {
        return Err(BadInput { sources: Vec::new(), faults }.into());
    }
    Ok(GenerateConfig {
        max_new_tokens: args.max_new_tokens,
        sampling,
        stop: args.stop.clone(),
        eos_token_ids: eos_token_ids.to_vec(),
    })
}

/// A word of one of the recipe's closed sets.
pub(crate) fn parse_word<T: DeserializeOwned>(argument: &str, word: &str) -> Result<T, Failure> {
    serde_json::from_value(Json::from(word))
        .map_err(|error| Failure::bad_input(Fault::new(format!("`{argument} {word}`: {error}"))))
}

/// An error in what the person gave.
pub(crate) fn input(error: &dyn std::error::Error) -> Failure {
    Failure::bad_input(Fault::new(chain(error)))
}

pub(crate) fn argument_fault((what, help): (String, String)) -> Failure {
    Failure::bad_input(Fault::new(what).help(help))
}
