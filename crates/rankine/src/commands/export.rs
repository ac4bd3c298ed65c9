//! Exports, each checked before it is put in its place: a merged model must say what base and adapter say.

use std::path::Path;

use rankine_export::{self as export, CardFacts, ExportConfig, ExportDtype, ExportInputs, ExportReport, Target};
use rankine_models::drift::{Drift, drift};
use rankine_models::model::Model;
use rankine_models::weights::{StoredDtype, WeightsError};
use serde::Serialize;

use super::open;
use crate::fault::{Failure, Fault, chain};
use crate::plan::DevicePlan;
use crate::terminal::progress;

/// One export.
pub(crate) struct Export<'a> {
    pub(crate) target: Target,
    /// Type of the written weights; the base's where `None`.
    pub(crate) dtype: Option<StoredDtype>,
    pub(crate) base: &'a Path,
    /// `None` for a model that was trained in full.
    pub(crate) adapter: Option<&'a Path>,
    pub(crate) out: &'a Path,
    pub(crate) facts: &'a CardFacts,
    pub(crate) chat_template: Option<&'a str>,
    /// Token ids of held-out text, on which a merged model is compared.
    pub(crate) documents: &'a [Vec<u32>],
    pub(crate) device: DevicePlan,
    pub(crate) quiet: bool,
}

/// What was exported.
#[derive(Debug, Serialize)]
pub(crate) struct Exported {
    #[serde(flatten)]
    pub(crate) report: ExportReport,
    /// Where.
    pub(crate) out: std::path::PathBuf,
    /// How far the merged model is from base and adapter.
    pub(crate) drift: Option<Drift>,
}

impl Export<'_> {
    /// Writes it aside, checks it, and puts it in its place.
    pub(crate) fn run(&self) -> Result<Exported, Failure> {
        let config = ExportConfig { dtype: self.dtype.map(export_dtype), ..ExportConfig::new(self.target) };
        let inputs = ExportInputs {
            base: self.base,
            adapter: self.adapter,
            tokenizer: None,
            chat_template: self.chat_template,
            facts: self.facts,
        };
        let written = progress::counting("writing", "MiB", self.quiet, |progress| {
            let mib = |bytes: u64| usize::try_from(bytes >> 20).unwrap_or(usize::MAX);
            export::write(&config, &inputs, self.out, &mut |at| progress(mib(at.done), mib(at.total)))
        });
        let written = written.map_err(|error| export_failure(&error))?;
        let drift = match (self.target, self.adapter) {
            (Target::Merged, Some(adapter)) => Some(self.check(adapter, written.path())?),
            _ => None,
        };
        let report = written.publish().map_err(|error| export_failure(&error))?;
        Ok(Exported { report, out: self.out.to_owned(), drift })
    }

    /// Compares the merged model's logits with those of base and adapter, both in f32.
    fn check(&self, adapter: &Path, merged: &Path) -> Result<Drift, Failure> {
        let device = self.device.open();
        let load = |folder: &Path| Model::load(folder, StoredDtype::F32, &device).map_err(|error| open::input(&error));
        let mut reference = load(self.base)?;
        open::attach(&mut reference, adapter)?;
        let merged = load(merged)?;
        let drift = drift(&reference, &merged, self.documents);
        let limit = drift.max_logit * tolerance(self.dtype.unwrap_or_else(|| stored_dtype(self.base)));
        // Written so that a difference that is not a number is refused, too.
        if drift.max_abs <= limit {
            return Ok(drift);
        }
        let fault = Fault::new(format!(
            "the merged model differs from base and adapter by {:.2e} in a logit, and {limit:.2e} is the most that rounding \
             explains; {} was not written",
            drift.max_abs,
            self.out.display()
        ));
        Err(Failure::Failed(fault.help("export with `dtype: f32`; if the difference stays, please report it")))
    }
}

/// The largest difference that rounding the merged weights explains, as a share of the largest logit.
///
/// Seen on SmolLM2-135M with an adapter that moves logits by up to 36 of 43: 4e-6 in f32, 7e-2 in bf16, where every
/// number equals that of peft's own merge. f16 has three bits more than bf16. A merge with a wrong scale is as far off
/// as the adapter's own effect.
fn tolerance(dtype: StoredDtype) -> f32 {
    match dtype {
        StoredDtype::F32 => 2e-4,
        StoredDtype::F16 => 2e-2,
        StoredDtype::BF16 => 1.5e-1,
    }
}

fn stored_dtype(folder: &Path) -> StoredDtype {
    rankine_models::weights::WeightFiles::open(folder)
        .map_or(StoredDtype::BF16, |files| crate::plan::usual_dtype(&files))
}

fn export_dtype(dtype: StoredDtype) -> ExportDtype {
    match dtype {
        StoredDtype::F32 => ExportDtype::F32,
        StoredDtype::F16 => ExportDtype::F16,
        StoredDtype::BF16 => ExportDtype::Bf16,
    }
}

/// A disk that is full is a failure; inputs that do not fit are bad input.
pub(crate) fn export_failure(error: &export::ExportError) -> Failure {
    use WeightsError as W;
    use export::ExportError as E;
    let fault = Fault::new(chain(error));
    match error {
        E::Adapter(_)
        | E::Gguf(_)
        | E::Weights(W::NoWeights { .. } | W::PickleOnly { .. } | W::Unreadable { .. } | W::Gguf(_))
        | E::Mismatch { .. }
        | E::NoAdapter
        | E::Setting { .. }
        | E::Occupied { .. }
        | E::Overlap { .. }
        | E::MissingFile { .. } => Failure::bad_input(fault),
        _ => Failure::Failed(fault),
    }
}
