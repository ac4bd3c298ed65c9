//! `target: peft`: the adapter alone, as peft saves one, ready to be uploaded; also in the portable form.

use std::collections::BTreeMap;
use std::path::Path;

use rankine_models::adapter_file::{Adapter, AdapterConfig, AdapterFile, CONFIG_FILE, TENSORS_FILE};
use rankine_models::weights::{
    PlannedTensor, StoredDtype, WeightFiles, encode, write_aside, write_safetensors, write_tensors,
};

use crate::base::{Base, tied};
use crate::card::{self, Card};
use crate::companions;
use crate::error::ExportError;
use crate::merge_plan::MergePlan;
use crate::portable::{Reader, portable};
use crate::{Draft, ExportInputs, Made, Target};

/// An adapter that was found to be its base's.
pub(crate) struct Placed {
    pub(crate) adapter: AdapterFile,
    pub(crate) base: WeightFiles,
    pub(crate) base_model: Option<String>,
    pub(crate) tied: bool,
    pub(crate) changed_tensors: usize,
    pub(crate) kept_tensors: usize,
}

impl Placed {
    pub(crate) fn open(inputs: &ExportInputs<'_>) -> Result<Self, ExportError> {
        let adapter_folder = inputs.adapter.ok_or(ExportError::NoAdapter)?;
        let adapter = AdapterFile::open(adapter_folder)?;
        let base = WeightFiles::open(inputs.base)?;
        let config = Base::config(inputs.base)?;
        // Not merged, but that it could be is what makes it this base's adapter.
        let plan = MergePlan::of(inputs, &base, Some(&adapter), None, None)?;
        let (changed_tensors, outputs) = (plan.changed(), plan.outputs.len());
        drop(plan);
        Ok(Self {
            base_model: card::base_model(inputs, Some(&adapter)),
            tied: tied(&base, config.as_ref()),
            changed_tensors,
            kept_tensors: outputs - changed_tensors,
            adapter,
            base,
        })
    }

    /// The adapter for readers with one rank and one scale.
    pub(crate) fn portable(&self, target: Target, reader: Reader) -> Result<Adapter, ExportError> {
        portable(&self.adapter, &self.base, reader, self.tied)
            .map_err(|faults| ExportError::NotPortable { target, faults })
    }

    pub(crate) fn made(&self, card: Card) -> Made {
        Made {
            base_model: self.base_model.clone(),
            changed_tensors: self.changed_tensors,
            kept_tensors: self.kept_tensors,
            untied: false,
            card,
        }
    }
}

pub(crate) fn write(draft: &Draft<'_>) -> Result<Made, ExportError> {
    let placed = Placed::open(draft.inputs)?;
    let card = match draft.config.portable {
        true => write_portable(draft, &placed, draft.folder)?,
        false => write_as_trained(draft, &placed)?,
    };
    Ok(placed.made(card))
}

/// Writes the adapter as it is, with companions and card.
pub(crate) fn write_as_trained(draft: &Draft<'_>, placed: &Placed) -> Result<Card, ExportError> {
    let Draft { inputs, folder, .. } = *draft;
    let adapter = &placed.adapter;
    copy_tensors(adapter, &card::metadata(inputs, Some(adapter)), &folder.join(TENSORS_FILE))?;
    write_config(&adapter.config, placed.base_model.as_deref(), folder)?;
    write_companions(inputs, folder)?;
    Ok(card::adapter(inputs, adapter, placed.base_model.as_deref()))
}

/// Writes the portable form into `folder`, with companions and card.
pub(crate) fn write_portable(draft: &Draft<'_>, placed: &Placed, folder: &Path) -> Result<Card, ExportError> {
    let inputs = draft.inputs;
    let portable = placed.portable(draft.config.target, Reader::Plain)?;
    write_portable_tensors(&portable, &card::metadata(inputs, Some(&placed.adapter)), folder)?;
    write_config(&portable.config, placed.base_model.as_deref(), folder)?;
    write_companions(inputs, folder)?;
    let mut card = card::adapter(inputs, &placed.adapter, placed.base_model.as_deref());
    card.say(&format!(
        "The scale is folded into `B`, every module has rank {} and alpha {}, and every layer has every adapted module, so \
         that readers with one scale compute what peft computes.",
        portable.config.r, portable.config.lora_alpha
    ));
    Ok(card)
}

fn write_portable_tensors(
    adapter: &Adapter,
    metadata: &BTreeMap<String, String>,
    folder: &Path,
) -> Result<(), ExportError> {
    let planned = adapter.tensors.iter().map(|(key, tensor)| {
        let plan = PlannedTensor { name: key.to_string(), dtype: StoredDtype::F32, shape: tensor.shape.clone() };
        (plan, tensor.data.as_slice())
    });
    Ok(write_tensors(&folder.join(TENSORS_FILE), metadata, planned)?)
}

fn write_config(config: &AdapterConfig, base_model: Option<&str>, folder: &Path) -> Result<(), ExportError> {
    let base_model_name_or_path = base_model.map(str::to_owned);
    let saved = AdapterConfig { inference_mode: true, base_model_name_or_path, ..config.clone() };
    Ok(write_aside(&folder.join(CONFIG_FILE), saved.to_json().as_bytes())?)
}

fn write_companions(inputs: &ExportInputs<'_>, folder: &Path) -> Result<(), ExportError> {
    companions::copy_generation_config(inputs, folder)?;
    companions::copy_tokenizer(inputs, folder)
}

/// As they are where they are F32, as peft writes them; cast to it otherwise.
fn copy_tensors(adapter: &AdapterFile, metadata: &BTreeMap<String, String>, path: &Path) -> Result<(), ExportError> {
    let tensors: Vec<_> =
        adapter.keys().filter_map(|key| adapter.get(key).map(|tensor| (key.to_string(), tensor))).collect();
    let planned = tensors.iter().map(|(name, tensor)| PlannedTensor {
        name: name.clone(),
        dtype: StoredDtype::F32,
        shape: tensor.shape.clone(),
    });
    let mut tensors = tensors.iter();
    write_safetensors(path, metadata, planned.collect(), |_, sink| {
        let Some((_, tensor)) = tensors.next() else { return Ok(()) };
        match tensor.dtype {
            StoredDtype::F32 => sink.put(&tensor.bytes())?,
            StoredDtype::F16 | StoredDtype::BF16 => sink.put(&encode(StoredDtype::F32, &tensor.to_f32()))?,
        }
        Ok(())
    })
}
