//! `adapter_config.json`, as peft 0.21.2 writes and reads it.

use std::collections::BTreeMap;
use std::path::Path;

use rankine_nn::lora::{AdapterKind, LoraConfig, LoraInit, TargetModules};
use rankine_nn::target::{TargetError, TargetMatcher};
use serde_json::{Map, Value, json};

use super::fault::{AdapterFileError, ConfigFault};
use super::fields::Fields;

/// The name of the file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The peft whose format is written.
const PEFT_VERSION: &str = "0.21.2";

/// A low-rank adapter's configuration, under peft's names. Everything that peft can say and this cannot is refused when
/// it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The base model as its user wrote it: a Hub id or a folder.
    pub base_model_name_or_path: Option<String>,
    /// The base model's revision.
    pub revision: Option<String>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
    /// The class of the base, where peft was given no `task_type`.
    pub auto_mapping: Option<Value>,
    /// The peft that wrote it.
    pub peft_version: Option<String>,
    /// True in every saved file.
    pub inference_mode: bool,
    /// Rank.
    pub r: usize,
    /// Alpha.
    pub lora_alpha: f64,
    /// Dropout on the adapter's inputs.
    pub lora_dropout: f64,
    /// Scale by `alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// DoRA.
    pub use_dora: bool,
    /// Ranks by module.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas by module.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules that carry the adapter.
    pub target_modules: TargetModules,
    /// Modules that do not.
    pub exclude_modules: Option<TargetModules>,
    /// Layers that carry it.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Modules saved in full.
    pub modules_to_save: Option<Vec<String>>,
    /// How it started.
    pub init_lora_weights: InitLoraWeights,
    /// Whether a tied head and embedding stay tied where one of them is trained.
    pub ensure_weight_tying: bool,
    /// Keys of the file that are not known here and have a value: peft ignores them, too.
    pub unknown_keys: Vec<String>,
    /// Whether the two pattern maps were in sorted order, which decides between keys that match the same module.
    pub patterns_sorted: bool,
}

/// How an adapter started, where that left the base as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitLoraWeights {
    /// `true`: `A` uniform, `B` zero.
    Default,
    /// `false`: both random.
    Random,
    /// `gaussian`.
    Gaussian,
    /// `eva`.
    Eva,
    /// `orthogonal`.
    Orthogonal,
    /// `mica`.
    Mica,
}

impl AdapterConfig {
    /// The configuration of an adapter trained here.
    ///
    /// `modules` are the paths that carry it: they replace `all-linear` by the modules' names.
    pub fn from_lora(
        lora: &LoraConfig,
        kind: AdapterKind,
        base_model: Option<&str>,
        revision: Option<&str>,
        modules: &[String],
    ) -> Result<Self, AdapterFileError> {
        let use_dora = match kind {
            AdapterKind::Lora => false,
            AdapterKind::Dora => true,
            AdapterKind::Full => return Err(AdapterFileError::FullHasNoAdapter),
        };
        let target_modules = match &lora.target_modules {
            TargetModules::Pattern(text) if text.eq_ignore_ascii_case(TargetModules::ALL_LINEAR) => {
                let mut names: Vec<String> =
                    modules.iter().map(|path| path.rsplit('.').next().unwrap_or(path).to_owned()).collect();
                names.sort();
                names.dedup();
                TargetModules::Names(names)
            }
            other => other.clone(),
        };
        Ok(Self {
            base_model_name_or_path: base_model.map(str::to_owned),
            revision: revision.map(str::to_owned),
            task_type: Some("CAUSAL_LM".to_owned()),
            auto_mapping: None,
            peft_version: Some(PEFT_VERSION.to_owned()),
            inference_mode: true,
            r: lora.r,
            lora_alpha: lora.alpha,
            lora_dropout: lora.dropout,
            use_rslora: lora.use_rslora,
            use_dora,
            rank_pattern: lora.rank_pattern.clone(),
            alpha_pattern: lora.alpha_pattern.clone(),
            target_modules,
            exclude_modules: lora.exclude_modules.clone(),
            layers_to_transform: lora.layers_to_transform.clone(),
            modules_to_save: (!lora.modules_to_save.is_empty()).then(|| lora.modules_to_save.clone()),
            init_lora_weights: match lora.init {
                LoraInit::Default => InitLoraWeights::Default,
                LoraInit::Gaussian => InitLoraWeights::Gaussian,
            },
            ensure_weight_tying: false,
            unknown_keys: Vec::new(),
            patterns_sorted: true,
        })
    }

