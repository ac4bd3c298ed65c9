//! Text from a model, token by token.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Tensor;
use rankine_nn::parameter::Pass;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokenizers::Tokenizer;

use crate::companions::Companions;
use crate::model::{Model, to_host};
use crate::sampling::{Sampler, Sampling};
use crate::text_stream::TextStream;

/// How much is generated, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateConfig {
    /// Tokens at most.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Strings that end the text; none of them is part of it.
    pub stop: Vec<String>,
    /// Tokens that end the text.
    pub eos_token_ids: Vec<u32>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end-of-sequence token.
    Eos,
    /// A stop string.
    Stop,
    /// `max_new_tokens`.
    Length,
    /// The model's context is full.
    Context,
    /// The caller said so.
    Cancelled,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generated {
    /// New tokens, the one that ended it included.
    pub ids: Vec<u32>,
    /// New text, without special tokens and without the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// Continues `prompt`. `on_text` is given each piece of text as soon as it is certain, and may end the generation.
///
/// # Errors
/// An empty prompt, one longer than the model's context, a token outside its vocabulary, or a tokenizer that cannot
/// decode.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &GenerateConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, GenerateError> {
    check_prompt(model, prompt)?;
    let mut cache = model.cache();
    let mut sampler = Sampler::new(config.sampling.clone());
    let mut stream = TextStream::new(tokenizer, &config.stop);
    let mut ids = prompt.to_vec();
    let mut text = String::new();
    let mut next: &[u32] = prompt;
    let mut newest;
    let finish = loop {
        if ids.len() - prompt.len() == config.max_new_tokens {
            break Finish::Length;
        }
        if ids.len() >= model.config.max_position_embeddings {
            break Finish::Context;
        }
        let logits = last_logits(model, model.extend(next, &mut cache));
        let token = sampler.next(&logits, &ids);
        ids.push(token);
        if config.eos_token_ids.contains(&token) {
            break Finish::Eos;
        }
        let piece = stream.push(token)?;
        text.push_str(&piece);
        if !piece.is_empty() && on_text(&piece).is_break() {
            break Finish::Cancelled;
        }
        if stream.stopped() {
            break Finish::Stop;
        }
        newest = [token];
        next = &newest;
    };
    let held = stream.finish()?;
    text.push_str(&held);
    if !held.is_empty() {
        // The generation is over: whether the caller goes on no longer matters.
        let _ = on_text(&held);
    }
    let finish = if stream.stopped() { Finish::Stop } else { finish };
    Ok(Generated { ids: ids.split_off(prompt.len()), text, finish })
}

/// The tokens that end a generation: `eos_token_id` of `generation_config.json`, else of `config.json`; one or a list.
pub fn eos_token_ids(folder: &Path) -> Vec<u32> {
    let Ok(files) = Companions::of(folder) else { return Vec::new() };
    let read = |name: &str| -> Option<Vec<u32>> {
        let value: serde_json::Value = serde_json::from_slice(&files.read(name).ok()??).ok()?;
        let id = |value: &serde_json::Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value.get("eos_token_id")? {
            serde_json::Value::Array(ids) => Some(ids.iter().filter_map(id).collect()),
            single => id(single).map(|id| vec![id]),
        }
    };
    read("generation_config.json").or_else(|| read("config.json")).unwrap_or_default()
}

fn check_prompt(model: &Model, prompt: &[u32]) -> Result<(), GenerateError> {
    let limit = model.config.max_position_embeddings;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if prompt.len() >= limit {
        return Err(GenerateError::PromptTooLong { tokens: prompt.len(), limit });
    }
    match prompt.iter().find(|id| **id as usize >= model.config.vocab_size) {
        Some(id) => Err(GenerateError::OutsideVocabulary { id: *id, vocab_size: model.config.vocab_size }),
        None => Ok(()),
    }
}

/// The logits of the last token, on the host.
fn last_logits(model: &Model, hidden: Tensor<2>) -> Vec<f32> {
    let [tokens, _] = hidden.dims();
    to_host(model.logits(hidden.narrow(0, tokens - 1, 1), &mut Pass::Infer))
}

/// A generation that cannot be done.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// Nothing to continue.
    #[error("the prompt has no tokens; give some text to continue")]
    EmptyPrompt,
    /// The prompt fills the context.
    #[error(
        "the prompt has {tokens} tokens, and the model's context (max_position_embeddings) holds {limit}; shorten it"
    )]
    PromptTooLong {
        /// Of the prompt.
        tokens: usize,
        /// Of the context.
        limit: usize,
    },
    /// The tokenizer is not the model's.
    #[error("token {id} is outside the model's vocabulary of {vocab_size}: the tokenizer belongs to another model")]
    OutsideVocabulary {
        /// The token.
        id: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// The tokenizer cannot turn tokens into text.
    #[error("the tokenizer cannot decode: {0}")]
    Decode(String),
}
