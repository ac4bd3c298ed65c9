//! `rankine export`, and the exports of a recipe: made aside, read back, compared, and put in their place.

mod proof;
mod s3;
mod source;

use std::path::{Path, PathBuf};

use rankine_export::{self as export, CardFacts, ExportConfig, ExportInputs, ExportReport, Form};
use rankine_models::drift::Drift;
use rankine_models::weights::WeightsError;
use serde::Serialize;

use crate::Environment;
use crate::account::OnS3;
use crate::cli::ExportArgs;
use crate::fault::{Failure, Fault, chain};
use crate::plan::{DevicePlan, stored_dtype};
use crate::terminal::{self, note, progress};

pub(crate) use proof::{Proof, Reference};
pub(crate) use source::{Finished, Source, held_facts};

/// Makes an export of a run, or of a base and an adapter.
///
/// # Errors
/// What does not fit, what the target would refuse, a folder that cannot be written, an export that computes something
/// else.
pub fn run(args: &ExportArgs, environment: &Environment) -> Result<(), Failure> {
    let config = ExportConfig {
        dtype: stored_dtype(args.dtype).map(Into::into),
        quantize: args.quantize,
        portable: args.portable,
        weights: args.weights,
        onto: args.onto.onto,
        handler: args.handler,
        name: args.name.clone(),
        ..ExportConfig::new(args.target)
    };
    if let Some(unused) = config.unused().first() {
        let fault =
            Fault::new(format!("`--{}` does not apply to `{}`: {}", unused.setting, args.target, unused.reason));
        return Err(Failure::bad_input(fault.help("leave it out")));
    }
    let bucket = s3::begin(args, environment)?;
    let source = match (&args.run, &args.base) {
        (Some(run), _) => Source::of_run(run, environment)?,
        (None, Some(base)) => Source::of_folders(base, args.adapter.as_deref(), environment)?,
        (None, None) => {
            let fault = Fault::new("there is nothing to export");
            return Err(Failure::bad_input(fault.help("give `--run RUN`, or `--base MODEL` with `--adapter DIR`")));
        }
    };
    let source = source.with_onto(&args.onto)?;
    let proof = if args.no_proof { Comparison::Skipped } else { Comparison::Made };
    let exported = match &bucket {
        None => source.export(config, &args.out, proof, args.json)?,
        Some(bucket) => {
            let exported = source.export(config, bucket.local(), proof, args.json)?;
            bucket.send(exported, args, environment)?
        }
    };
    if args.json {
        let text =
            serde_json::to_string_pretty(&exported).map_err(|error| Failure::Failed(Fault::new(chain(&error))))?;
        return terminal::print(&format!("{text}\n"));
    }
    terminal::print(&exported.line())
}

/// Whether an export is compared with base and adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// As always.
    Made,
    /// As was asked for: a model that is larger than memory can be merged, and not loaded.
    Skipped,
}

/// One export.
pub(crate) struct Export<'a> {
    pub(crate) config: ExportConfig,
    pub(crate) base: &'a Path,
    /// `None` for a model that was trained in full.
    pub(crate) adapter: Option<&'a Path>,
    /// Where the tokenizer is, if not with the base.
    pub(crate) tokenizer: Option<&'a Path>,
    pub(crate) out: &'a Path,
    pub(crate) facts: &'a CardFacts,
    pub(crate) chat_template: Option<&'a str>,
    /// What it is compared with; `None` where that was done before.
    pub(crate) reference: Option<&'a Reference<'a>>,
    pub(crate) quiet: bool,
}

/// What was exported.
#[derive(Debug, Serialize)]
pub(crate) struct Exported {
    #[serde(flatten)]
    pub(crate) report: ExportReport,
    /// Where.
    pub(crate) out: PathBuf,
    /// What was sent, where that is on S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) s3: Option<OnS3>,
    /// Whether its weights are integers, whose differences are reported and bound to no limit.
    #[serde(skip)]
    pub(crate) quantized: bool,
}

