//! An adapter as one GGUF file, and back.
//!
//! llama.cpp computes `W x + alpha / r B A x` with one alpha for all and the rank of each B. What else an adapter may say of
//! its scale goes into B; what is no such sum is refused.

use std::collections::BTreeMap;
use std::path::Path;

use rankine_models::adapter_file::{Adapter, AdapterConfig, AdapterFile, AdapterKey, HostTensor};
use rankine_models::config::DecoderConfig;
use rankine_models::gguf::{
    GgmlType, GgufTensor, GgufValue, LORA_A, LORA_B, describe, gguf_name, interleave_rows, read_adapter, write_gguf,
};
use rankine_models::weights::{StoredDtype, encode};
use rankine_nn::lora::TargetModules;

use super::ADAPTER_FILE;
use super::model::interleaved;
use super::source::Source;
use crate::card;
use crate::error::ExportError;
use crate::merge_plan::{Change, Layout, LowRank, Output};
use crate::{Draft, Made, Weights};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

pub(super) fn write(draft: &Draft<'_>, usage: String) -> Result<Made, ExportError> {
    let Draft { config, inputs, folder, .. } = *draft;
    let source = Source::open(inputs)?;
    let adapter = source.adapter.as_ref().ok_or(ExportError::NoAdapter)?;
    let plan = source.plan(inputs, None)?;
    let alpha = adapter.config.lora_alpha as f32;
    let mut reasons = Vec::new();
    let described = describe(&source.decoder).unwrap_or_else(|faults| {
        reasons.extend(faults);
        Vec::new()
    });
    let tied = source.base.get(HEAD).is_none() || source.decoder.tie_word_embeddings;
    reasons.extend(unsaid(adapter, &plan.outputs, tied, alpha));
    if !reasons.is_empty() {
        return Err(ExportError::Inexpressible { target: config.target, reasons });
    }

    let mut tensors = Vec::new();
    let mut packed = Vec::new();
    for output in &plan.outputs {
        let (Change::LowRank(change), Some(name)) = (&output.change, gguf_name(&output.name)) else { continue };
        for (end, (shape, bytes)) in
            [(LORA_A, factor_a(change)), (LORA_B, factor_b(output, change, &source.decoder, alpha))]
        {
            tensors.push(GgufTensor { name: format!("{name}{end}"), shape, kind: GgmlType::F32 });
            packed.push(bytes);
        }
    }
    let base_model = card::base_model(inputs, Some(adapter));
    let text = |key: &str, text: &str| (key.to_owned(), GgufValue::Text(text.to_owned()));
    // The architecture alone: the rest of the shape is the base's.
    let mut metadata = described.into_iter().take(1).collect::<Vec<_>>();
    metadata.push(text("general.type", "adapter"));
    metadata.extend(base_model.as_deref().map(|name| text("general.name", name.rsplit('/').next().unwrap_or(name))));
    metadata.push(text("adapter.type", "lora"));
    metadata.push(("adapter.lora.alpha".to_owned(), GgufValue::F32(alpha)));
    metadata.push(("general.quantization_version".to_owned(), GgufValue::U32(2)));
    let mut packed = packed.into_iter();
    // An adapter is small: its tensors are in memory before they are written.
    write_gguf(&folder.join(ADAPTER_FILE), &metadata, &tensors, |_, sink| {
        Ok::<(), ExportError>(sink.put(&packed.next().unwrap_or_default())?)
    })?;
    let card = card::gguf(inputs, Some(adapter), base_model.as_deref(), Weights::Adapter, usage);
    Ok(Made { base_model, changed_tensors: tensors.len() / 2, kept_tensors: 0, untied: false, card })
}

