//! `target: bedrock`: a merged model for Amazon Bedrock's Custom Model Import, and `deploy/` with what the import needs.
//!
//! The files are read with transformers 4.51.3 there; adapters are not taken. Everything but `deploy/` is uploaded, flat,
//! under one prefix of S3.

use std::path::Path;

use rankine_models::weights::WeightFiles;
use serde_json::Value;

use crate::deploy::{self, filled};
use crate::error::ExportError;
use crate::merged::{self, Spelling};
use crate::{Draft, Made};

/// Dollars for a minute of one unit of compute (v1, us-east-1, July 2026).
const DOLLARS_PER_UNIT_MINUTE: f64 = 0.057;
/// Dollars for a month of one unit of storage.
const DOLLARS_PER_UNIT_MONTH: f64 = 1.95;
/// Parameters of a unit: a model of 8 billion (8.03 by count) took two.
const PARAMETERS_PER_UNIT: f64 = 4.1e9;
/// An invocation is paid for in windows of so many minutes.
const WINDOW_MINUTES: f64 = 5.0;

pub(crate) fn write(draft: &mut Draft<'_>) -> Result<Made, ExportError> {
    let mut made = merged::write(draft, Spelling::Transformers4)?;
    let chat = has_template(draft.folder)?;
    write_deploy(draft.folder, draft.name, chat)?;
    let usage = "In `deploy/`: the role's policies, the import and a first question (AWS CLI 2 and boto3).\n\n```sh\n\
                 BUCKET=my-bucket REGION=us-east-1 deploy/import.sh      # role, upload, import job; prints the model's ARN\n\
                 python3 deploy/invoke.py MODEL_ARN \"...\"                # waits where the model is cold\n```\n\n\
                 `deploy/cost.md` estimates what that costs.\n";
    made.card.used_by(usage.to_owned());
    Ok(made)
}

fn write_deploy(folder: &Path, name: &str, chat: bool) -> Result<(), ExportError> {
    let values = [("NAME", name), ("CHAT", if chat { "True" } else { "False" })];
    for (file, template) in [
        ("trust-policy.json", include_str!("../templates/bedrock/trust-policy.json")),
        ("s3-policy.json", include_str!("../templates/bedrock/s3-policy.json")),
        ("create-model-import-job.json", include_str!("../templates/bedrock/create-model-import-job.json")),
        ("import.sh", include_str!("../templates/bedrock/import.sh")),
        ("invoke.py", include_str!("../templates/bedrock/invoke.py")),
    ] {
        deploy::write(folder, file, &filled(template, &values))?;
    }
    let weights = WeightFiles::open(folder)?;
    let parameters: usize = weights.names().filter_map(|name| weights.get(name)).map(|tensor| tensor.len()).sum();
    deploy::write(folder, "cost.md", &cost(parameters, weights.total_bytes()))
}

fn has_template(folder: &Path) -> Result<bool, ExportError> {
    let file = folder.join("tokenizer_config.json");
    let text = std::fs::read(&file).map_err(ExportError::io(&file, "read"))?;
    Ok(crate::base::parse(&text, file)?.get("chat_template").is_some_and(Value::is_string))
}

/// What the import will cost, as far as it can be told before.
fn cost(parameters: usize, bytes: u64) -> String {
    let units = (parameters as f64 / PARAMETERS_PER_UNIT).ceil().max(1.0);
    let minute = units * DOLLARS_PER_UNIT_MINUTE;
    format!(
        "# What it costs\n\n\
         Bedrock says how many custom model units (CMU) a model takes once it is imported: `aws bedrock get-imported-model`. \
         This is an estimate from its {:.2} billion parameters ({:.2} GB), by the one figure known here, 2 CMU for 8 billion, \
         and by the prices of us-east-1 in July 2026. See <https://aws.amazon.com/bedrock/pricing/>.\n\n\
         | | |\n|---|---|\n\
         | CMU | {units} |\n\
         | one copy, a minute | ${minute:.3} |\n\
         | the least that an invocation costs ({WINDOW_MINUTES} minutes) | ${:.2} |\n\
         | one copy, an hour without a pause | ${:.2} |\n\
         | storage, a month | ${:.2} |\n\n\
         A copy is started at the first request and stopped after {WINDOW_MINUTES} minutes without one; more copies are started \
         under load. Upload and import are free; S3 is not.\n",
        parameters as f64 / 1e9,
        bytes as f64 / 1e9,
        minute * WINDOW_MINUTES,
        minute * 60.0,
        units * DOLLARS_PER_UNIT_MONTH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_eight_billion_parameters_is_two_units() {
        let text = cost(8_030_000_000, 16_060_000_000);
        for line in ["| CMU | 2 |", "| one copy, a minute | $0.114 |", "8.03 billion parameters (16.06 GB)"] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(cost(14_000_000_000, 1).contains("| CMU | 4 |") && cost(1, 1).contains("| CMU | 1 |"));
    }
}
