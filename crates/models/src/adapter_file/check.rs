//! Whether an adapter's tensors are those that its configuration describes.

use std::collections::BTreeMap;

use rankine_nn::target::TargetMatcher;

use super::config::AdapterConfig;
use super::fault::TensorFault;
use super::key::AdapterKey;

type Shapes<'a> = BTreeMap<AdapterKey, &'a [usize]>;

/// Sorts tensors by what they are.
pub(super) fn typed<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> (Shapes<'a>, Vec<TensorFault>) {
    let mut shapes = BTreeMap::new();
    let mut faults = Vec::new();
    for (key, shape) in tensors {
        match AdapterKey::parse(key) {
            Ok(key) => {
                let spelled = key.to_string();
                if shapes.insert(key, shape).is_some() {
                    faults.push(TensorFault::Twice { key: spelled });
                }
            }
            Err(fault) => faults.push(fault.into()),
        }
    }
    (shapes, faults)
}

/// Everything that does not fit.
pub(super) fn faults(config: &AdapterConfig, matcher: &TargetMatcher, shapes: &Shapes<'_>) -> Vec<TensorFault> {
    let mut faults = Vec::new();
    if shapes.is_empty() {
        faults.push(TensorFault::Empty);
    }
    for (key, shape) in shapes {
        match key {
            AdapterKey::LoraA { module } => {
                pair(
                    key,
                    shape,
                    AdapterKey::LoraB { module: module.clone() },
                    shapes,
                    matcher.rank(module),
                    &mut faults,
                );
                carries(config, matcher, key, module, shapes, &mut faults);
            }
            AdapterKey::EmbeddingA { module } => {
                let b = AdapterKey::EmbeddingB { module: module.clone() };
                pair(key, shape, b, shapes, matcher.rank(module), &mut faults);
                carries(config, matcher, key, module, shapes, &mut faults);
            }
            AdapterKey::LoraB { module } => {
                missing(&AdapterKey::LoraA { module: module.clone() }, "`lora_B` is there", shapes, &mut faults);
            }
            AdapterKey::EmbeddingB { module } => {
                let a = AdapterKey::EmbeddingA { module: module.clone() };
                missing(&a, "`lora_embedding_B` is there", shapes, &mut faults);
            }
            AdapterKey::Magnitude { module } => magnitude(config, key, shape, module, shapes, &mut faults),
            AdapterKey::BaseLayer { module } => {
                if out_features(module, shapes).is_none() {
                    let why = "the module has no adapter, so its weight has no place here";
                    faults.push(TensorFault::Surplus { key: key.to_string(), why });
                }
            }
            AdapterKey::Saved { name } => {
                let module = name.strip_suffix(".weight").unwrap_or(name);
                if out_features(module, shapes).is_some() {
                    let why = "the module is both adapted and saved in full";
                    faults.push(TensorFault::Surplus { key: key.to_string(), why });
                }
            }
        }
    }
    faults
}

/// `A` is [r, n] and `B` is [m, r], of the rank that the configuration gives the module.
fn pair(
    a: &AdapterKey,
    shape: &[usize],
    b: AdapterKey,
    shapes: &Shapes<'_>,
    rank: usize,
    faults: &mut Vec<TensorFault>,
) {
    if shape.len() != 2 || shape[0] != rank {
        let expected = format!("[{rank}, n] (the rank that adapter_config.json gives it)");
        faults.push(TensorFault::Shape { key: a.to_string(), expected, found: shape.to_vec() });
    }
    match shapes.get(&b) {
        Some(shape) if shape.len() == 2 && shape[1] == rank => {}
        Some(shape) => {
            let expected = format!("[n, {rank}] (the rank that adapter_config.json gives it)");
            faults.push(TensorFault::Shape { key: b.to_string(), expected, found: shape.to_vec() });
        }
        None => missing(&b, "its `A` is there", shapes, faults),
    }
}

/// The module may carry an adapter, has one kind of it, and has magnitudes exactly with DoRA.
fn carries(
    config: &AdapterConfig,
    matcher: &TargetMatcher,
    key: &AdapterKey,
    module: &str,
    shapes: &Shapes<'_>,
    faults: &mut Vec<TensorFault>,
) {
    if !matcher.matches(module) {
        let why = match config.ensure_weight_tying {
            true => {
                "its module is not in target_modules but tied to one (ensure_weight_tying), which is not supported: merge the adapter with peft"
            }
            false => "adapter_config.json does not target its module, so peft would leave it out in silence",
        };
        faults.push(TensorFault::Surplus { key: key.to_string(), why });
    }
    if let Some([first, second]) = matcher.ambiguity(module)
        && !config.patterns_sorted
    {
        let [first, second] = [first, second].map(str::to_owned);
        faults.push(TensorFault::Ambiguous { module: module.to_owned(), first, second });
    }
    let other = AdapterKey::LoraA { module: module.to_owned() };
    if matches!(key, AdapterKey::EmbeddingA { .. }) && shapes.contains_key(&other) {
        let why = "the module is both an embedding and a linear layer";
        faults.push(TensorFault::Surplus { key: key.to_string(), why });
    }
    if config.use_dora {
        missing(&AdapterKey::Magnitude { module: module.to_owned() }, "`use_dora` is true", shapes, faults);
    }
}

fn magnitude(
    config: &AdapterConfig,
    key: &AdapterKey,
    shape: &[usize],
    module: &str,
    shapes: &Shapes<'_>,
    faults: &mut Vec<TensorFault>,
) {
    if !config.use_dora {
        let why = "`use_dora` is false in adapter_config.json";
        faults.push(TensorFault::Surplus { key: key.to_string(), why });
    }
    match out_features(module, shapes) {
        Some(out) if shape != [out] => {
            let expected = format!("[{out}]");
            faults.push(TensorFault::Shape { key: key.to_string(), expected, found: shape.to_vec() });
        }
        Some(_) => {}
        None => {
            let why = "the module has no adapter";
            faults.push(TensorFault::Surplus { key: key.to_string(), why });
        }
    }
}

/// Rows of the module's `B`.
fn out_features(module: &str, shapes: &Shapes<'_>) -> Option<usize> {
    let of = |key: AdapterKey| shapes.get(&key).and_then(|shape| shape.first().copied());
    of(AdapterKey::LoraB { module: module.to_owned() })
        .or_else(|| of(AdapterKey::EmbeddingB { module: module.to_owned() }))
}

fn missing(key: &AdapterKey, why: &'static str, shapes: &Shapes<'_>, faults: &mut Vec<TensorFault>) {
    if !shapes.contains_key(key) {
        faults.push(TensorFault::Missing { key: key.to_string(), why });
    }
}
