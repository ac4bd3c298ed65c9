//! A byte-level BPE tokenizer for a new model: any text in, no unknown token, digits one by one.

use std::path::Path;

use rankine_data::{Content, DatasetConfig, read_dataset};
use serde_json::{Map, Value as Json, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::fault::{Failure, Fault};
use crate::plan::data_failure;

/// Ends a text.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a message.
const START_OF_TURN: &str = "<|im_start|>";
/// Ends a message.
pub(crate) const END_OF_TURN: &str = "<|im_end|>";

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                      '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
                      {% endif %}";

/// A tokenizer, ready to be written.
pub(crate) struct Trained {
    pub(crate) json: String,
    pub(crate) size: usize,
    tokenizer: Tokenizer,
}

impl Trained {
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }
}

/// Trains a tokenizer of at most `size` tokens on every text of the datasets.
pub(crate) fn train(paths: &[String], size: usize) -> Result<Trained, Failure> {
    let alphabet = ByteLevel::alphabet();
    let specials = [END_OF_TEXT, START_OF_TURN, END_OF_TURN];
    let least = alphabet.len() + specials.len();
    if size < least {
        let fault = Fault::new(format!("a vocabulary of {size} cannot hold the {least} tokens that every text needs"));
        return Err(Failure::bad_input(fault.help("raise `--vocab-size`, or `vocab_size` in the config")));
    }
    let mut texts = Vec::new();
    for path in paths {
        let dataset = read_dataset(&DatasetConfig::new(path), Path::new(".")).map_err(data_failure)?;
        dataset.records.into_iter().for_each(|record| push_texts(record.content, &mut texts));
    }
    let failed =
        |error: tokenizers::Error| Failure::Failed(Fault::new(format!("the tokenizer cannot be trained: {error}")));
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        Digits::new(true).into(),
        ByteLevel::new(false, true, true).into(),
    ])));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    let trainer = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(alphabet.into_iter().collect())
        .special_tokens(specials.iter().map(|token| AddedToken::from(*token, true)).collect())
        .build();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).map_err(failed)?;
    let json = tokenizer.to_string(true).map_err(failed)?;
    Ok(Trained { json, size: tokenizer.get_vocab_size(true), tokenizer })
}

/// `tokenizer_config.json` for it.
pub(crate) fn config(model: &Map<String, Json>) -> Json {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START_OF_TURN, END_OF_TURN],
        "clean_up_tokenization_spaces": false,
        "model_max_length": model.get("max_position_embeddings").cloned().unwrap_or(json!(2048)),
        "chat_template": CHATML,
    })
}

fn push_texts(content: Content, texts: &mut Vec<String>) {
    match content {
        Content::Text(text) => texts.push(text),
        Content::PromptCompletion { prompt, completion } => texts.extend([prompt, completion]),
        Content::Chat { messages, .. } => {
            texts.extend(messages.iter().filter_map(|message| message.get("content")?.as_str()).map(str::to_owned));
        }
    }
}
