//! The base model: its folder, its shape and its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rankine_hub::{ModelPart, split_revision};
use rankine_models::companions::Companions;
use rankine_models::config::DecoderConfig;
use rankine_models::model::{BaseForm, Residency};
use rankine_models::weights::{INDEX_FILE, SINGLE_FILE, StoredDtype, WeightFiles};
use rankine_nn::lora::AdapterKind;
use rankine_ops::Compute;
use serde::Serialize;

use super::device::{self, DevicePlan};
use super::{Decider, tidy};
use crate::fault::chain;
use crate::recipe::{BaseCompute, BaseResidency, Quantize};
use crate::repositories::Found;

/// The base model.
#[derive(Debug, Serialize)]
pub struct ModelPlan {
    /// As the recipe names it.
    pub reference: String,
    /// Branch, tag or commit, where one was asked for.
    pub revision: Option<String>,
    /// The commit that was found, where it is a repository of the Hub.
    pub commit: Option<String>,
    /// Its files.
    pub folder: PathBuf,
    /// Whether the reference is a folder; else it is a name on the Hub.
    pub local: bool,
    /// `llama`, `qwen2`, ...
    pub model_type: String,
    /// Weights of the whole model.
    pub parameters: usize,
    /// The weight files' names.
    pub weight_files: Vec<String>,
    /// Bytes of all tensors on disk.
    pub weight_bytes: u64,
    /// Whether the file has quantised weights, which are dequantised as they are read.
    pub quantised: bool,
    /// The type of most weights on disk; of quantised ones the type that holds their values exactly.
    #[serde(serialize_with = "device::serialize_dtype")]
    pub stored_dtype: StoredDtype,
    /// The type of the frozen weights in memory.
    #[serde(serialize_with = "device::serialize_dtype")]
    pub dtype: StoredDtype,
    /// How products with the frozen base are computed.
    pub base_compute: BaseCompute,
    /// How the linear layers are held in fewer bits, if they are.
    pub quantize: Option<Quantize>,
    /// Where the linear layers are, as the recipe says it.
    pub base_residency: BaseResidency,
    /// Whether they could be left in their files.
    #[serde(skip)]
    pub can_stream: bool,
    /// Where it runs.
    pub device: DevicePlan,
    /// Whether that was left to the program.
    pub device_auto: bool,
    /// Its shape.
    #[serde(skip)]
    pub config: DecoderConfig,
}

impl ModelPlan {
    /// The name by which another program finds it: the Hub's, or the folder.
    pub fn name(&self) -> String {
        if self.local { self.folder.display().to_string() } else { split_revision(&self.reference).0.to_owned() }
    }

    /// How the base is held, where that is decided.
    pub(crate) fn form(&self, residency: Residency) -> BaseForm {
        BaseForm { dtype: self.dtype, quantize: self.quantize.map(Into::into), residency }
    }

    /// How the base is held, where that is in fewer bits.
    pub(crate) fn held(&self) -> Option<BaseForm> {
        self.quantize.map(|_| self.form(Residency::Memory))
    }

    /// What another command is given to use the same model.
    pub(crate) fn again(&self) -> String {
        match &self.commit {
            Some(commit) => format!("{}@{commit}", self.name()),
            None => self.folder.display().to_string(),
        }
    }
}

/// What is known of a model before its weights are looked at.
pub(super) struct Described {
    reference: String,
    revision: Option<String>,
    commit: Option<String>,
    pub(super) folder: PathBuf,
    /// `None` where it cannot be read, which is noted.
    pub(super) config: Option<DecoderConfig>,
}

