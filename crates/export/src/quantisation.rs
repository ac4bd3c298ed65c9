//! What training on a base in fewer bits means for an export: what it was merged onto, and how far the two bases are
//! apart.

use std::collections::BTreeMap;

use rankine_models::adapter_file::AdapterFile;
use rankine_models::drift::Drift;
use rankine_models::model::BaseForm;
use rankine_models::weights::{StoredDtype, WeightFiles, encode};
use serde::{Deserialize, Serialize};

use crate::error::ExportError;
use crate::merge_plan::{MergePlan, Output};
use crate::{ExportConfig, ExportInputs, Form, Onto};

/// The adapter of an export was trained on a base held in fewer bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantisation {
    /// `nf4`, `int4` or `int8`.
    pub trained_on: String,
    /// What it was merged onto; `None` for an adapter.
    pub onto: Option<Onto>,
    /// How far each linear layer merged onto the rounded base is from the same merged onto the base as it is stored.
    pub tensors: BTreeMap<String, Apart>,
    /// How far the logits are from what was trained: the base in those bits, and the adapter.
    pub from_trained: Option<Drift>,
}

/// How far a tensor is from another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Apart {
    /// The largest difference of one value.
    pub max_abs: f32,
    /// The norm of the difference by the norm of the tensor.
    pub relative: f64,
}

impl Quantisation {
    /// What `config` says of it; the tensors are compared where they are merged.
    pub(crate) fn of(config: &ExportConfig, inputs: &ExportInputs<'_>) -> Result<Option<Self>, ExportError> {
        let Some((held, format)) = config.held.and_then(|held| Some((held, held.quantize?))) else { return Ok(None) };
        let mut found =
            Self { trained_on: format.name().to_owned(), onto: None, tensors: BTreeMap::new(), from_trained: None };
        if config.form() == Form::Model {
            found.onto = Some(config.onto);
            found.tensors = compare(held, inputs)?;
        }
        Ok(Some(found))
    }

    /// The tensor that is the furthest from itself, by the norms.
    pub fn furthest(&self) -> Option<(&str, Apart)> {
        let furthest = self.tensors.iter().max_by(|(_, a), (_, b)| a.relative.total_cmp(&b.relative));
        furthest.map(|(name, apart)| (name.as_str(), *apart))
    }

    /// The same in a sentence or two.
    pub fn words(&self) -> String {
        let Self { trained_on, onto, from_trained, .. } = self;
        let mut words = match onto {
            None => format!("The adapter was trained on the base's linear layers in {trained_on}."),
            Some(Onto::Full) => format!(
                "The adapter was trained on the base's linear layers in {trained_on} and is merged onto the base as it is \
                 stored."
            ),
            Some(Onto::Quantised) => format!(
                "The adapter was trained on the base's linear layers in {trained_on} and is merged onto those values."
            ),
        };
        if let Some((name, Apart { max_abs, relative })) = self.furthest() {
            words.push_str(&format!(
                " Merged onto the one and the other, `{name}` is the furthest apart: {:.2}% by its norm, {max_abs:.2e} in \
                 a value.",
                100.0 * relative
            ));
        }
        if let Some(drift) = from_trained {
            words.push_str(&format!(
                " From the base in {trained_on} with the adapter no logit differs by more than {:.2e} (the largest is \
                 {:.1}), and {} of {} likeliest tokens are the same.",
                drift.max_abs, drift.max_logit, drift.same_argmax, drift.positions
            ));
        }
        words
    }
}

/// Every tensor that depends on how the base is held, merged onto the one and the other.
fn compare(held: BaseForm, inputs: &ExportInputs<'_>) -> Result<BTreeMap<String, Apart>, ExportError> {
    let base = WeightFiles::open(inputs.base)?;
    let adapter = inputs.adapter.map(AdapterFile::open).transpose()?;
    let plan = MergePlan::of(inputs, &base, adapter.as_ref(), None, None)?;
    let mut found = BTreeMap::new();
    for output in plan.outputs.iter().filter(|output| output.follows_base()) {
        let rounded = Output { held: Some(held), ..output.clone() };
        found.insert(output.name.clone(), Apart::of(output, &rounded)?);
    }
    Ok(found)
}

impl Apart {
    /// One tensor is in memory whole, and a few parts of the other.
    fn of(one: &Output<'_>, other: &Output<'_>) -> Result<Self, ExportError> {
        let as_bytes = |_: usize, part: &[f32]| Ok(encode(StoredDtype::F32, part));
        let in_f32 = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
        };
        let mut values = Vec::with_capacity(other.base.len());
        other.convert(&as_bytes, &mut |bytes| {
            values.extend(in_f32(bytes));
            Ok(())
        })?;
        let (mut max_abs, mut square, mut whole) = (0.0_f32, 0.0, 0.0);
        let mut others = values.iter();
        one.convert(&as_bytes, &mut |bytes| {
            for (one, other) in in_f32(bytes).into_iter().zip(&mut others) {
                let apart = (one - other).abs();
                max_abs = max_abs.max(apart);
                square += f64::from(apart) * f64::from(apart);
                whole += f64::from(one) * f64::from(one);
            }
            Ok(())
        })?;
        let relative = if whole > 0.0 { (square / whole).sqrt() } else { 0.0 };
        Ok(Self { max_abs, relative })
    }
}
