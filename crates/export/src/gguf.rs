//! `target: gguf`: one file for llama.cpp and what is built on it, a merged model or an adapter.
//!
//! What `convert_hf_to_gguf.py` and `convert_lora_to_gguf.py` of llama.cpp write for the same folder; `models::gguf` holds
//! the format.

pub(crate) mod lora;
mod model;
mod source;

use std::path::Path;

use crate::companions;
use crate::error::ExportError;
use crate::{ExportConfig, ExportInputs, Made, Progress, Weights};

pub(crate) use model::{WrittenModel, write_model};

/// A merged model's file.
pub(crate) const MODEL_FILE: &str = "model.gguf";
/// An adapter's file.
pub(crate) const ADAPTER_FILE: &str = "adapter.gguf";

pub(crate) fn write(
    config: &ExportConfig,
    inputs: &ExportInputs<'_>,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Made, ExportError> {
    companions::copy_licences(inputs, folder)?;
    match config.weights {
        Weights::Merged => {
            let written = write_model(config, inputs, folder, MODEL_USE.to_owned(), progress)?;
            Ok(written.made)
        }
        Weights::Adapter => lora::write(config, inputs, folder, ADAPTER_USE.to_owned()),
    }
}

const MODEL_USE: &str = "```sh\nllama-server -m model.gguf --jinja\nllama-cli -m model.gguf --jinja -p \"Hello\"\n```\n\n\
                         The file holds weights, tokenizer and chat template. LM Studio takes it from \
                         `~/.lmstudio/models/PUBLISHER/MODEL/`.\n";

const ADAPTER_USE: &str = "```sh\nllama-server -m base.gguf --lora adapter.gguf --jinja\n```\n\n\
                           The file holds the adapter alone: `base.gguf` is the base model, in any type, as llama.cpp's \
                           `convert_hf_to_gguf.py` or the target `gguf` without an adapter makes it. A quantised base is \
                           not quite the one that was trained over.\n";