/// Finds the model; of a repository everything but the weights is fetched.
pub(super) fn describe(decider: &mut Decider<'_>) -> Option<Described> {
    let recipe = &decider.file.recipe;
    let (reference, revision) = (recipe.base_model.clone(), recipe.revision.clone());
    if reference.trim().is_empty() {
        decider.fault("base_model", "`base_model` is empty", "give a model folder or the name of a model");
        return None;
    }
    let found = find(decider, &reference, revision.as_deref(), ModelPart::Description)?;
    let commit = found.repository.map(|used| used.commit);
    // A repository's folder is a snapshot, which is the model.
    let folder = if commit.is_some() { found.folder } else { tidy(&trained_model(found.folder)) };
    let has_any =
        ["config.json", "tokenizer.json", SINGLE_FILE, INDEX_FILE].iter().any(|name| folder.join(name).is_file());
    let companions = match Companions::of(&folder) {
        Ok(companions) => companions,
        Err(error) => {
            decider.fault("base_model", format!("`base_model`: {}", chain(&error)), "");
            return None;
        }
    };
    let in_one_file = matches!(companions, Companions::Gguf(_));
    if !has_any && !in_one_file {
        let what = format!("`base_model`: {} is not a model folder", folder.display());
        decider.fault("base_model", what, "a model folder holds config.json, tokenizer.json and safetensors files");
        return None;
    }
    if revision.is_some() && commit.is_none() {
        let what = if folder.is_file() { "file" } else { "folder" };
        decider.without("revision", &format!("`base_model` is a local {what}, which has no revisions"));
    }
    match companions.read("tokenizer.json") {
        Ok(Some(_)) => {}
        Ok(None) if in_one_file => {
            let what = format!("`base_model`: {} has no tokenizer among its metadata", folder.display());
            decider.fault("base_model", what, "take a file that was converted with its tokenizer");
        }
        Ok(None) => {
            let what = format!("`base_model`: {} has no tokenizer.json", folder.display());
            decider.fault(
                "base_model",
                what,
                "a model folder holds its tokenizer beside its weights: copy it from where the model came from",
            );
        }
        Err(error) => decider.fault("base_model", format!("`base_model`: {}", chain(&error)), ""),
    }
    let config = match DecoderConfig::from_folder(&folder) {
        Ok(config) => Some(config),
        Err(error) => {
            decider.fault("base_model", format!("`base_model`: {}", chain(&error)), "");
            None
        }
    };
    Some(Described { reference, revision, commit, folder, config })
}

/// Looks at the weights, which of a repository are fetched now, if nothing speaks against the run.
pub(super) fn decide(decider: &mut Decider<'_>, described: Described, device: Option<DevicePlan>) -> Option<ModelPlan> {
    let Described { reference, revision, commit, folder, config } = described;
    if commit.is_some() {
        if !decider.faults.is_empty() {
            return None;
        }
        find(decider, &reference, revision.as_deref(), ModelPart::Whole)?;
    }
    let files = match WeightFiles::open(&folder) {
        Ok(files) => Some(files),
        Err(error) => {
            decider.fault("base_model", format!("`base_model`: {}", chain(&error)), "");
            None
        }
    };
    let (config, files) = (config?, files?);
    let stored_dtype = usual_dtype(&files);
    // A device or type with a fault is noted; the rest is still looked at.
    let device = device.unwrap_or(DevicePlan::CPU);
    let dtype = device.dtype(decider.file.recipe.dtype.unwrap_or_default(), held_dtype(&files, device));
    let dtype = dtype.unwrap_or_else(|(what, help)| {
        decider.fault("dtype", format!("`dtype`: {what}"), help);
        stored_dtype
    });
    let asked = decider.file.recipe.base_compute.unwrap_or_default();
    let base_compute = device.allows(asked).unwrap_or_else(|(what, help)| {
        decider.fault("base_compute", what, help);
        asked
    });
    let quantize = quantize(decider, base_compute);
    let base_residency = decider.file.recipe.base_residency.unwrap_or_default();
    let streamed = streamed(decider, &files, device, dtype, base_compute);
    if let Err((what, help)) = &streamed
        && base_residency == BaseResidency::Stream
    {
        decider.fault("base_residency", format!("`base_residency: stream`: {what}"), help);
    }
    let names = files.shards().iter().filter_map(|shard| shard.path().file_name());
    Some(ModelPlan {
        reference,
        revision,
        local: commit.is_none(),
        commit,
        model_type: config.model_type.clone(),
        parameters: config.parameters(),
        weight_files: names.map(|name| name.to_string_lossy().into_owned()).collect(),
        weight_bytes: files.total_bytes(),
        quantised: files.is_quantised(),
        stored_dtype,
        dtype,
        base_compute,
        quantize,
        base_residency,
        can_stream: streamed.is_ok(),
        device,
        device_auto: decider.file.recipe.device.as_deref().is_none_or(|text| text == "auto"),
        config,
        folder,
    })
}

