//! A merged model as one GGUF file, tensor by tensor. Some rows are in memory at a time; a query's or key's matrix,
//! whose rows change places, is there whole, packed.

use rankine_models::config::DecoderConfig;
use rankine_models::gguf::{
    GgmlType, GgufMetadata, GgufTensor, GgufValue, SpacePrefix, VocabularyFiles, describe, gguf_name, interleave_rows,
    quantize, rope_factors, vocabulary, write_gguf,
};
use rankine_models::weights::{StoredDtype, TensorSink};

use super::MODEL_FILE;
use super::source::{Source, vocabulary_files};
use crate::card;
use crate::error::ExportError;
use crate::merge_plan::Output;
use crate::{Draft, ExportInputs, GgufQuantize, Made, Progress, Weights};

/// The embedding table.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head.
const HEAD: &str = "lm_head.weight";
/// The tensor of the rotary frequencies' divisors.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Tables that old checkpoints hold and nobody reads; llama.cpp's converter passes over them, too.
const PASSED_OVER: [&str; 3] = [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];

/// What was written of a model.
pub(crate) struct WrittenModel {
    pub(crate) made: Made,
    /// What the tokenizer was made of.
    pub(crate) files: VocabularyFiles,
    pub(crate) metadata: GgufMetadata,
    pub(crate) decoder: DecoderConfig,
}

