//! `target: merged`: base and adapter as one model, as transformers loads it.

use rankine_models::adapter_file::AdapterFile;
use rankine_models::companions::CONFIG_FILE;
use rankine_models::weights::{StoredDtype, WeightFiles, write_aside};
use serde_json::{Map, Value};

use crate::base::Base;
use crate::card;
use crate::companions;
use crate::error::ExportError;
use crate::merge::write_weights;
use crate::merge_plan::MergePlan;
use crate::{Draft, Made};

/// For which transformers the small files are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Whichever the base was made for: what needs no change is the base's to the byte.
    OfTheBase,
    /// 4.51.3, which Bedrock reads with.
    Transformers4,
}

pub(crate) fn write(draft: &mut Draft<'_>, spelling: Spelling) -> Result<Made, ExportError> {
    let Draft { config, inputs, folder, .. } = *draft;
    let Some(base_config) = Base::config(inputs.base)? else {
        return Err(ExportError::MissingFile { file: inputs.base.join(CONFIG_FILE), target: config.target });
    };
    let base = WeightFiles::open(inputs.base)?;
    let adapter = inputs.adapter.map(AdapterFile::open).transpose()?;
    let dtype = config.merged_dtype(&base);
    let tied = base_config.fields.get("tie_word_embeddings").and_then(Value::as_bool);
    let plan = MergePlan::of(inputs, &base, adapter.as_ref(), tied, dtype)?.onto(config);

    write_weights(&plan, folder, config.max_shard_bytes, card::metadata(inputs, adapter.as_ref()), draft.progress)?;
    let mut fields = base_config.fields.clone();
    change_config(&mut fields, &plan, dtype);
    match spelling {
        Spelling::OfTheBase => {
            let unchanged = fields == base_config.fields;
            let text = if unchanged { base_config.text } else { format!("{:#}\n", Value::Object(fields)).into_bytes() };
            write_aside(&folder.join(CONFIG_FILE), &text)?;
            companions::copy_generation_config(inputs, folder)?;
            companions::copy_tokenizer(inputs, folder)?;
        }
        Spelling::Transformers4 => crate::transformers4::write(inputs, fields, main_dtype(&plan), folder)?,
    }
    companions::copy_licences(inputs, folder)?;
    let base_model = card::base_model(inputs, adapter.as_ref());
    let card = card::merged(inputs, adapter.as_ref(), base_model.as_deref(), plan.changed());
    let changed_tensors = plan.changed();
    let kept_tensors = plan.outputs.len() - changed_tensors;
    Ok(Made { base_model, changed_tensors, kept_tensors, untied: plan.untied, card })
}

/// The type of most of the weights.
fn main_dtype(plan: &MergePlan<'_>) -> StoredDtype {
    let weight = |dtype| plan.outputs.iter().filter(|o| o.dtype == dtype).map(|o| o.base.len()).sum::<usize>();
    let dtypes = [StoredDtype::BF16, StoredDtype::F16, StoredDtype::F32];
    dtypes.into_iter().max_by_key(|dtype| weight(*dtype)).unwrap_or(StoredDtype::BF16)
}

/// Says in `config.json` what is no longer as in the base.
fn change_config(config: &mut Map<String, Value>, plan: &MergePlan<'_>, dtype: Option<StoredDtype>) {
    if plan.untied {
        config.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
    }
    if let Some(vocabulary) = plan.extended_vocabulary() {
        config.insert("vocab_size".to_owned(), vocabulary.into());
    }
    if let Some(dtype) = dtype {
        let spelled: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|key| config.contains_key(*key)).collect();
        // The older spelling is read by every transformers.
        for key in if spelled.is_empty() { vec!["torch_dtype"] } else { spelled } {
            config.insert(key.to_owned(), Value::String(dtype.torch_name().to_owned()));
        }
    }
}
