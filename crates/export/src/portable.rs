//! An adapter for readers that know one rank and one scale: vLLM, TGI, LoRAX, llama.cpp, mlx-lm.
//!
//! Each module's scale is folded into its `B`, ranks are padded with zeros to the largest, and a kind of module that only
//! some layers adapt is given in every layer, zero where it was not: some readers drop it everywhere otherwise.

use std::collections::{BTreeMap, BTreeSet};

use rankine_models::adapter_file::{Adapter, AdapterConfig, AdapterFile, AdapterKey, HostTensor};
use rankine_models::weights::{StoredTensor, WeightFiles};
use rankine_nn::lora::TargetModules;
use thiserror::Error;

/// What the reader can say besides `W + B A`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Nothing.
    Plain,
    /// DoRA and adapted embeddings, as mlx-lm can.
    Mlx,
}

/// Something that a reader with one rank and one scale cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortableFault {
    /// `modules_to_save`.
    #[error("tensors trained in full ({}) have no place in it: train without `modules_to_save`", names.join(", "))]
    Saved {
        /// Their names.
        names: Vec<String>,
    },
    /// DoRA.
    #[error("DoRA's magnitudes have no place in it: train with `adapter: lora`")]
    Dora,
    /// An adapter of the embedding.
    #[error("an adapter of `{module}` is not read everywhere: leave it out of `target_modules`")]
    Embedding {
        /// The module.
        module: String,
    },
    /// A tied pair of which one is adapted.
    #[error(
        "`{module}` is adapted and shares its weight with the other end of the model, which these readers adapt, too"
    )]
    Tied {
        /// The module.
        module: String,
    },
    /// A base weight inside the adapter that is not the base's.
    #[error("`{module}`'s base weight was changed by the training, and the format has no place for it")]
    BaseLayer {
        /// The module.
        module: String,
    },
}

/// The adapter as such a reader takes it, or everything that it cannot be told.
pub(crate) fn portable(
    adapter: &AdapterFile,
    base: &WeightFiles,
    reader: Reader,
    tied: bool,
) -> Result<Adapter, Vec<PortableFault>> {
    let faults = faults(adapter, base, reader, tied);
    if !faults.is_empty() {
        return Err(faults);
    }
    let modules: Vec<&str> = adapter
        .keys()
        .filter_map(|key| match key {
            AdapterKey::LoraA { module } | AdapterKey::EmbeddingA { module } => Some(module.as_str()),
            _ => None,
        })
        .collect();
    let rank = modules.iter().map(|module| adapter.rank(module)).max().unwrap_or(adapter.config.r);
    let mut tensors = BTreeMap::new();
    for key in adapter.keys() {
        let Some(tensor) = adapter.get(key) else { continue };
        let padded = match key {
            AdapterKey::LoraA { .. } | AdapterKey::EmbeddingA { .. } => rows_padded(&tensor, rank),
            AdapterKey::LoraB { module } | AdapterKey::EmbeddingB { module } => {
                columns_padded(&tensor, rank, adapter.scale(module))
            }
            AdapterKey::Magnitude { .. } => HostTensor { data: tensor.to_f32(), shape: tensor.shape.clone() },
            // Equal to the base's, or there would be a fault.
            AdapterKey::BaseLayer { .. } | AdapterKey::Saved { .. } => continue,
        };
        tensors.insert(key.clone(), padded);
    }
    // A magnitude of zero would be wrong, and mlx-lm starts a missing one right.
    if !adapter.config.use_dora {
        for module in missing(base, &modules) {
            let Some(&[rows, columns]) = base.get(&format!("{module}.weight")).as_ref().map(|t| t.shape.as_slice())
            else {
                continue;
            };
            let zeros = |shape: [usize; 2]| HostTensor { data: vec![0.0; shape[0] * shape[1]], shape: shape.to_vec() };
            tensors.insert(AdapterKey::LoraA { module: module.clone() }, zeros([rank, columns]));
            tensors.insert(AdapterKey::LoraB { module }, zeros([rows, rank]));
        }
    }
    let kinds: BTreeSet<&str> = modules.iter().map(|module| kind(module)).collect();
    let config = AdapterConfig {
        r: rank,
        lora_alpha: rank as f64,
        use_rslora: false,
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        target_modules: TargetModules::Names(kinds.into_iter().map(str::to_owned).collect()),
        exclude_modules: None,
        layers_to_transform: None,
        modules_to_save: None,
        ..adapter.config.clone()
    };
    Ok(Adapter { config, tensors })
}

