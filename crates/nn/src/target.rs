//! Which modules an adapter names, and with which rank and alpha: peft's own rules, in one place.
//!
//! Source: `check_target_module_exists` in `peft/tuners/tuners_utils.py`, `get_pattern_key` and `_set_trainable`
//! in `peft/utils/other.py`, peft 0.21.2. A path is a module's full name (`model.layers.0.self_attn.q_proj`).

use std::fmt;

use regex::Regex;
use thiserror::Error;

use crate::lora::{LoraConfig, TargetModules};

/// The rules of one [`LoraConfig`], compiled once and asked for every module.
#[derive(Debug, Clone)]
pub struct TargetMatcher {
    targets: Targets,
    excluded: Option<Targets>,
    /// One for each of `modules_to_save`: these never carry an adapter.
    saved: Vec<(String, Regex)>,
    layers: Vec<usize>,
    layer_index: Regex,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
    rank: usize,
    alpha: f64,
    use_rslora: bool,
}

impl TargetMatcher {
    /// Compiles the rules; every pattern that cannot be used is reported.
    pub fn new(config: &LoraConfig) -> Result<Self, TargetError> {
        let mut faults = Vec::new();
        let targets = Targets::new("target_modules", &config.target_modules, &mut faults);
        let excluded =
            config.exclude_modules.as_ref().and_then(|m| Targets::excluded("exclude_modules", m, &mut faults));
        let saved = config
            .modules_to_save
            .iter()
            .filter_map(|name| {
                let regex = compile("modules_to_save", name, &format!(r"^(?:(^|.*\.){name}($|\..*))"), &mut faults)?;
                Some((name.clone(), regex))
            })
            .collect();
        let layers = config.layers_to_transform.clone().unwrap_or_default();
        if let TargetModules::Pattern(pattern) = &config.target_modules
            && !is_all_linear(pattern)
            && config.layers_to_transform.is_some()
        {
            faults.push(TargetFault::LayersWithPattern { pattern: pattern.clone() });
        }
        let ranks = patterns("rank_pattern", &config.rank_pattern, &mut faults);
        let alphas = patterns("alpha_pattern", &config.alpha_pattern, &mut faults);
        let all_ranks =
            std::iter::once(("r", config.r)).chain(config.rank_pattern.iter().map(|(k, r)| (k.as_str(), *r)));
        faults.extend(all_ranks.filter(|(_, r)| *r == 0).map(|(key, _)| TargetFault::ZeroRank { key: key.to_owned() }));
        // The first numbered segment is the layer; a later one (an expert of a mixture) is not.
        let layer_index = compile("layers_to_transform", "", r"^.*?\.[^.]*\.(?<index>\d+)\.", &mut faults);
        match (targets, layer_index) {
            (Some(targets), Some(layer_index)) if faults.is_empty() => Ok(Self {
                targets,
                excluded,
                saved,
                layers,
                layer_index,
                ranks,
                alphas,
                rank: config.r,
                alpha: config.alpha,
                use_rslora: config.use_rslora,
            }),
            _ => Err(TargetError { faults }),
        }
    }

    /// Whether the linear layer or embedding at `path` carries an adapter.
    ///
    /// Ask for linear layers and embeddings only: `all-linear` takes every path but the head's and the embedding's.
    pub fn matches(&self, path: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|excluded| excluded.contain(path)) {
            return false;
        }
        if self.saved.iter().any(|(_, regex)| regex.is_match(path)) {
            return false;
        }
        self.targets.contain(path) && self.in_layers(path)
    }

    /// Whether the module at `path` is trained and saved in full (`modules_to_save`).
    ///
    /// As in peft, a bare ending is enough: `norm` saves `post_attention_layernorm` too.
    pub fn saves(&self, path: &str) -> bool {
        self.saved.iter().any(|(name, _)| path.ends_with(name.as_str()))
    }

    /// Rank of the adapter at `path`: that of the first key of `rank_pattern` (in sorted order) that matches, else `r`.
    pub fn rank(&self, path: &str) -> usize {
        first(&self.ranks, path).unwrap_or(self.rank)
    }

    /// Alpha of the adapter at `path`, found as [`Self::rank`] is.
    pub fn alpha(&self, path: &str) -> f64 {
        first(&self.alphas, path).unwrap_or(self.alpha)
    }

    /// Factor of the update at `path`: `alpha / r`, or `alpha / sqrt(r)` with `use_rslora`.
    pub fn scale(&self, path: &str) -> f64 {
        let rank = self.rank(path) as f64;
        self.alpha(path) / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Two keys of one pattern map that match `path` and disagree.
    ///
    /// Which one wins depends on the order of the keys. Peft takes the order of its file and sorts what it writes, so
    /// sorted order is what a saved adapter means; an unsorted file with such keys has no one meaning.
    pub fn ambiguity(&self, path: &str) -> Option<[&str; 2]> {
        disagreement(&self.ranks, path).or_else(|| disagreement(&self.alphas, path))
    }

    fn in_layers(&self, path: &str) -> bool {
        if self.layers.is_empty() || matches!(self.targets, Targets::Pattern(_)) {
            return true;
        }
        let index = self.layer_index.captures(path).and_then(|found| found["index"].parse().ok());
        index.is_some_and(|index: usize| self.layers.contains(&index))
    }
}