/// What a quantised base cannot be together with is noted.
fn quantize(decider: &mut Decider<'_>, base_compute: BaseCompute) -> Option<Quantize> {
    let quantize = decider.file.recipe.quantize?;
    if let Err((what, help)) = agree(Some(quantize), base_compute) {
        decider.fault("base_compute", what, help);
    }
    if decider.file.recipe.adapter == Some(AdapterKind::Full) {
        let what = "`quantize`: with `adapter: full` every weight is trained, and a quantised one cannot be";
        decider.fault("quantize", what.to_owned(), "train a LoRA adapter, or leave `quantize` out");
    }
    Some(quantize)
}

/// Whether the linear layers can be left in their files.
///
/// # Errors
/// Where they cannot: what, and what to do.
fn streamed(
    decider: &Decider<'_>,
    files: &WeightFiles,
    device: DevicePlan,
    dtype: StoredDtype,
    base_compute: BaseCompute,
) -> Result<(), (String, String)> {
    let recipe = &decider.file.recipe;
    let one_of_two = || "leave one of the two out".to_owned();
    device.allows(BaseResidency::Stream)?;
    if recipe.quantize.is_some() {
        return Err(("`quantize` makes other values of the weights, which are in no file".to_owned(), one_of_two()));
    }
    if Compute::from(base_compute).keeps_integers() {
        let way = base_compute.name();
        return Err((format!("`base_compute: {way}` keeps integers of every weight in memory"), one_of_two()));
    }
    if recipe.adapter == Some(AdapterKind::Full) {
        let what = "with `adapter: full` every weight is trained, and is in memory for that".to_owned();
        return Err((what, "train a LoRA adapter, or leave `base_residency` out".to_owned()));
    }
    match files.not_streamable(dtype) {
        None => Ok(()),
        Some(reason) => Err((reason, "leave `base_residency` and `dtype` out, or convert the base".to_owned())),
    }
}

/// Whether a base can be held and multiplied with so.
///
/// # Errors
/// Where the two contradict each other: what, and what to do.
pub(crate) fn agree(quantize: Option<Quantize>, base_compute: BaseCompute) -> Result<(), (String, String)> {
    if quantize.is_none() || !Compute::from(base_compute).keeps_integers() {
        return Ok(());
    }
    let way = base_compute.name();
    let what = format!("`base_compute: {way}` keeps integers of every weight, which `quantize` is to save");
    Err((what, "leave one of the two out".to_owned()))
}

fn find(decider: &mut Decider<'_>, reference: &str, revision: Option<&str>, part: ModelPart) -> Option<Found> {
    match decider.repositories.model(reference, revision, &decider.roots(), part) {
        Ok(found) => Some(found),
        Err(error) => {
            let about_revision = error.is_about_revision() && decider.file.has("revision");
            decider.not_found(if about_revision { "revision" } else { "base_model" }, &error);
            None
        }
    }
}

/// The folder itself; of a run that trained a whole model, the model in it.
pub(crate) fn trained_model(folder: PathBuf) -> PathBuf {
    let inner = folder.join("model");
    let is_model = |folder: &Path| folder.join("config.json").is_file();
    if !is_model(&folder) && is_model(&inner) { inner } else { folder }
}

/// What `dtype: auto` goes by: the type that holds the most bytes. A quantised checkpoint was never as exact as the
/// type that holds its values exactly, and on a GPU bf16 is half as large.
pub(crate) fn held_dtype(files: &WeightFiles, device: DevicePlan) -> StoredDtype {
    let approximate = files.is_quantised() && !device.is_cpu();
    if approximate { StoredDtype::BF16 } else { usual_dtype(files) }
}

/// The type that holds the most bytes.
pub fn usual_dtype(files: &WeightFiles) -> StoredDtype {
    let mut bytes: BTreeMap<&str, (usize, StoredDtype)> = BTreeMap::new();
    for tensor in files.names().filter_map(|name| files.get(name)) {
        bytes.entry(tensor.dtype.name()).or_insert((0, tensor.dtype)).0 += tensor.file_bytes();
    }
    bytes.into_values().max_by_key(|(bytes, _)| *bytes).map_or(StoredDtype::F32, |(_, dtype)| dtype)
}
