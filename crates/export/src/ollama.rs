//! `target: ollama`: a GGUF file and the Modelfile with which Ollama runs it as it was trained.
//!
//! Ollama does not read the chat template in the file: a Modelfile has one of its own, in Go's template language
//! (<https://docs.ollama.com/modelfile>, <https://docs.ollama.com/template>).

pub(crate) mod chat_format;
pub(crate) mod go_template;

use std::fmt::Write as _;

use rankine_models::gguf::{GgufValue, VocabularyFiles};
use rankine_models::weights::write_aside;

use crate::companions;
use crate::error::ExportError;
use crate::gguf::{MODEL_FILE, WrittenModel, compiled, write_model};
use crate::{Draft, Made, Target};

use chat_format::ChatFormat;

/// What Ollama reads.
pub(crate) const MODELFILE: &str = "Modelfile";
/// Tokens of context that are asked for at most: a model's whole context can be more than a machine has memory for.
const MOST_CONTEXT: usize = 8192;

pub(crate) fn write(draft: &mut Draft<'_>) -> Result<Made, ExportError> {
    let Draft { inputs, folder, name, .. } = *draft;
    let usage = format!(
        "```sh\nollama create {name} -f Modelfile\nollama run {name} \"Hello\"\n```\n\nThe Modelfile has the chat template \
         that was trained with, in Ollama's language, and its stop tokens.\n"
    );
    let written = write_model(draft, usage)?;
    let text = modelfile(&written)
        .map_err(|reason| ExportError::Inexpressible { target: Target::Ollama, reasons: vec![reason] })?;
    write_aside(&folder.join(MODELFILE), text.as_bytes())?;
    companions::copy_licences(inputs, folder)?;
    Ok(written.made)
}

fn modelfile(written: &WrittenModel) -> Result<String, String> {
    let files = &written.files;
    let format = chat_format(files, adds_bos(written))?;
    let mut text = format!("FROM ./{MODEL_FILE}\n");
    if files.chat_template.as_ref().is_some_and(|source| source.contains("strftime_now")) {
        text.push_str("\n# The model's own template writes today's date; this one has that of the export.\n");
    }
    let _ = writeln!(text, "\nTEMPLATE \"\"\"{}\"\"\"\n", go_template::source(&format)?);
    for stop in stops(files, &format) {
        let _ = writeln!(text, "PARAMETER stop {}", quoted(&stop)?);
    }
    let _ = writeln!(text, "PARAMETER num_ctx {}", written.decoder.max_position_embeddings.min(MOST_CONTEXT));
    for (theirs, ours) in [
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("min_p", "min_p"),
        ("repetition_penalty", "repeat_penalty"),
    ] {
        if let Some(number) = files.generation_config[theirs].as_f64() {
            let _ = writeln!(text, "PARAMETER {ours} {number}");
        }
    }
    Ok(text)
}

/// The format of the model's chats.
fn chat_format(files: &VocabularyFiles, adds_bos: bool) -> Result<ChatFormat, String> {
    let source = files.chat_template.as_deref();
    let source = source.ok_or("there is no chat template: train with one (`chat_template: chatml`), or use `gguf`")?;
    let compiled = compiled(source, &files.tokenizer_config);
    let (template, special) = compiled.map_err(|error| format!("the chat template: {error}"))?;
    template.set_time(std::time::SystemTime::now());
    ChatFormat::of(&template, special.bos.filter(|_| adds_bos).as_deref())
}

/// Whether llama.cpp puts BOS before a text by itself.
fn adds_bos(written: &WrittenModel) -> bool {
    written.metadata.iter().any(|(key, value)| key == "tokenizer.ggml.add_bos_token" && *value == GgufValue::Bool(true))
}

/// The texts of the tokens that end a generation, and the one after an answer.
fn stops(files: &VocabularyFiles, format: &ChatFormat) -> Vec<String> {
    let added = files.tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = [&files.generation_config, &files.config].into_iter().flat_map(|json| {
        let several = json["eos_token_id"].as_array().cloned();
        several.unwrap_or_else(|| vec![json["eos_token_id"].clone()])
    });
    let by_id = ids.filter_map(|id| {
        let token = added.iter().find(|token| token["id"] == id && id.is_u64())?;
        token["content"].as_str().map(str::to_owned)
    });
    let after = added
        .iter()
        .filter_map(|token| token["content"].as_str())
        .filter(|text| !text.is_empty() && format.answer_end().trim_start().starts_with(*text))
        .max_by_key(|text| text.len());
    let mut stops: Vec<String> = after.map(str::to_owned).into_iter().chain(by_id).collect();
    let mut seen = std::collections::HashSet::new();
    stops.retain(|stop| seen.insert(stop.clone()));
    stops
}

/// A parameter's text between quotes, which a Modelfile cannot escape.
fn quoted(text: &str) -> Result<String, String> {
    if text.contains(['"', '\n']) {
        return Err(format!("the stop token {text:?} cannot be written in a Modelfile"));
    }
    Ok(format!("\"{text}\""))
}