fn faults(adapter: &AdapterFile, base: &WeightFiles, reader: Reader, tied: bool) -> Vec<PortableFault> {
    let mut faults = Vec::new();
    let mut saved = Vec::new();
    for key in adapter.keys() {
        match key {
            AdapterKey::Saved { name } => saved.push(name.clone()),
            AdapterKey::EmbeddingA { module } if reader == Reader::Plain => {
                faults.push(PortableFault::Embedding { module: module.clone() });
            }
            AdapterKey::EmbeddingA { module } if tied => faults.push(PortableFault::Tied { module: module.clone() }),
            AdapterKey::LoraA { module } if tied && module == "lm_head" => {
                faults.push(PortableFault::Tied { module: module.clone() });
            }
            AdapterKey::BaseLayer { module } => {
                let own = adapter.get(key).map(|tensor| tensor.to_f32());
                let base = base.get(&key.base_tensor()).map(|tensor| tensor.to_f32());
                if own != base {
                    faults.push(PortableFault::BaseLayer { module: module.clone() });
                }
            }
            _ => {}
        }
    }
    if !saved.is_empty() {
        faults.insert(0, PortableFault::Saved { names: saved });
    }
    if adapter.config.use_dora && reader == Reader::Plain {
        faults.insert(0, PortableFault::Dora);
    }
    faults
}

/// `q_proj` of `model.layers.0.self_attn.q_proj`.
fn kind(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// `A` [r, in] with rows of zeros up to `rank`.
fn rows_padded(tensor: &StoredTensor<'_>, rank: usize) -> HostTensor {
    let columns = tensor.shape[1];
    let mut data = tensor.to_f32();
    data.resize(rank * columns, 0.0);
    HostTensor { shape: vec![rank, columns], data }
}

/// `s B` [out, r] with columns of zeros up to `rank`.
fn columns_padded(tensor: &StoredTensor<'_>, rank: usize, scale: f64) -> HostTensor {
    let (rows, own) = (tensor.shape[0], tensor.shape[1]);
    let values = tensor.to_f32();
    let mut data = vec![0.0; rows * rank];
    for (into, from) in data.chunks_exact_mut(rank).zip(values.chunks_exact(own)) {
        into.iter_mut().zip(from).for_each(|(into, from)| *into = (f64::from(*from) * scale) as f32);
    }
    HostTensor { shape: vec![rows, rank], data }
}

/// Modules of the base of a kind that the adapter has elsewhere.
fn missing(base: &WeightFiles, modules: &[&str]) -> Vec<String> {
    let layered = |module: &str| module.split('.').any(|part| part.parse::<usize>().is_ok());
    let adapted: BTreeSet<&str> = modules.iter().copied().collect();
    // With the part of the path below the layer: `self_attn.q_proj` is not another attention's `q_proj`.
    let below = |module: &str| -> Option<String> {
        let parts: Vec<&str> = module.split('.').collect();
        let layer = parts.iter().position(|part| part.parse::<usize>().is_ok())?;
        Some(parts[layer + 1..].join("."))
    };
    let kinds: BTreeSet<String> = modules.iter().filter_map(|module| below(module)).collect();
    base.names()
        .filter_map(|name| name.strip_suffix(".weight"))
        .filter(|module| layered(module) && !adapted.contains(module))
        .filter(|module| below(module).is_some_and(|kind| kinds.contains(&kind)))
        .map(str::to_owned)
        .collect()
}
