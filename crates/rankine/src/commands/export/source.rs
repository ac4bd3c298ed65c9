//! What an export is made of: a finished run, or a base and an adapter.

use std::fs;
use std::path::{Path, PathBuf};

use rankine_export::{CardFacts, Onto};
use rankine_models::adapter_file::AdapterFile;
use rankine_models::model::BaseForm;
use rankine_models::weights::{StoredDtype, WeightFiles};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::Environment;
use crate::base;
use crate::cli::OntoArgs;
use crate::commands::open;
use crate::fault::{Failure, Fault, chain};
use crate::plan::usual_dtype;
use crate::recipe::Quantize;

/// Text on which an export is compared where no held-out text is known: prose, code, other scripts, numbers.
const SAMPLES: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times; every cloud has \
     a silver lining, and a stitch in time saves nine.",
    "fn main() {\n    let total: u64 = (1..=100).filter(|n| n % 3 == 0).sum();\n    println!(\"{total}\");\n}\n",
    "{\"order\": \"JZ-5397\", \"items\": [{\"name\": \"lamp\", \"price\": 12.50}], \"paid\": true, \"total\": 1250.75}",
    "Où est la bibliothèque ? Die Straße ist naß. Привет, мир. 今日はいい天気ですね。 3.14159 2.71828 1.41421",
];
/// Tokens of each that are compared.
const SAMPLE_TOKENS: usize = 128;

/// The names under which an adapter's metadata says how its base was held.
const QUANTIZE: &str = "quantize";
const DTYPE: &str = "dtype";

/// What a run leaves for later exports: `finished.json` in its folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// What cards say of the training.
    pub(crate) facts: CardFacts,
    /// The chat template that was trained with, where it is not the tokenizer's own.
    pub(crate) chat_template: Option<String>,
    /// Token ids of held-out text.
    pub(crate) documents: Vec<Vec<u32>>,
}

impl Finished {
    const FILE: &str = "finished.json";

    /// Writes it into a run's folder.
    pub(crate) fn write(&self, run: &Path) -> Result<(), Failure> {
        let path = run.join(Self::FILE);
        let failed = |error: &dyn std::error::Error| {
            Failure::Failed(Fault::new(format!("{}: {}", path.display(), chain(error))))
        };
        let text = serde_json::to_string(self).map_err(|error| failed(&error))?;
        rankine_models::weights::write_aside(&path, text.as_bytes()).map_err(|error| failed(&error))
    }

    fn read(run: &Path) -> Result<Option<Self>, Failure> {
        let path = run.join(Self::FILE);
        if !path.is_file() {
            return Ok(None);
        }
        read_json(&path).map(Some)
    }
}

/// What an export is made of.
pub(crate) struct Source {
    pub(crate) base: PathBuf,
    /// `None` for a model that needs none.
    pub(crate) adapter: Option<PathBuf>,
    /// Where the tokenizer is, if not with the base.
    pub(crate) tokenizer: Option<PathBuf>,
    pub(crate) facts: CardFacts,
    pub(crate) chat_template: Option<String>,
    pub(crate) documents: Vec<Vec<u32>>,
    /// How the base was held in training, where that was in fewer bits.
    pub(crate) held: Option<BaseForm>,
}

impl Source {
    /// A finished run.
    pub(crate) fn of_run(run: &Path, environment: &Environment) -> Result<Self, Failure> {
        let refuse = |what: String, help: &str| Err(Failure::bad_input(Fault::new(what).help(help)));
        let plan_file = run.join("plan.json");
        if !plan_file.is_file() {
            let what = format!("{} is not the folder of a run: it has no plan.json", run.display());
            return refuse(what, "give the `output_dir` of a run, or `--base MODEL --adapter DIR`");
        }
        let plan: Json = read_json(&plan_file)?;
        let finished = Finished::read(run)?.unwrap_or_default();
        let (model, adapter) = (run.join("model"), run.join("adapter"));
        let mut source = if model.join("config.json").is_file() && !adapter.is_dir() {
            Self::of_paths(model, None)?
        } else if adapter.join("adapter_config.json").is_file() {
            Self::of_paths(planned_base(&plan["plan"]["model"], environment)?, Some(adapter))?
        } else {
            let what = format!("{} has neither an adapter nor a model: the run did not end", run.display());
            return refuse(what, "go on with it: `rankine train RECIPE --resume`");
        };
        source.facts = finished.facts;
        source.chat_template = finished.chat_template;
        source.documents = finished.documents;
        source.with_documents()
    }

    /// A base by its folder or name, and an adapter.
    pub(crate) fn of_folders(name: &str, adapter: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let base = open::find_model(name, environment)?;
        let adapter = adapter.map(open::adapter_folder);
        let mut source = Self::of_paths(base, adapter)?;
        if source.adapter.is_none() {
            source.facts.base_model = Some(rankine_hub::split_revision(name).0.to_owned());
        }
        source.with_documents()
    }