    /// The same adapter as a recipe says it. How it started is kept only where a recipe can ask for it.
    pub fn to_lora(&self) -> (LoraConfig, AdapterKind) {
        let lora = LoraConfig {
            r: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            use_rslora: self.use_rslora,
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            modules_to_save: self.modules_to_save.clone().unwrap_or_default(),
            init: match self.init_lora_weights {
                InitLoraWeights::Gaussian => LoraInit::Gaussian,
                _ => LoraInit::Default,
            },
        };
        (lora, if self.use_dora { AdapterKind::Dora } else { AdapterKind::Lora })
    }

    /// Which modules carry the adapter, and with which rank and scale.
    pub fn matcher(&self) -> Result<TargetMatcher, TargetError> {
        TargetMatcher::new(&self.to_lora().0)
    }

    /// Reads the text of an `adapter_config.json`; `file` names it in errors. Every fault is reported.
    pub fn parse(text: &str, file: &Path) -> Result<Self, AdapterFileError> {
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| AdapterFileError::NotJson { file: file.to_owned(), reason: e.to_string() })?;
        let mut fields = Fields::new(map);
        refuse_unsupported(&mut fields);
        let patterns_sorted = fields.is_sorted("rank_pattern") && fields.is_sorted("alpha_pattern");
        let config = Self {
            base_model_name_or_path: fields.optional_text("base_model_name_or_path"),
            revision: fields.optional_text("revision"),
            task_type: fields.optional_text("task_type"),
            auto_mapping: fields.take("auto_mapping"),
            peft_version: fields.optional_text("peft_version"),
            inference_mode: fields.flag("inference_mode"),
            r: fields.required("r", "an integer", Fields::index).unwrap_or_default(),
            lora_alpha: fields.required("lora_alpha", "a number", Value::as_f64).unwrap_or_default(),
            lora_dropout: fields.optional("lora_dropout", "a number", Value::as_f64).unwrap_or_default(),
            use_rslora: fields.flag("use_rslora"),
            use_dora: fields.flag("use_dora"),
            rank_pattern: fields.by_module("rank_pattern", "an object of integers", Fields::index),
            alpha_pattern: fields.by_module("alpha_pattern", "an object of numbers", Value::as_f64),
            target_modules: fields.required("target_modules", Fields::MODULES, Fields::modules).unwrap_or_default(),
            exclude_modules: fields.optional("exclude_modules", Fields::MODULES, Fields::modules),
            layers_to_transform: fields.optional("layers_to_transform", "an integer or a list of them", |value| {
                Fields::index(value).map(|layer| vec![layer]).or_else(|| Fields::list(value, Fields::index))
            }),
            modules_to_save: fields.optional("modules_to_save", "a list of names", Fields::names),
            init_lora_weights: init(&mut fields),
            ensure_weight_tying: fields.flag("ensure_weight_tying"),
            unknown_keys: fields.unknown(),
            patterns_sorted,
        };
        let mut faults = fields.faults;
        if let Err(error) = config.matcher() {
            faults.extend(error.faults.into_iter().map(ConfigFault::Rule));
        }
        if faults.is_empty() { Ok(config) } else { Err(AdapterFileError::Config { file: file.to_owned(), faults }) }
    }

    /// The text of `adapter_config.json`: every field that peft writes, sorted, indented by two.
    pub fn to_json(&self) -> String {
        let modules = |modules: &TargetModules| match modules {
            TargetModules::Pattern(pattern) => json!(pattern),
            TargetModules::Names(names) => json!(names),
        };
        let alphas: BTreeMap<&String, Value> = self.alpha_pattern.iter().map(|(k, v)| (k, number(*v))).collect();
        let fields: BTreeMap<&str, Value> = BTreeMap::from([
            ("alora_invocation_tokens", Value::Null),
            ("alpha_pattern", json!(alphas)),
            ("arrow_config", Value::Null),
            ("auto_mapping", json!(self.auto_mapping)),
            ("base_model_name_or_path", json!(self.base_model_name_or_path)),
            ("bias", json!("none")),
            ("corda_config", Value::Null),
            ("ensure_weight_tying", json!(self.ensure_weight_tying)),
            ("eva_config", Value::Null),
            ("exclude_modules", json!(self.exclude_modules.as_ref().map(modules))),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(self.inference_mode)),
            ("init_lora_weights", self.init_lora_weights.to_json()),
            ("kasa_config", Value::Null),
            ("layer_replication", Value::Null),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", json!(self.layers_to_transform)),
            ("loftq_config", json!({})),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_bias", json!(false)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("lora_ga_config", Value::Null),
            ("megatron_config", Value::Null),
            ("megatron_core", json!("megatron.core")),
            ("modules_to_save", json!(self.modules_to_save)),
            ("monteclora_config", Value::Null),
            ("peft_type", json!("LORA")),
            ("peft_version", json!(self.peft_version)),
            ("qalora_group_size", json!(16)),
            ("r", json!(self.r)),
            ("rank_pattern", json!(self.rank_pattern)),
            ("revision", json!(self.revision)),
            ("target_modules", modules(&self.target_modules)),
            ("target_parameters", Value::Null),
            ("task_type", json!(self.task_type)),
            ("trainable_token_indices", Value::Null),
            ("use_bdlora", Value::Null),
            ("use_dora", json!(self.use_dora)),
            ("use_qalora", json!(false)),
            ("use_rslora", json!(self.use_rslora)),
            ("velora_config", Value::Null),
        ]);
        format!("{:#}", json!(fields))
    }
}

