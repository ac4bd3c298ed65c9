//! An export is what was trained: its files are read back, and must say what base and adapter say.

use std::cell::OnceCell;
use std::path::Path;

use rankine_export::{ExportConfig, Form, Onto, ReadBack, WrittenExport};
use rankine_models::drift::{Drift, Logits};
use rankine_models::model::{BaseForm, Model, Residency};
use rankine_models::weights::{StoredDtype, WeightFiles};

use super::export_failure;
use crate::commands::open;
use crate::fault::{Failure, Fault};
use crate::plan::DevicePlan;

/// What base and adapter say on held-out text, in f32. Computed when it is first asked for, and once: a run has several
/// exports, and its two models are never in memory together.
pub(crate) struct Reference<'a> {
    base: &'a Path,
    adapter: Option<&'a Path>,
    documents: &'a [Vec<u32>],
    device: DevicePlan,
    /// How the base was held in training, where that was in fewer bits.
    held: Option<BaseForm>,
    of_base: OnceCell<Logits>,
    of_held: OnceCell<Logits>,
}

/// Which base an export is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// As it is stored.
    Stored,
    /// As it was held in training.
    Held(BaseForm),
}

/// How far an export is.
pub(crate) struct Compared {
    /// From the base that it belongs to, with the adapter.
    pub(crate) drift: Drift,
    /// From what was trained, where the base was held in fewer bits.
    pub(crate) from_trained: Option<Drift>,
}

impl<'a> Reference<'a> {
    pub(crate) fn new(
        base: &'a Path,
        adapter: Option<&'a Path>,
        documents: &'a [Vec<u32>],
        device: DevicePlan,
        held: Option<BaseForm>,
    ) -> Self {
        Self { base, adapter, documents, device, held, of_base: OnceCell::new(), of_held: OnceCell::new() }
    }

    fn logits(&self, basis: Basis) -> Result<&Logits, Failure> {
        let cell = match basis {
            Basis::Stored => &self.of_base,
            Basis::Held(_) => &self.of_held,
        };
        if let Some(logits) = cell.get() {
            return Ok(logits);
        }
        let mut model = self.load(self.base, basis)?;
        if let Some(adapter) = self.adapter {
            open::attach(&mut model, adapter)?;
        }
        let logits = Logits::of(&model, self.documents);
        Ok(cell.get_or_init(|| logits))
    }

    fn load(&self, folder: &Path, basis: Basis) -> Result<Model, Failure> {
        let form = match basis {
            Basis::Held(form) => form,
            Basis::Stored if self.device.is_cpu() => held_exactly(folder),
            // Others calculate in the type of the weights.
            Basis::Stored => StoredDtype::F32.into(),
        };
        let device = self.device.open().map_err(open::argument_fault)?;
        Model::load(folder, form, &device).map_err(|error| open::input(&error))
    }
}

/// The smallest type that holds every matrix of a model as it is stored, left in its files where that can be: what is
/// compared need not fit into memory. The CPU calculates in f32 whatever the type.
fn held_exactly(folder: &Path) -> BaseForm {
    let Ok(files) = WeightFiles::open(folder) else { return StoredDtype::F32.into() };
    let matrices = || files.names().filter_map(|name| files.get(name)).filter(|tensor| tensor.shape.len() > 1);
    let halves = [StoredDtype::BF16, StoredDtype::F16];
    let same = |dtype: &StoredDtype| matrices().all(|tensor| tensor.dtype == *dtype && !tensor.is_quantised());
    let dtype = halves.into_iter().find(same).unwrap_or(StoredDtype::F32);
    let residency = if files.not_streamable(dtype).is_none() { Residency::Stream } else { Residency::Memory };
    BaseForm { residency, ..dtype.into() }
}

/// The comparison of one export.
pub(crate) struct Proof<'a> {
    pub(crate) config: &'a ExportConfig,
    pub(crate) out: &'a Path,
    pub(crate) reference: &'a Reference<'a>,
}

impl Proof<'_> {
    /// Compares what `written` holds with the reference, both in f32. A base that was held in fewer bits is what an
    /// adapter belongs to and a merge onto those bits; a merge onto the base as it is stored must be that base with the
    /// adapter, and how far it is from what was trained is told.
    pub(crate) fn check(&self, written: &WrittenExport) -> Result<Compared, Failure> {
        let reference = self.reference;
        let held = reference.held.map(Basis::Held);
        let onto_stored = self.config.form() == Form::Model && self.config.onto == Onto::Full;
        let basis = held.filter(|_| !onto_stored).unwrap_or(Basis::Stored);
        // Before the export is loaded: two models would be in memory.
        let expected = reference.logits(basis)?;
        let trained = held.map(|held| reference.logits(held)).transpose()?;
        let (model, dtype) = match written.read_back().map_err(|error| export_failure(&error))? {
            ReadBack::Model(folder) => (reference.load(&folder, Basis::Stored)?, self.written_dtype()),
            ReadBack::Adapter(adapter) => {
                let mut model = reference.load(reference.base, basis)?;
                model.attach_file(&adapter).map_err(|error| {
                    Failure::Failed(Fault::new(format!("what was written for {}: {error}", self.out.display())))
                })?;
                (model, StoredDtype::F32)
            }
        };
        let drift = expected.drift(&model);
        let from_trained = match trained {
            Some(trained) if basis == Basis::Stored => Some(trained.drift(&model)),
            other => other.map(|_| drift),
        };
        let limit = match self.config.quantize {
            // Any finite difference: how much is lost is for the reader of the figures to judge.
            Some(_) => f32::MAX,
            None => drift.max_logit * tolerance(dtype),
        };
        // Written so that a difference that is not a number is refused, too.
        if drift.max_abs <= limit {
            return Ok(Compared { drift, from_trained });
        }
        let fault = Fault::new(format!(
            "the {} differs from base and adapter by {:.2e} in a logit, and {limit:.2e} is the most that rounding \
             explains; {} was not written",
            self.config.target.what(),
            drift.max_abs,
            self.out.display()
        ));
        Err(Failure::Failed(fault.help("export with `dtype: f32`; if the difference stays, please report it")))
    }

    fn written_dtype(&self) -> StoredDtype {
        let stored = || {
            WeightFiles::open(self.reference.base).map_or(StoredDtype::BF16, |files| crate::plan::usual_dtype(&files))
        };
        self.config.dtype.map_or_else(stored, Into::into)
    }
}

/// The largest difference that rounding the written weights explains, as a share of the largest logit.
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