/// Everything in a [`LoraConfig`] that keeps its rules from being used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct TargetError {
    /// What is wrong, in the order of the fields; never empty.
    pub faults: Vec<TargetFault>,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// One thing wrong with the rules of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetFault {
    /// A regular expression that does not compile.
    #[error(
        "{field}: `{pattern}` is not a usable regular expression: {reason} (look-around and back-references are not supported: name the modules instead)"
    )]
    BadPattern {
        /// The configuration's field.
        field: &'static str,
        /// The expression as it was written.
        pattern: String,
        /// What the regex compiler found.
        reason: String,
    },
    /// `layers_to_transform` beside a regular expression, which peft refuses.
    #[error(
        "layers_to_transform cannot be used with the regular expression target_modules `{pattern}`: put the layers into the expression, or name the modules in a list"
    )]
    LayersWithPattern {
        /// The expression as it was written.
        pattern: String,
    },
    /// A rank of zero.
    #[error("rank 0 for `{key}`: a rank is at least 1 (leave a module out with exclude_modules)")]
    ZeroRank {
        /// `r`, or the key of `rank_pattern`.
        key: String,
    },
}

#[derive(Debug, Clone)]
enum Targets {
    AllLinear,
    Pattern(Regex),
    Names(Vec<String>),
}

impl Targets {
    fn new(field: &'static str, modules: &TargetModules, faults: &mut Vec<TargetFault>) -> Option<Self> {
        match modules {
            TargetModules::Pattern(pattern) if is_all_linear(pattern) => Some(Self::AllLinear),
            other => Self::excluded(field, other, faults),
        }
    }

    /// As [`Self::new`], for a field where `all-linear` has no meaning of its own.
    fn excluded(field: &'static str, modules: &TargetModules, faults: &mut Vec<TargetFault>) -> Option<Self> {
        match modules {
            TargetModules::Pattern(pattern) => {
                compile(field, pattern, &format!("^(?:{pattern})$"), faults).map(Self::Pattern)
            }
            TargetModules::Names(names) => Some(Self::Names(names.clone())),
        }
    }

