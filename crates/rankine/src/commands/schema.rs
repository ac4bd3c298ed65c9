//! `rankine schema`: the recipe's JSON schema, or its reference as a table.

use crate::cli::SchemaArgs;
use crate::fault::{Failure, Fault};
use crate::recipe;
use crate::terminal;

/// Prints the schema on stdout.
///
/// # Errors
/// A stdout that cannot be written.
pub fn run(args: &SchemaArgs) -> Result<(), Failure> {
    if args.markdown {
        return terminal::print(&recipe::markdown());
    }
    let schema = serde_json::to_string_pretty(&recipe::json_schema())
        .map_err(|error| Failure::Failed(Fault::new(format!("the schema cannot be written: {error}"))))?;
    terminal::print(&(schema + "\n"))
}
