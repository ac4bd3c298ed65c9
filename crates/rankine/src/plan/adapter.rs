//! What is trained: every tensor, before any weight is read.

use std::path::{Path, PathBuf};

use rankine_models::adapter_file::AdapterFile;
use rankine_models::attach::{AdapterLayout, LayoutError, Tying};
use rankine_models::config::DecoderConfig;
use rankine_nn::lora::{AdapterKind, LoraConfig, TargetModules};
use rankine_nn::target::TargetFault;
use serde::Serialize;

use super::Decider;
use crate::fault::chain;

/// What is trained.
#[derive(Debug, Serialize)]
pub struct AdapterPlan {
    /// The method.
    pub kind: AdapterKind,
    /// Shape and place; `None` where the whole model is trained.
    pub lora: Option<LoraConfig>,
    /// The adapter that training goes on from.
    pub adapter_path: Option<PathBuf>,
    /// Trained numbers.
    pub trained_parameters: usize,
    /// Every trained tensor.
    #[serde(skip)]
    pub layout: AdapterLayout,
}

pub(super) fn decide(decider: &mut Decider<'_>, model: Option<&DecoderConfig>) -> Option<AdapterPlan> {
    let recipe = &decider.file.recipe;
    let kind = recipe.adapter.unwrap_or_default();
    if kind == AdapterKind::Full {
        for key in ["lora", "adapter_path", "loraplus_lr_ratio"] {
            decider.without(key, "`adapter: full` trains the model itself and adds nothing to it");
        }
        let layout = AdapterLayout::resolve(model?, kind, &LoraConfig::default(), Tying::Kept).ok()?;
        let trained_parameters = layout.trained_parameters();
        return Some(AdapterPlan { kind, lora: None, adapter_path: None, trained_parameters, layout });
    }
    let (kind, lora, tying, adapter_path) = match &recipe.adapter_path {
        None => (kind, recipe.lora.clone().unwrap_or_default(), Tying::Kept, None),
        Some(path) => {
            decider.without("lora", "an adapter that training goes on from keeps its own shape");
            let (folder, kind, lora, tying) = existing(decider, path)?;
            (kind, lora, tying, Some(folder))
        }
    };
    check_numbers(decider, &lora);
    // Without a model the rules are still read.
    let Some(model) = model else {
        if let Err(error) = rankine_nn::target::TargetMatcher::new(&lora) {
            layout_faults(decider, LayoutError::Rules(error), &lora);
        }
        return None;
    };
    match AdapterLayout::resolve(model, kind, &lora, tying) {
        Ok(layout) => {
            let trained_parameters = layout.trained_parameters();
            Some(AdapterPlan { kind, lora: Some(lora), adapter_path, trained_parameters, layout })
        }
        Err(error) => {
            layout_faults(decider, error, &lora);
            None
        }
    }
}

/// The shape of an adapter that is there already.
fn existing(decider: &mut Decider<'_>, path: &str) -> Option<(PathBuf, AdapterKind, LoraConfig, Tying)> {
    let folder = decider.find_or_fault("adapter_path", path, Path::is_dir)?;
    let file = match AdapterFile::open(&folder) {
        Ok(file) => file,
        Err(error) => {
            decider.fault("adapter_path", format!("`adapter_path`: {}", chain(&error)), "");
            return None;
        }
    };
    let (lora, kind) = file.config.to_lora();
    if let Some(asked) = decider.file.recipe.adapter.filter(|asked| *asked != kind) {
        let what = format!("`adapter` is {asked:?}, but the adapter at `adapter_path` is {kind:?}").to_lowercase();
        decider.fault("adapter", what, "leave `adapter` out");
    }
    let tying = if file.config.ensure_weight_tying { Tying::Kept } else { Tying::Parted };
    Some((folder, kind, lora, tying))
}

fn check_numbers(decider: &mut Decider<'_>, lora: &LoraConfig) {
    decider.check(lora.alpha.is_finite() && lora.alpha > 0.0, "lora.alpha", lora.alpha, "a number above 0");
    for (name, alpha) in &lora.alpha_pattern {
        let path = format!("lora.alpha_pattern.{name}");
        decider.check(alpha.is_finite() && *alpha > 0.0, &path, *alpha, "a number above 0");
    }
    decider.check((0.0..1.0).contains(&lora.dropout), "lora.dropout", lora.dropout, "a share from 0 to below 1");
}

/// Each fault at the key, and at the item of its list, that it is about.
fn layout_faults(decider: &mut Decider<'_>, error: LayoutError, lora: &LoraConfig) {
    match error {
        LayoutError::Rules(error) => {
            for fault in error.faults {
                let path = match &fault {
                    TargetFault::BadPattern { field, pattern, .. } => place_of(field, pattern, lora),
                    TargetFault::LayersWithPattern { .. } => "lora.layers_to_transform".to_owned(),
                    TargetFault::ZeroRank { key } if key == "r" => "lora.r".to_owned(),
                    TargetFault::ZeroRank { key } => format!("lora.rank_pattern.{key}"),
                };
                decider.fault(&path, format!("`lora`: {fault}"), "");
            }
        }
        LayoutError::Unmatched { faults } | LayoutError::Tensors { faults } => {
            for fault in faults {
                // Every sentence begins with its field and has the name that it is about in backticks.
                let field = fault.split([':', ' ']).next().unwrap_or_default();
                let name = fault.split('`').nth(1).unwrap_or_default();
                // One text is an expression over the whole path, as in peft; a bare name seldom means that.
                let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                let help = match field {
                    "target_modules" | "exclude_modules" if bare && is_pattern(field, lora) => {
                        format!(
                            "one text is a regular expression over the whole path; a name goes in a list: `{field}: [{name}]`"
                        )
                    }
                    _ => String::new(),
                };
                decider.fault(&place_of(field, name, lora), format!("`lora`: {fault}"), help);
            }
        }
    }
}

fn is_pattern(field: &str, lora: &LoraConfig) -> bool {
    let modules = if field == "target_modules" { Some(&lora.target_modules) } else { lora.exclude_modules.as_ref() };
    matches!(modules, Some(TargetModules::Pattern(_)))
}

fn place_of(field: &str, name: &str, lora: &LoraConfig) -> String {
    let names = match field {
        "target_modules" => Some(&lora.target_modules),
        "exclude_modules" => lora.exclude_modules.as_ref(),
        _ => None,
    };
    let index = match (field, names) {
        (_, Some(TargetModules::Names(names))) => names.iter().position(|known| known == name),
        ("modules_to_save", _) => lora.modules_to_save.iter().position(|known| known == name),
        _ => None,
    };
    match (field, index) {
        (_, Some(index)) => format!("lora.{field}[{index}]"),
        ("rank_pattern" | "alpha_pattern", None) => format!("lora.{field}.{name}"),
        _ => format!("lora.{field}"),
    }
}
