//! What a low-rank adapter is and which layers carry one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the trained tensors relate to the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// `y = x W^T + s (x A^T) B^T` ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)).
    #[default]
    Lora,
    /// LoRA on the direction, a trained magnitude for each output
    /// ([Liu et al. 2024](https://arxiv.org/abs/2402.09353)).
    Dora,
    /// Every weight of the base is trained; nothing is added.
    Full,
}

/// Which linear layers carry an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear` (every linear layer but the head), or a regular expression that the whole module path matches.
    Pattern(String),
    /// Module names; each matches a path that equals it or ends in `.name`.
    Names(Vec<String>),
}

impl Default for TargetModules {
    fn default() -> Self {
        Self::Pattern(Self::ALL_LINEAR.to_owned())
    }
}

impl TargetModules {
    /// The spelling that means every linear layer but the head.
    pub const ALL_LINEAR: &'static str = "all-linear";
}

/// How a new adapter starts. Both leave the model's output unchanged, since `B = 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoraInit {
    /// `A ~ U(-1/sqrt(in), 1/sqrt(in))`, as peft does.
    #[default]
    Default,
    /// `A ~ N(0, 1/r^2)`, as peft does.
    Gaussian,
}

/// A low-rank adapter's shape and place. Field names follow peft's `LoraConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is scaled by `alpha / r` (by `alpha / sqrt(r)` with `use_rslora`).
    pub alpha: f64,
    /// Share of the adapter's inputs that is zeroed in training.
    pub dropout: f64,
    /// Layers that carry an adapter: `all-linear`, a list of names, or a regular expression over the module path.
    pub target_modules: TargetModules,
    /// Layers that are left out although `target_modules` names them.
    pub exclude_modules: Option<TargetModules>,
    /// Scale by `alpha / sqrt(r)` ([Kalajdzievski 2023](https://arxiv.org/abs/2312.03732)).
    pub use_rslora: bool,
    /// Ranks that differ from `r`, by module name or regular expression.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas that differ from `alpha`, by module name or regular expression.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Decoder layers that carry an adapter; all of them where absent.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Modules trained and saved in full beside the adapter (`lm_head`, `embed_tokens`).
    pub modules_to_save: Vec<String>,
    /// How `A` starts.
    pub init: LoraInit,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: TargetModules::default(),
            exclude_modules: None,
            use_rslora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            modules_to_save: Vec::new(),
            init: LoraInit::default(),
        }
    }
}
