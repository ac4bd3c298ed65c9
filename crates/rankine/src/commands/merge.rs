//! `rankine merge`: base and adapter become one model.

use rankine_export::{CardFacts, Target};
use rankine_models::adapter_file::read_config;

use super::export::Export;
use super::open;
use crate::Environment;
use crate::base;
use crate::cli::MergeArgs;
use crate::fault::Failure;
use crate::plan::{DevicePlan, stored_dtype};
use crate::terminal;

/// Text on which the merged model is compared with base and adapter: prose, code, other scripts, numbers.
const SAMPLES: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times; every cloud has \
     a silver lining, and a stitch in time saves nine.",
    "fn main() {\n    let total: u64 = (1..=100).filter(|n| n % 3 == 0).sum();\n    println!(\"{total}\");\n}\n",
    "{\"order\": \"JZ-5397\", \"items\": [{\"name\": \"lamp\", \"price\": 12.50}], \"paid\": true, \"total\": 1250.75}",
    "Où est la bibliothèque ? Die Straße ist naß. Привет, мир. 今日はいい天気ですね。 3.14159 2.71828 1.41421",
];
/// Tokens of each that are compared.
const SAMPLE_TOKENS: usize = 128;

/// Writes the merged model.
///
/// # Errors
/// An adapter that does not fit the base, a folder that cannot be written, a merged model that differs.
pub fn run(args: &MergeArgs, environment: &Environment) -> Result<(), Failure> {
    let base = open::find_model(&args.base, environment)?;
    let adapter = open::adapter_folder(&args.adapter);
    read_config(&adapter).map_err(|error| open::input(&error))?;
    let documents = documents(&base)?;
    let export = Export {
        target: Target::Merged,
        dtype: stored_dtype(args.dtype),
        base: &base,
        adapter: Some(&adapter),
        out: &args.out,
        facts: &CardFacts::default(),
        chat_template: None,
        documents: &documents,
        device: DevicePlan::CPU,
        quiet: false,
    };
    let exported = export.run()?;
    let drift = exported.drift.map_or(String::new(), |drift| {
        format!(
            "; largest difference of a logit from base and adapter: {:.2e} (the largest logit is {:.1})",
            drift.max_abs, drift.max_logit
        )
    });
    let changed = exported.report.changed_tensors;
    terminal::print(&format!("{}: {changed} tensors merged{drift}\n", args.out.display()))
}

/// The samples as the base's tokenizer has them; plain ids where there is no tokenizer, as a merge needs none.
fn documents(base: &std::path::Path) -> Result<Vec<Vec<u32>>, Failure> {
    match base::tokenizer(base, None) {
        Ok(tokenizer) => SAMPLES
            .iter()
            .map(|text| {
                let mut ids = open::prompt_ids(&tokenizer, text)?;
                ids.truncate(SAMPLE_TOKENS);
                Ok(ids)
            })
            .collect(),
        Err(_) => Ok(vec![(1..64).collect()]),
    }
}