    fn contain(&self, path: &str) -> bool {
        match self {
            Self::AllLinear => {
                let name = path.rsplit('.').next().unwrap_or(path);
                !matches!(name, "lm_head" | "embed_tokens")
            }
            Self::Pattern(regex) => regex.is_match(path),
            Self::Names(names) => names.iter().any(|name| {
                path.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
        }
    }
}

fn is_all_linear(pattern: &str) -> bool {
    pattern.eq_ignore_ascii_case(TargetModules::ALL_LINEAR)
}

#[derive(Debug, Clone)]
struct Pattern {
    key: String,
    regex: Regex,
}

fn patterns<T: Copy>(
    field: &'static str,
    map: &std::collections::BTreeMap<String, T>,
    faults: &mut Vec<TargetFault>,
) -> Vec<(Pattern, T)> {
    map.iter()
        .filter_map(|(key, value)| {
            let regex = compile(field, key, &format!(r"^(?:.*\.)?(?:{key})$"), faults)?;
            Some((Pattern { key: key.clone(), regex }, *value))
        })
        .collect()
}

fn first<T: Copy>(patterns: &[(Pattern, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.regex.is_match(path)).map(|(_, value)| *value)
}

fn disagreement<'a, T: PartialEq>(patterns: &'a [(Pattern, T)], path: &str) -> Option<[&'a str; 2]> {
    let mut matching = patterns.iter().filter(|(pattern, _)| pattern.regex.is_match(path));
    let (winner, value) = matching.next()?;
    let (other, _) = matching.find(|(_, other)| other != value)?;
    Some([&winner.key, &other.key])
}

fn compile(field: &'static str, pattern: &str, full: &str, faults: &mut Vec<TargetFault>) -> Option<Regex> {
    Regex::new(full)
        .map_err(|error| {
            // The compiler's message repeats the expression over several lines; its last line says what is wrong.
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            faults.push(TargetFault::BadPattern { field, pattern: pattern.to_owned(), reason });
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Names(names.iter().map(|n| (*n).to_owned()).collect())
    }

    fn matcher(change: impl FnOnce(&mut LoraConfig)) -> TargetMatcher {
        let mut config = LoraConfig { r: 4, alpha: 12.0, ..LoraConfig::default() };
        change(&mut config);
        TargetMatcher::new(&config).unwrap()
    }

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const Q1: &str = "model.layers.1.self_attn.q_proj";
    const Q10: &str = "model.layers.10.self_attn.q_proj";
    const UP1: &str = "model.layers.1.mlp.up_proj";

    #[test]
    fn a_name_matches_a_whole_segment() {
        let m = matcher(|c| c.target_modules = names(&["q_proj", "1.mlp.up_proj", "lm_head"]));
        assert!(m.matches(Q0) && m.matches(UP1) && m.matches("lm_head"));
        assert!(!m.matches("model.layers.0.self_attn.xq_proj"));
        assert!(!m.matches("model.layers.0.mlp.up_proj"));
        assert!(!m.matches("model.layers.11.mlp.up_proj"), "1.mlp is not 11.mlp");
    }

    #[test]
    fn an_expression_matches_the_whole_path() {
        let m = matcher(|c| c.target_modules = TargetModules::Pattern(r".*\.0\..*_proj|lm_head".into()));
        assert!(m.matches(Q0) && m.matches("lm_head"));
        assert!(!m.matches(Q1) && !m.matches(Q10) && !m.matches("lm_head.x"));
        assert!(!matcher(|c| c.target_modules = TargetModules::Pattern("q_proj".into())).matches(Q0));
    }

    #[test]
    fn all_linear_leaves_head_and_embedding_out() {
        let m = matcher(|c| c.target_modules = TargetModules::Pattern("ALL-linear".into()));
        assert!(m.matches(Q0) && m.matches(UP1));
        assert!(!m.matches("lm_head") && !m.matches("model.embed_tokens"));
    }

    #[test]
    fn excluded_and_saved_modules_carry_no_adapter() {
        let m = matcher(|c| {
            c.exclude_modules = Some(names(&["up_proj"]));
            c.modules_to_save = vec!["layers.1".into()];
        });
        assert!(m.matches(Q0) && m.matches(Q10));
        assert!(!m.matches(UP1) && !m.matches(Q1), "inside a saved module");
        let m = matcher(|c| c.exclude_modules = Some(TargetModules::Pattern(r".*\.1\..*".into())));
        assert!(m.matches(Q0) && !m.matches(Q1));
    }

    #[test]
    fn saved_modules_match_by_ending() {
        let m = matcher(|c| c.modules_to_save = vec!["embed_tokens".into(), "norm".into()]);
        assert!(m.saves("model.embed_tokens") && m.saves("model.layers.0.input_layernorm"));
        assert!(!m.saves("lm_head"));
    }

    #[test]
    fn layers_are_chosen_by_the_first_number() {
        let m = matcher(|c| {
            c.target_modules = names(&["q_proj", "gate"]);
            c.layers_to_transform = Some(vec![1]);
        });
        assert!(m.matches(Q1) && !m.matches(Q0) && !m.matches(Q10));
        assert!(m.matches("model.layers.1.experts.0.gate") && !m.matches("model.layers.0.experts.1.gate"));
        assert!(!m.matches("q_proj"), "no layer");
        assert!(matcher(|c| c.layers_to_transform = Some(vec![])).matches(Q0), "an empty list is no choice");
        assert!(!matcher(|c| c.layers_to_transform = Some(vec![1])).matches(Q0), "all-linear is a list of names");
    }

    #[test]
    fn patterns_decide_rank_alpha_and_scale() {
        let m = matcher(|c| {
            c.rank_pattern = [(r"^model\.layers\.1\..*\.q_proj".into(), 6), ("mlp.(gate|up)_proj".into(), 8)].into();
            c.alpha_pattern = [("q_proj".into(), 5.0)].into();
        });
        assert_eq!((m.rank(Q0), m.alpha(Q0)), (4, 5.0));
        assert_eq!((m.rank(Q1), m.alpha(Q1)), (6, 5.0));
        assert_eq!((m.rank(UP1), m.alpha(UP1)), (8, 12.0));
        assert_eq!(m.rank("model.layers.1.mlp.up_proj.x"), 4, "to the end of the path");
        assert_eq!(m.rank("model.layers.1.xmlp.up_proj"), 4, "from a segment's start");
        assert_eq!(m.scale(UP1), 1.5);
        let m = matcher(|c| c.use_rslora = true);
        assert_eq!(m.scale(Q0), 6.0);
    }

    #[test]
    fn the_first_key_in_sorted_order_wins() {
        let m = matcher(|c| c.rank_pattern = [("q_proj".into(), 2), ("layers.1.self_attn.q_proj".into(), 8)].into());
        assert_eq!((m.rank(Q1), m.rank(Q0)), (8, 2));
        assert_eq!(m.ambiguity(Q1), Some(["layers.1.self_attn.q_proj", "q_proj"]));
        assert_eq!(m.ambiguity(Q0), None);
    }

    #[test]
    fn every_fault_is_reported() {
        let error = TargetMatcher::new(&LoraConfig {
            r: 0,
            target_modules: TargetModules::Pattern("(q_proj".into()),
            layers_to_transform: Some(vec![0]),
            exclude_modules: Some(TargetModules::Pattern("(?!x)y".into())),
            alpha_pattern: [("[".into(), 1.0)].into(),
            modules_to_save: vec![")".into()],
            ..LoraConfig::default()
        })
        .unwrap_err();
        let text = error.to_string();
        for part in ["`(q_proj`", "`(?!x)y`", "`[`", "modules_to_save: `)`", "layers_to_transform", "rank 0 for `r`"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(error.faults.len(), 6);
    }
}
