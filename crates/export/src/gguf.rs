//! `target: gguf`: one file for llama.cpp and what is built on it, a merged model or an adapter.
//!
//! What `convert_hf_to_gguf.py` and `convert_lora_to_gguf.py` of llama.cpp write for the same folder; `models::gguf` holds
//! the format.

pub(crate) mod lora;
mod model;
mod source;

use crate::companions;
use crate::error::ExportError;
use crate::{Draft, Made, Weights};

pub(crate) use model::{WrittenModel, write_model};
pub(crate) use source::compiled;

/// A merged model's file.
pub(crate) const MODEL_FILE: &str = "model.gguf";
/// An adapter's file.
pub(crate) const ADAPTER_FILE: &str = "adapter.gguf";

pub(crate) fn write(draft: &mut Draft<'_>) -> Result<Made, ExportError> {
    companions::copy_licences(draft.inputs, draft.folder)?;
    match draft.config.weights {
        Weights::Merged => Ok(write_model(draft, MODEL_USE.to_owned())?.made),
        Weights::Adapter => lora::write(draft, ADAPTER_USE.to_owned()),
    }
}

const MODEL_USE: &str = "```sh\nllama-server -m model.gguf --jinja\nllama-cli -m model.gguf --jinja -p \"Hello\"\n```\n\n\
                         The file holds weights, tokenizer and chat template. LM Studio takes it from \
                         `~/.lmstudio/models/PUBLISHER/MODEL/`.\n";

const ADAPTER_USE: &str = "```sh\nllama-server -m base.gguf --lora adapter.gguf --jinja\n```\n\n\
                           The file holds the adapter alone: `base.gguf` is the base model, in any type, as llama.cpp's \
                           `convert_hf_to_gguf.py` or the target `gguf` without an adapter makes it. A quantised base is \
                           not quite the one that was trained over.\n";
