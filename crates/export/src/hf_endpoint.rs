//! `target: hf-endpoint`: a repository for Hugging Face Inference Endpoints, merged or as an adapter.
//!
//! An endpoint of vLLM takes the merged repository as it is. Nothing loads an adapter's base by itself: the endpoint is made
//! of the base, and its container's arguments name the adapter.

use std::path::Path;

use rankine_models::adapter_file::read_config;
use rankine_models::weights::write_aside;

use crate::card::Card;
use crate::deploy::filled;
use crate::error::ExportError;
use crate::merged::{self, Spelling};
use crate::peft::{self, Placed};
use crate::vllm;
use crate::{Draft, ExportConfig, Made};

/// What an endpoint without an engine runs.
pub(crate) const HANDLER: &str = "handler.py";
/// What is installed for it.
pub(crate) const REQUIREMENTS: &str = "requirements.txt";

pub(crate) fn write_merged(draft: &mut Draft<'_>) -> Result<Made, ExportError> {
    let mut made = merged::write(draft, Spelling::OfTheBase)?;
    let handler = write_handler(draft.config, draft.folder, Handles::Model)?;
    use_section(&mut made.card, draft.name, "this repository", "", handler);
    Ok(made)
}

pub(crate) fn write_adapter(draft: &Draft<'_>) -> Result<Made, ExportError> {
    let Draft { config, inputs, folder, name, .. } = *draft;
    let placed = Placed::open(inputs)?;
    // A handler loads with peft, which knows every adapter; the engines know one rank and one scale.
    let mut card = match config.handler {
        true => peft::write_as_trained(draft, &placed)?,
        false => peft::write_portable(draft, &placed, folder)?,
    };
    let rank = read_config(folder)?.r;
    let base = placed.base_model.as_deref().unwrap_or("the base model");
    let short = name.rsplit('/').next().unwrap_or(name);
    let arguments = vllm::arguments(rank, short, repository(name));
    let handler = write_handler(config, folder, Handles::Adapter)?;
    use_section(&mut card, name, base, &arguments, handler);
    Ok(placed.made(card))
}

/// A name with an organisation is the repository's.
fn repository(name: &str) -> &str {
    if name.contains('/') { name } else { "ORG/NAME" }
}

/// What a handler loads.
#[derive(Debug, Clone, Copy)]
enum Handles {
    Model,
    Adapter,
}

fn write_handler(config: &ExportConfig, folder: &Path, what: Handles) -> Result<bool, ExportError> {
    if config.handler {
        let (model, imports, class, requirements) = match what {
            Handles::Model => (
                "the model of this repository",
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                "AutoModelForCausalLM",
                "",
            ),
            Handles::Adapter => (
                "the adapter of this repository on its base",
                "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer",
                "AutoPeftModelForCausalLM",
                "peft>=0.15\n",
            ),
        };
        let values = [("MODEL", model), ("IMPORTS", imports), ("CLASS", class)];
        let handler = filled(include_str!("../templates/hf-endpoint/handler.py"), &values);
        write_aside(&folder.join(HANDLER), handler.as_bytes())?;
        let requirements = format!("accelerate\n{requirements}safetensors\ntransformers>=4.51\n");
        write_aside(&folder.join(REQUIREMENTS), requirements.as_bytes())?;
    }
    Ok(config.handler)
}

fn use_section(card: &mut Card, name: &str, model: &str, arguments: &str, handler: bool) {
    let upload = format!("Upload it with `rankine push path/to/this/folder {}`.", repository(name));
    let engine = match (handler, arguments) {
        (true, _) => "Make an endpoint of this repository; it runs `handler.py`, which answers \
                      `{\"inputs\": \"...\", \"parameters\": {\"max_new_tokens\": 64}}` and \
                      `{\"inputs\": {\"messages\": [...]}}`."
            .to_owned(),
        (false, "") => format!("Make an endpoint of {model} with the engine vLLM; no arguments are needed."),
        (false, arguments) => format!(
            "Make an endpoint of `{model}` with the engine vLLM and these container arguments; requests then name the model \
             `{}`:\n\n```text\n{arguments}\n```",
            name.rsplit('/').next().unwrap_or(name)
        ),
    };
    let ask = match handler {
        true => {
            "curl \"$ENDPOINT\" -H \"Authorization: Bearer $HF_TOKEN\" -H 'Content-Type: application/json' \\\n    \
                 -d '{\"inputs\": \"...\", \"parameters\": {\"max_new_tokens\": 64}}'"
        }
        false => {
            "curl \"$ENDPOINT/v1/completions\" -H \"Authorization: Bearer $HF_TOKEN\" \\\n    \
                  -H 'Content-Type: application/json' -d '{\"model\": \"MODEL\", \"prompt\": \"...\", \"max_tokens\": 64}'"
        }
    };
    let short = if arguments.is_empty() { repository(name) } else { name.rsplit('/').next().unwrap_or(name) };
    card.used_by(format!("{upload} {engine}\n\n```sh\n{}\n```\n", ask.replace("MODEL", short)));
}