impl InitLoraWeights {
    fn to_json(self) -> Value {
        match self {
            Self::Default => json!(true),
            Self::Random => json!(false),
            Self::Gaussian => json!("gaussian"),
            Self::Eva => json!("eva"),
            Self::Orthogonal => json!("orthogonal"),
            Self::Mica => json!("mica"),
        }
    }
}

/// An integer where it is one: Ollama reads alpha as an unsigned integer.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Fields that change what the adapter computes, in a way that is not done here.
fn refuse_unsupported(fields: &mut Fields) {
    let is_none = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match fields.required("peft_type", "a method's name", |value| value.as_str().map(str::to_owned)) {
        Some(kind) if kind != "LORA" => fields.faults.push(ConfigFault::NotLora { found: kind }),
        _ => {}
    }
    let layers = |value: &Value| ["", "layers", "model.layers"].iter().any(|p| value == p || *value == json!([p]));
    fields.refuse_unless("layers_pattern", |value| is_none(value) || layers(value), "only `layers` is supported");
    let reason = "trained biases of the base are not supported: train with bias `none`";
    fields.refuse_unless("bias", |value| value == "none", reason);
    for (field, reason) in [
        ("fan_in_fan_out", "weights stored as [in, out] (GPT-2) are not supported"),
        ("lora_bias", "biases of adapters are not supported"),
        ("use_qalora", "QA-LoRA pools its inputs, which is not supported"),
        ("layer_replication", "a base of repeated layers is not supported"),
        ("target_parameters", "adapters of bare parameters (mixtures of experts) are not supported"),
        ("trainable_token_indices", "trained single tokens are not supported: train embed_tokens with modules_to_save"),
        ("megatron_config", "Megatron's parallel layers are not supported"),
        ("alora_invocation_tokens", "adapters that start at certain tokens (aLoRA) are not supported"),
        ("arrow_config", "routed adapters (Arrow) are not supported"),
        ("kasa_config", "KaSA changes the base's weights: merge it with peft first"),
        ("monteclora_config", "sampled adapters (MonteCLoRA) are not supported"),
        ("use_bdlora", "block-diagonal adapters (BD-LoRA) are not supported"),
    ] {
        fields.refuse_unless(field, is_none, reason);
    }
    // These say how the adapter started or was trained; its weights are what they are.
    for field in [
        "megatron_core",
        "eva_config",
        "corda_config",
        "loftq_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "runtime_config",
    ] {
        fields.take(field);
    }
}

fn init(fields: &mut Fields) -> InitLoraWeights {
    let value = fields.take("init_lora_weights").unwrap_or(Value::Bool(true));
    let text = match &value {
        Value::Bool(true) => return InitLoraWeights::Default,
        Value::Bool(false) => return InitLoraWeights::Random,
        other => other.as_str().unwrap_or_default().to_lowercase(),
    };
    match text.as_str() {
        "gaussian" => return InitLoraWeights::Gaussian,
        "eva" => return InitLoraWeights::Eva,
        "orthogonal" => return InitLoraWeights::Orthogonal,
        "mica" => return InitLoraWeights::Mica,
        _ => {}
    }
    let changes_base = ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|name| text.starts_with(name));
    fields.faults.push(match changes_base {
        true => ConfigFault::BaseChanged { init: text },
        false => ConfigFault::UnknownInit { found: value.to_string() },
    });
    InitLoraWeights::Default
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
