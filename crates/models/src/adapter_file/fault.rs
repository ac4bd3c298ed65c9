//! What can be wrong with an adapter's folder.

use std::path::PathBuf;

use rankine_nn::target::TargetFault;
use thiserror::Error;

use super::key::KeyFault;
use crate::weights::WeightsError;

/// Why an adapter could not be read or written.
#[derive(Debug, Error)]
pub enum AdapterFileError {
    /// No `adapter_config.json`.
    #[error("{}: no adapter_config.json; this is not a folder of a peft adapter", folder.display())]
    NoConfig {
        /// The folder.
        folder: PathBuf,
    },
    /// The configuration cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The configuration is not a JSON object.
    #[error("{}: not a JSON object: {reason}", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// Fields that are missing, mistyped or not supported; all of them.
    #[error("{}", faults.iter().map(|fault| format!("{}: {fault}", file.display())).collect::<Vec<_>>().join("\n"))]
    Config {
        /// The configuration.
        file: PathBuf,
        /// At least one.
        faults: Vec<ConfigFault>,
    },
    /// The configuration is there and the tensors are not.
    #[error("{}: no adapter_model.safetensors beside adapter_config.json", folder.display())]
    NoTensors {
        /// The folder.
        folder: PathBuf,
    },
    /// The tensors are there only as a pickle, which runs code when it is read.
    #[error(
        "{}: pickle files are never read, because loading one runs the code inside it; load the adapter in peft and save it \
         again as safetensors", file.display()
    )]
    Pickle {
        /// The pickle.
        file: PathBuf,
    },
    /// Tensors that do not make an adapter of this configuration; all faults.
    #[error("{}", faults.iter().map(|fault| format!("{}: {fault}", file.display())).collect::<Vec<_>>().join("\n"))]
    Tensors {
        /// The file of the tensors.
        file: PathBuf,
        /// At least one.
        faults: Vec<TensorFault>,
    },
    /// The files themselves.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// `adapter: full` trains the model itself.
    #[error("a fully trained model has no adapter to write: save its weights")]
    FullHasNoAdapter,
}

/// One thing wrong with `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ConfigFault {
    /// Another method of peft.
    #[error("`peft_type` is {found}: only LORA adapters are supported")]
    NotLora {
        /// The method.
        found: String,
    },
    /// A field without which the adapter says nothing.
    #[error("`{field}` is missing: {expected} is expected")]
    Missing {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A value of the wrong type.
    #[error("`{field}` is {found} where {expected} is expected")]
    Type {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A value that changes what the adapter computes.
    #[error("`{field}` is {found}: {reason}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What it is.
        found: String,
        /// Why that is refused.
        reason: &'static str,
    },
    /// The adapter belongs to a base that is not the published one.
    #[error(
        "`init_lora_weights` is {init}: training began by changing the base's weights, so over the published base this adapter \
         computes something else; in peft, save it with `path_initial_model_for_weight_conversion`, or merge it there"
    )]
    BaseChanged {
        /// How the adapter started.
        init: String,
    },
    /// A start of which it is not known whether it changed the base.
    #[error("`init_lora_weights` is {found}: it is not known whether that changed the base's weights")]
    UnknownInit {
        /// The value.
        found: String,
    },
    /// Names, patterns or ranks that cannot be used.
    #[error("{0}")]
    Rule(TargetFault),
}

/// One thing wrong with an adapter's tensors.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TensorFault {
    /// A tensor of another method.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// Two spellings of one tensor.
    #[error("`{key}` occurs in two spellings")]
    Twice {
        /// The key in peft's spelling.
        key: String,
    },
    /// A tensor whose partner is not there.
    #[error("`{key}` is missing: {why}")]
    Missing {
        /// The missing key.
        key: String,
        /// What asks for it.
        why: &'static str,
    },
    /// A tensor that the configuration leaves no place for.
    #[error("`{key}`: {why}")]
    Surplus {
        /// The key.
        key: String,
        /// Why there is no place.
        why: &'static str,
    },
    /// The wrong shape.
    #[error("`{key}` has shape {found:?} where {expected} is expected")]
    Shape {
        /// The key.
        key: String,
        /// The shape that would be right.
        expected: String,
        /// The shape.
        found: Vec<usize>,
    },
    /// Fewer or more values than the shape has places.
    #[error("`{key}` of shape {shape:?} was given {found} values")]
    Length {
        /// The key.
        key: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Number of values.
        found: usize,
    },
    /// Two patterns match, disagree, and stand in an order that saving would change.
    #[error(
        "rank_pattern or alpha_pattern: `{first}` and `{second}` both match {module} and disagree, and the keys are not in \
         sorted order, in which they are saved: leave one of them"
    )]
    Ambiguous {
        /// The module.
        module: String,
        /// A key that matches.
        first: String,
        /// Another.
        second: String,
    },
    /// Nothing at all.
    #[error("the adapter has no tensors")]
    Empty,
}
