//! `rankine merge`: base and adapter become one model, the shortest way.

use rankine_export::{ExportConfig, Target};

use super::export::{Comparison, Source};
use crate::Environment;
use crate::cli::MergeArgs;
use crate::fault::Failure;
use crate::plan::stored_dtype;
use crate::terminal;

/// Writes the merged model.
///
/// # Errors
/// An adapter that does not fit the base, a folder that cannot be written, a merged model that differs.
pub fn run(args: &MergeArgs, environment: &Environment) -> Result<(), Failure> {
    let source = Source::of_folders(&args.base, Some(&args.adapter), environment)?.with_onto(&args.onto)?;
    let dtype = stored_dtype(args.dtype).map(Into::into);
    let config = ExportConfig { dtype, onto: args.onto.onto, ..ExportConfig::new(Target::Merged) };
    terminal::print(&source.export(config, &args.out, Comparison::Made, false)?.line())
}