/// Writes `model.gguf`. `usage` is how the card says that it is run.
pub(crate) fn write_model(draft: &mut Draft<'_>, usage: String) -> Result<WrittenModel, ExportError> {
    let Draft { config, inputs, folder, .. } = *draft;
    let source = Source::open(inputs)?;
    let files = vocabulary_files(inputs, config.target)?;
    let dtype = config.merged_dtype(&source.base);
    let plan = source.plan(inputs, dtype)?.onto(config);
    let tied = source.decoder.tie_word_embeddings && !plan.untied;
    let rows = plan.outputs.iter().find(|output| output.name == EMBEDDING).map_or(0, |output| output.shape[0]);
    let decoder = DecoderConfig { vocab_size: rows, ..source.decoder.clone() };

    let mut reasons = Vec::new();
    let mut tensors = Vec::new();
    let factors = rope_factors(&decoder);
    if let Some(factors) = &factors {
        let shape = vec![factors.len()];
        tensors.push((GgufTensor { name: ROPE_FACTORS.to_owned(), shape, kind: GgmlType::F32 }, None));
    }
    for output in &plan.outputs {
        if PASSED_OVER.iter().any(|end| output.name.ends_with(end)) || (tied && output.name == HEAD) {
            continue;
        }
        match gguf_name(&output.name) {
            Some(name) => {
                let kind = kind(output, config.quantize, tied);
                tensors.push((GgufTensor { name, shape: output.shape.clone(), kind }, Some(output)));
            }
            None => reasons.push(format!("`{}` has no name in llama.cpp", output.name)),
        }
    }
    let base_model = card::base_model(inputs, source.adapter.as_ref());
    let file_type = file_type(config.quantize, &tensors);
    let mut metadata = said(describe(&decoder), &mut reasons);
    metadata.extend(general(inputs, base_model.as_deref(), file_type));
    metadata.extend(said(vocabulary(&files, rows), &mut reasons));
    if !reasons.is_empty() {
        return Err(ExportError::Inexpressible { target: config.target, reasons });
    }

    let (mut done, total) = (0, tensors.iter().map(|(tensor, _)| tensor.bytes()).sum());
    let (planned, outputs): (Vec<GgufTensor>, Vec<Option<&Output<'_>>>) = tensors.into_iter().unzip();
    let mut outputs = outputs.into_iter();
    write_gguf(&folder.join(MODEL_FILE), &metadata, &planned, |tensor, sink| {
        // In planned order, one call for each.
        match outputs.next().flatten() {
            Some(output) => put(output, tensor.kind, &decoder, sink)?,
            None => sink.put(&pack(&tensor.name, tensor.kind, 1, factors.as_deref().unwrap_or_default(), 0)?)?,
        }
        done += tensor.bytes();
        (draft.progress)(Progress { tensor: &tensor.name, done, total });
        Ok::<(), ExportError>(())
    })?;
    let changed_tensors = plan.changed();
    let kept_tensors = plan.outputs.len() - changed_tensors;
    let mut card = card::gguf(inputs, source.adapter.as_ref(), base_model.as_deref(), Weights::Merged, usage);
    if let Some(window) =
        decoder.sliding_window.iter().flatten().min().filter(|w| **w < decoder.max_position_embeddings)
    {
        card.say(&format!(
            "The model was trained with a window of {window} tokens, which llama.cpp does not have for it: beyond so many \
             tokens it computes something else."
        ));
    }
    if let Ok(SpacePrefix { apart, parts, .. }) = SpacePrefix::of(&files.tokenizer, &files.chats)
        && apart > 0
    {
        card.say(&format!(
            "llama.cpp has one rule for the space before a text that follows a special token, and the model's tokenizer has \
             another: of {parts} such texts in a chat, {apart} begin with other tokens than were trained on."
        ));
    }
    let made = Made { base_model, changed_tensors, kept_tensors, untied: plan.untied, card };
    Ok(WrittenModel { made, files, metadata, decoder })
}

fn said(metadata: Result<GgufMetadata, Vec<String>>, reasons: &mut Vec<String>) -> GgufMetadata {
    metadata.unwrap_or_else(|faults| {
        reasons.extend(faults);
        GgufMetadata::new()
    })
}

/// How a tensor is packed, as llama.cpp packs it: vectors are f32, a row that is no whole number of blocks is f16.
fn kind(output: &Output<'_>, quantize: Option<GgufQuantize>, tied: bool) -> GgmlType {
    let columns = output.shape.last().copied().unwrap_or(1);
    if output.shape.len() < 2 {
        return GgmlType::F32;
    }
    match quantize {
        None => match output.dtype {
            StoredDtype::F32 => GgmlType::F32,
            StoredDtype::F16 => GgmlType::F16,
            StoredDtype::BF16 => GgmlType::BF16,
        },
        Some(_) if !columns.is_multiple_of(GgmlType::Q8_0.block_values()) => GgmlType::F16,
        Some(GgufQuantize::Q8_0) => GgmlType::Q8_0,
        // The head decides between tokens: llama-quantize gives it more bits, too.
        Some(GgufQuantize::Q4_0) if output.name == HEAD || (tied && output.name == EMBEDDING) => GgmlType::Q8_0,
        Some(GgufQuantize::Q4_0) => GgmlType::Q4_0,
    }
}

/// `general.file_type`: what most of the matrices are.
fn file_type(quantize: Option<GgufQuantize>, tensors: &[(GgufTensor, Option<&Output<'_>>)]) -> u32 {
    let values = |kind: GgmlType| {
        let of_kind = tensors.iter().filter(|(tensor, _)| tensor.shape.len() > 1 && tensor.kind == kind);
        of_kind.map(|(tensor, _)| tensor.bytes() / kind.block_bytes() as u64).sum::<u64>()
    };
    match quantize {
        Some(GgufQuantize::Q4_0) => 2,
        Some(GgufQuantize::Q8_0) => 7,
        None => {
            let kinds = [(GgmlType::F32, 0), (GgmlType::F16, 1), (GgmlType::BF16, 32)];
            kinds.into_iter().max_by_key(|(kind, _)| values(*kind)).map_or(0, |(_, number)| number)
        }
    }
}

/// The keys that say what the file is.
fn general(inputs: &ExportInputs<'_>, base_model: Option<&str>, file_type: u32) -> GgufMetadata {
    let text = |key: &str, text: &str| (format!("general.{key}"), GgufValue::Text(text.to_owned()));
    let mut metadata = vec![text("type", "model")];
    let last = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_owned();
    if let Some(name) = inputs.facts.title.clone().or_else(|| base_model.map(last)) {
        metadata.push(text("name", &name));
    }
    if let Some(license) = card::license(inputs) {
        metadata.push(text("license", &license));
    }
    if let Some(id) = base_model.filter(|name| card::is_hub_id(name)) {
        metadata.push(("general.base_model.count".to_owned(), GgufValue::U32(1)));
        metadata.push(text("base_model.0.name", &last(id)));
        metadata.push(text("base_model.0.organization", id.split('/').next().unwrap_or_default()));
        metadata.push(text("base_model.0.repo_url", &format!("https://huggingface.co/{id}")));
    }
    metadata.push(("general.file_type".to_owned(), GgufValue::U32(file_type)));
    metadata.push(("general.quantization_version".to_owned(), GgufValue::U32(2)));
    metadata
}

/// Writes one tensor's rows.
fn put(
    output: &Output<'_>,
    kind: GgmlType,
    decoder: &DecoderConfig,
    sink: &mut TensorSink<'_>,
) -> Result<(), ExportError> {
    let columns = if output.shape.len() == 1 { 1 } else { output.shape.last().copied().unwrap_or(1).max(1) };
    if !interleaved(decoder, &output.name) {
        return output.convert(&|first, values| pack(&output.name, kind, columns, values, first), &mut |bytes| {
            Ok(sink.put(bytes)?)
        });
    }
    let mut packed = Vec::new();
    output.convert(&|first, values| pack(&output.name, kind, columns, values, first), &mut |bytes| {
        packed.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(sink.put(&interleave_rows(&packed, output.shape[0], decoder.head_dim))?)
}

/// Whether the rows change places: those of `llama`'s queries and keys, whose rotary pairs are neighbours in ggml.
pub(super) fn interleaved(decoder: &DecoderConfig, name: &str) -> bool {
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    matches!(decoder.model_type.as_str(), "llama" | "mistral")
        && (module.ends_with(".q_proj") || module.ends_with(".k_proj"))
}

/// Packs whole rows; a value that has no room is an error that names its place.
pub(super) fn pack(
    tensor: &str,
    kind: GgmlType,
    columns: usize,
    values: &[f32],
    first: usize,
) -> Result<Vec<u8>, ExportError> {
    let beyond = |at: usize| {
        let (tensor, row, value) = (tensor.to_owned(), (first + at) / columns, values[at]);
        if value.is_finite() {
            ExportError::Overflow { tensor, row, value, dtype: kind.name() }
        } else {
            ExportError::NotFinite { tensor, row, value }
        }
    };
    // Rounded, such a value would be infinite.
    if kind == GgmlType::F16
        && let Some(at) = values.iter().position(|value| value.is_finite() && value.abs() >= 65520.0)
    {
        return Err(beyond(at));
    }
    quantize(kind, values).map_err(beyond)
}
