//! `target: peft`: the adapter alone, as peft saves one, ready to be uploaded.

use std::collections::BTreeMap;
use std::path::Path;

use rankine_models::adapter_file::{AdapterConfig, AdapterFile, CONFIG_FILE, TENSORS_FILE};
use rankine_models::weights::{PlannedTensor, StoredDtype, WeightFiles, encode, write_aside, write_safetensors};

use crate::card;
use crate::companions;
use crate::error::ExportError;
use crate::merge_plan::MergePlan;
use crate::{ExportInputs, Made};

pub(crate) fn write(inputs: &ExportInputs<'_>, folder: &Path) -> Result<Made, ExportError> {
    let adapter_folder = inputs.adapter.ok_or(ExportError::NoAdapter)?;
    let adapter = AdapterFile::open(adapter_folder)?;
    let base = WeightFiles::open(inputs.base)?;
    // Not merged, but that it could be is what makes it this base's adapter.
    let plan = MergePlan::new(&base, Some(&adapter), None, None).map_err(|faults| ExportError::Mismatch {
        adapter: adapter_folder.to_owned(),
        base: inputs.base.to_owned(),
        faults,
    })?;
    let base_model = card::base_model(inputs, Some(&adapter));
    write_tensors(&adapter, &card::metadata(inputs, Some(&adapter)), &folder.join(TENSORS_FILE))?;
    let saved =
        AdapterConfig { inference_mode: true, base_model_name_or_path: base_model.clone(), ..adapter.config.clone() };
    write_aside(&folder.join(CONFIG_FILE), saved.to_json().as_bytes())?;
    companions::copy_generation_config(inputs, folder)?;
    companions::copy_tokenizer(inputs, folder)?;
    let text = card::adapter(inputs, &adapter, base_model.as_deref());
    write_aside(&folder.join(card::FILE), text.as_bytes())?;
    let changed_tensors = plan.changed();
    Ok(Made { base_model, changed_tensors, kept_tensors: plan.outputs.len() - changed_tensors, untied: false })
}

/// As they are where they are F32, as peft writes them; cast to it otherwise.
fn write_tensors(adapter: &AdapterFile, metadata: &BTreeMap<String, String>, path: &Path) -> Result<(), ExportError> {
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