/// What llama.cpp has no words for.
fn unsaid(adapter: &AdapterFile, outputs: &[Output<'_>], tied: bool, alpha: f32) -> Vec<String> {
    let mut reasons = Vec::new();
    let merge = "merge it (`gguf` without `weights: adapter`)";
    if adapter.config.use_dora {
        reasons.push(format!("DoRA's norms are no sum of matrices: {merge}"));
    }
    let saved: Vec<String> =
        adapter.keys().filter(|key| matches!(key, AdapterKey::Saved { .. })).map(AdapterKey::base_tensor).collect();
    if !saved.is_empty() {
        reasons.push(format!("tensors that were trained in full ({}): {merge}", saved.join(", ")));
    }
    if alpha == 0.0 {
        reasons.push("an alpha of 0, by which llama.cpp means no scale at all".to_owned());
    }
    for output in outputs {
        let Change::LowRank(change) = &output.change else { continue };
        if tied && (output.name == EMBEDDING || output.name == HEAD) {
            reasons.push(format!("an update of `{}`, whose head is its embedding: {merge}", output.name));
        }
        if let Some(own) = &change.base_layer
            && own.to_f32() != output.base.to_f32()
        {
            reasons.push(format!("the adapter's own `{}`, which is not the base's: {merge}", output.name));
        }
        if gguf_name(&output.name).is_none() {
            reasons.push(format!("an update of `{}`, which has no name in llama.cpp", output.name));
        }
    }
    reasons
}

/// `A [r, in]`; of an embedding its transpose, whose rows llama.cpp picks by token.
fn factor_a(change: &LowRank<'_>) -> (Vec<usize>, Vec<u8>) {
    let values = change.a.to_f32();
    let (rank, columns) = (change.a.shape[0], change.a.shape[1]);
    let floats = |values: &[f32]| encode(StoredDtype::F32, values);
    match change.layout {
        Layout::Linear => (vec![rank, columns], floats(&values)),
        Layout::Embedding => (vec![columns, rank], floats(&transposed(&values, rank, columns))),
    }
}

/// `B [out, r]`, with what of the scale llama.cpp does not know.
fn factor_b(output: &Output<'_>, change: &LowRank<'_>, decoder: &DecoderConfig, alpha: f32) -> (Vec<usize>, Vec<u8>) {
    let mut values = change.b.to_f32();
    let rank = change.a.shape[0];
    let known = alpha / rank as f32;
    if change.scale != known {
        let factor = change.scale / known;
        values.iter_mut().for_each(|value| *value *= factor);
    }
    let bytes = encode(StoredDtype::F32, &values);
    let rows = change.b.shape[0];
    let bytes =
        if interleaved(decoder, &output.name) { interleave_rows(&bytes, rows, decoder.head_dim) } else { bytes };
    (change.b.shape.clone(), bytes)
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// What llama.cpp would compute with the adapter in `exported`, as an adapter in peft's terms for `base`. `trained` is the
/// configuration of the adapter that was exported.
pub(crate) fn read(exported: &Path, base: &Path, trained: &AdapterConfig) -> Result<Adapter, ExportError> {
    let decoder = DecoderConfig::from_folder(base)?;
    let found = read_adapter(&exported.join(ADAPTER_FILE))?;
    let mut tensors = BTreeMap::new();
    let mut rank_pattern = BTreeMap::new();
    for update in &found.updates {
        let module = update.tensor.strip_suffix(".weight").unwrap_or(&update.tensor).to_owned();
        let (a_rows, a_columns, a) = &update.a;
        let (b_rows, rank, b) = &update.b;
        let b = if interleaved(&decoder, &update.tensor) { update.straightened(decoder.head_dim) } else { b.clone() };
        let name = || module.clone();
        let (a_key, b_key, a) = if update.tensor == EMBEDDING {
            let a = HostTensor { shape: vec![*a_columns, *a_rows], data: transposed(a, *a_rows, *a_columns) };
            (AdapterKey::EmbeddingA { module: name() }, AdapterKey::EmbeddingB { module: name() }, a)
        } else {
            let a = HostTensor { shape: vec![*a_rows, *a_columns], data: a.clone() };
            (AdapterKey::LoraA { module: name() }, AdapterKey::LoraB { module: name() }, a)
        };
        tensors.insert(a_key, a);
        tensors.insert(b_key, HostTensor { shape: vec![*b_rows, *rank], data: b });
        rank_pattern.insert(module, *rank);
    }
    let config = AdapterConfig {
        lora_alpha: f64::from(found.alpha),
        target_modules: TargetModules::Names(rank_pattern.keys().cloned().collect()),
        rank_pattern,
        alpha_pattern: BTreeMap::new(),
        use_rslora: false,
        use_dora: false,
        exclude_modules: None,
        layers_to_transform: None,
        modules_to_save: None,
        ..trained.clone()
    };
    Ok(Adapter { config, tensors })
}
