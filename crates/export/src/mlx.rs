//! `target: mlx`: the adapter as mlx-lm loads it (`mlx_lm/tuner/utils.py`, `load_adapters`; read in 0.32.2).
//!
//! `adapters.safetensors` has `PATH.lora_a` [in, r] and `PATH.lora_b` [r, out], the transposes of peft's, and DoRA's
//! `PATH.m`. The reader makes layers of one rank and scale from `adapter_config.json` first, and refuses a tensor that they do
//! not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rankine_models::adapter_file::{Adapter, AdapterConfig, AdapterKey, CONFIG_FILE, HostTensor};
use rankine_models::weights::{PlannedTensor, StoredDtype, TensorFile, write_aside, write_tensors};
use serde_json::{Value, json};

use crate::base::parse;
use crate::card;
use crate::companions;
use crate::error::ExportError;
use crate::peft::Placed;
use crate::portable::Reader;
use crate::{Draft, Made, Target};

/// The file of the tensors.
pub(crate) const TENSORS_FILE: &str = "adapters.safetensors";

pub(crate) fn write(draft: &Draft<'_>) -> Result<Made, ExportError> {
    let Draft { inputs, folder, .. } = *draft;
    let placed = Placed::open(inputs)?;
    let adapter = placed.portable(Target::Mlx, Reader::Mlx)?;
    let tensors: BTreeMap<String, HostTensor> =
        adapter.tensors.iter().filter_map(|(key, tensor)| Some((name(key)?, stored(key, tensor)))).collect();
    let planned = tensors.iter().map(|(name, tensor)| {
        let plan = PlannedTensor { name: name.clone(), dtype: StoredDtype::F32, shape: tensor.shape.clone() };
        (plan, tensor.data.as_slice())
    });
    write_tensors(&folder.join(TENSORS_FILE), &card::metadata(inputs, Some(&placed.adapter)), planned)?;
    let config = json!({
        "fine_tune_type": if adapter.config.use_dora { "dora" } else { "lora" },
        "num_layers": layers(&placed),
        "lora_parameters": {
            "rank": adapter.config.r,
            // Folded into `lora_b`.
            "scale": 1.0,
            "dropout": 0.0,
            "keys": keys(&adapter),
        },
        "model": placed.base_model,
    });
    write_aside(&folder.join(CONFIG_FILE), format!("{config:#}\n").as_bytes())?;
    companions::copy_tokenizer(inputs, folder)?;
    let mut card = card::adapter(inputs, &placed.adapter, placed.base_model.as_deref());
    card.used_by(format!(
        "On a Mac with `pip install mlx-lm`:\n\n```sh\nmlx_lm.generate --model {base} --adapter-path path/to/this/folder \\\n    \
         --prompt \"...\"\nmlx_lm.fuse --model {base} --adapter-path path/to/this/folder --save-path fused\n```\n",
        base = placed.base_model.as_deref().unwrap_or("path/to/the/base")
    ));
    Ok(placed.made(card))
}

/// The adapter in a folder, as mlx-lm understands it.
pub(crate) fn read(folder: &Path) -> Result<Adapter, ExportError> {
    let file = folder.join(CONFIG_FILE);
    let text = fs::read(&file).map_err(ExportError::io(&file, "read"))?;
    let fields = Value::Object(parse(&text, file.clone())?);
    let parameters = &fields["lora_parameters"];
    let (Some(rank), Some(scale)) = (parameters["rank"].as_u64(), parameters["scale"].as_f64()) else {
        let reason = "`lora_parameters` has no `rank` and `scale`".to_owned();
        return Err(ExportError::Json { file, reason });
    };
    let stored = TensorFile::open(&folder.join(TENSORS_FILE))?;
    let mut tensors = BTreeMap::new();
    for name in stored.names() {
        let (Some(key), Some(tensor)) = (key(name), stored.get(name)) else { continue };
        let tensor = HostTensor { data: tensor.to_f32(), shape: tensor.shape };
        let tensor = match key {
            AdapterKey::Magnitude { .. } => tensor,
            _ => transposed(&tensor),
        };
        tensors.insert(key, tensor);
    }
    let modules: BTreeSet<&str> = tensors.keys().filter_map(module).collect();
    // peft's `alpha / r` is mlx's `scale`.
    let text = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": scale * rank as f64, "target_modules": modules,
        "use_dora": fields["fine_tune_type"] == "dora",
    });
    Ok(Adapter { config: AdapterConfig::parse(&text.to_string(), &file)?, tensors })
}

fn module(key: &AdapterKey) -> Option<&str> {
    match key {
        AdapterKey::LoraA { module } | AdapterKey::EmbeddingA { module } => Some(module),
        _ => None,
    }
}

/// What mlx-lm calls the tensor.
fn name(key: &AdapterKey) -> Option<String> {
    match key {
        AdapterKey::LoraA { module } | AdapterKey::EmbeddingA { module } => Some(format!("{module}.lora_a")),
        AdapterKey::LoraB { module } | AdapterKey::EmbeddingB { module } => Some(format!("{module}.lora_b")),
        AdapterKey::Magnitude { module } => Some(format!("{module}.m")),
        AdapterKey::BaseLayer { .. } | AdapterKey::Saved { .. } => None,
    }
}

/// What a tensor of mlx-lm is.
pub(crate) fn key(name: &str) -> Option<AdapterKey> {
    let (module, part) = name.rsplit_once('.')?;
    let embedding = module.ends_with("embed_tokens");
    let module = module.to_owned();
    match (part, embedding) {
        ("lora_a", false) => Some(AdapterKey::LoraA { module }),
        ("lora_b", false) => Some(AdapterKey::LoraB { module }),
        ("lora_a", true) => Some(AdapterKey::EmbeddingA { module }),
        ("lora_b", true) => Some(AdapterKey::EmbeddingB { module }),
        ("m", _) => Some(AdapterKey::Magnitude { module }),
        _ => None,
    }
}

fn stored(key: &AdapterKey, tensor: &HostTensor) -> HostTensor {
    match key {
        AdapterKey::Magnitude { .. } => tensor.clone(),
        _ => transposed(tensor),
    }
}

fn transposed(tensor: &HostTensor) -> HostTensor {
    let &[rows, columns] = tensor.shape.as_slice() else { return tensor.clone() };
    let mut data = vec![0.0; rows * columns];
    for (row, values) in tensor.data.chunks_exact(columns.max(1)).enumerate() {
        values.iter().enumerate().for_each(|(column, value)| data[column * rows + row] = *value);
    }
    HostTensor { shape: vec![columns, rows], data }
}

/// Adapted modules by their path below a layer; others by their whole path.
fn keys(adapter: &Adapter) -> BTreeSet<String> {
    let below = |module: &str| match module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((_, below)) => below.to_owned(),
        None => module.to_owned(),
    };
    adapter.tensors.keys().filter_map(module).map(below).collect()
}

/// Layers of the base. mlx-lm adapts the last so many, and all of the keys' modules in each.
fn layers(placed: &Placed) -> usize {
    let number = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
    placed.base.names().filter_map(number).max().map_or(0, |last| last + 1)
}