/// How another distribution of the next token is told.
pub(crate) fn divergence(drift: &Drift) -> String {
    format!(
        "KL divergence of the next token from base and adapter: mean {:.2e}, 99th percentile {:.2e}; the likeliest token \
         is the same at {} of {} places",
        drift.kl_mean, drift.kl_p99, drift.same_argmax, drift.positions
    )
}

impl Export<'_> {
    /// Writes it aside, checks it, and puts it in its place.
    pub(crate) fn run(&self) -> Result<Exported, Failure> {
        let inputs = ExportInputs {
            base: self.base,
            adapter: self.adapter,
            tokenizer: self.tokenizer,
            chat_template: self.chat_template,
            facts: self.facts,
        };
        let written = progress::counting("writing", "MiB", self.quiet, |progress| {
            let mib = |bytes: u64| usize::try_from(bytes >> 20).unwrap_or(usize::MAX);
            export::write(&self.config, &inputs, self.out, &mut |at| progress(mib(at.done), mib(at.total)))
        });
        let mut written = written.map_err(|error| export_failure(&error))?;
        let drift = match self.reference {
            Some(reference) => {
                let found = Proof { config: &self.config, out: self.out, reference }.check(&written)?;
                if let Some(from_trained) = found.from_trained {
                    written.compared_with_trained(from_trained);
                }
                Some(found.drift)
            }
            None => None,
        };
        let report = written.publish(drift).map_err(|error| export_failure(&error))?;
        if !self.quiet {
            report.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
        }
        let quantized = self.config.quantize.is_some();
        Ok(Exported { report, out: self.out.to_owned(), s3: None, quantized })
    }
}

impl Exported {
    /// What was made, in a line.
    pub(crate) fn line(&self) -> String {
        let drift = self.report.drift.map_or(String::new(), |drift| {
            if self.quantized {
                return format!("; {}", divergence(&drift));
            }
            format!(
                "; largest difference of a logit from base and adapter: {:.2e} (the largest logit is {:.1})",
                drift.max_abs, drift.max_logit
            )
        });
        let (target, changed) = (self.report.target.what(), self.report.changed_tensors);
        let what = match self.report.form {
            Some(Form::Model) if changed > 0 => format!("{target}, {changed} tensors merged"),
            Some(Form::Adapter | Form::MlxAdapter | Form::GgufAdapter) => format!("{target}, of {changed} tensors"),
            _ => target.to_owned(),
        };
        let trained = self.report.quantisation.as_ref().map_or(String::new(), |about| format!("\n  {}", about.words()));
        format!("{}: {what}{drift}{trained}\n", self.out.display())
    }
}

impl Source {
    /// Makes one export of it.
    pub(crate) fn export(
        &self,
        config: ExportConfig,
        out: &Path,
        comparison: Comparison,
        quiet: bool,
    ) -> Result<Exported, Failure> {
        let reference =
            Reference::new(&self.base, self.adapter.as_deref(), &self.documents, DevicePlan::CPU, self.held);
        let export = Export {
            config: ExportConfig { held: self.held, ..config },
            base: &self.base,
            adapter: self.adapter.as_deref(),
            tokenizer: self.tokenizer.as_deref(),
            out,
            facts: &self.facts,
            chat_template: self.chat_template.as_deref(),
            reference: (comparison == Comparison::Made).then_some(&reference),
            quiet,
        };
        export.run()
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
        | E::NotPortable { .. }
        | E::Rules { .. }
        | E::Spelling { .. }
        | E::Json { .. }
        | E::Setting { .. }
        | E::Occupied { .. }
        | E::Overlap { .. }
        | E::Config(_)
        | E::Inexpressible { .. }
        | E::MissingFile { .. } => Failure::bad_input(fault),
        _ => Failure::Failed(fault),
    }
}