    /// What `--onto` and `--trained-on` say, beside what the adapter says of itself.
    ///
    /// # Errors
    /// A base in fewer bits that is asked for and was none.
    pub(crate) fn with_onto(mut self, args: &OntoArgs) -> Result<Self, Failure> {
        if let Some(format) = args.trained_on {
            let files = WeightFiles::open(&self.base).map_err(|error| open::input(&error))?;
            self.held = Some(in_bits(usual_dtype(&files), format));
        }
        if args.onto == Onto::Quantised && self.held.is_none() {
            let fault = Fault::new("`--onto quantised`: nothing says that the base was held in fewer bits in training");
            return Err(Failure::bad_input(fault.help("leave it out, or say how: `--trained-on nf4`")));
        }
        Ok(self)
    }

    fn of_paths(base: PathBuf, adapter: Option<PathBuf>) -> Result<Self, Failure> {
        let held = adapter.as_deref().map(|adapter| held(&base, adapter)).transpose()?.flatten();
        // An adapter that brings a tokenizer was trained with that one.
        let tokenizer = adapter.clone().filter(|adapter| adapter.join("tokenizer.json").is_file());
        let facts = CardFacts::default();
        Ok(Self { base, adapter, tokenizer, facts, chat_template: None, documents: Vec::new(), held })
    }

    /// With text to compare on: the samples as the tokenizer has them where there is no held-out text; plain ids where
    /// there is no tokenizer either, as a merge needs none.
    fn with_documents(mut self) -> Result<Self, Failure> {
        if self.documents.iter().any(|document| !document.is_empty()) {
            return Ok(self);
        }
        self.documents = match base::tokenizer(self.tokenizer.as_deref().unwrap_or(&self.base), None) {
            Ok(tokenizer) => {
                let ids = SAMPLES.iter().map(|text| {
                    let mut ids = open::prompt_ids(&tokenizer, text)?;
                    ids.truncate(SAMPLE_TOKENS);
                    Ok(ids)
                });
                ids.collect::<Result<_, Failure>>()?
            }
            Err(_) => vec![(1..64).collect()],
        };
        Ok(self)
    }
}

/// What a card and the metadata of an adapter say of a base that was held in fewer bits.
pub(crate) fn held_facts(form: BaseForm) -> Vec<(String, String)> {
    let Some(format) = form.quantize else { return Vec::new() };
    vec![(QUANTIZE.to_owned(), format.name().to_owned()), (DTYPE.to_owned(), form.dtype.name().to_owned())]
}

/// The same read again from an adapter's metadata.
fn held(base: &Path, adapter: &Path) -> Result<Option<BaseForm>, Failure> {
    let adapter = AdapterFile::open(adapter).map_err(|error| open::input(&error))?;
    let says = |name: &str| adapter.metadata().get(&format!("rankine.{name}"));
    let Some(word) = says(QUANTIZE) else { return Ok(None) };
    let format: Quantize = open::parse_word("the adapter's metadata: rankine.quantize", word)?;
    let dtype = match says(DTYPE).and_then(|name| StoredDtype::from_name(name)) {
        Some(dtype) => dtype,
        None => usual_dtype(&WeightFiles::open(base).map_err(|error| open::input(&error))?),
    };
    Ok(Some(in_bits(dtype, format)))
}

fn in_bits(dtype: StoredDtype, format: Quantize) -> BaseForm {
    BaseForm { quantize: Some(format.into()), ..dtype.into() }
}

/// The base of a run: where it was, else by its name on the Hub.
fn planned_base(model: &Json, environment: &Environment) -> Result<PathBuf, Failure> {
    let text = |key: &str| model[key].as_str().unwrap_or_default();
    let folder = PathBuf::from(text("folder"));
    if folder.exists() {
        return Ok(folder);
    }
    if folder.as_os_str().is_empty() {
        let fault = Fault::new("the run's plan.json does not say what its base model is");
        return Err(Failure::bad_input(fault.help("give `--base MODEL --adapter RUN/adapter`")));
    }
    if model["local"] == true {
        let fault = Fault::new(format!("the run's base model is not at {}", folder.display()));
        let help = "go to the folder that the run was started in, or give `--base MODEL --adapter RUN/adapter`";
        return Err(Failure::bad_input(fault.help(help)));
    }
    let (name, _) = rankine_hub::split_revision(text("reference"));
    let at = model["commit"].as_str().map_or_else(String::new, |commit| format!("@{commit}"));
    open::find_model(&format!("{name}{at}"), environment)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let bad =
        |error: &dyn std::error::Error| Failure::bad_input(Fault::new(format!("{}: {}", path.display(), chain(error))));
    let text = fs::read(path).map_err(|error| bad(&error))?;
    serde_json::from_slice(&text).map_err(|error| bad(&error))
}
