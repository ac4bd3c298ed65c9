//! One record as the model sees it: every token, its label and whose words it is.

use serde::Serialize;

use crate::error::{DataError, Faults};
use crate::example::{Example, IGNORED, TokenizeConfig};
use crate::labels::{MadeExample, make};
use crate::part::Part;
use crate::record::{Record, RecordSource};
use crate::spans::Refused;
use crate::tokenizer::TextTokenizer;

/// A record and the examples that were made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordView {
    /// Where it stands.
    pub source: RecordSource,
    /// Mostly one; several where the template rewrites earlier turns.
    pub examples: Vec<ViewedExample>,
}

/// An example, token by token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewedExample {
    /// In their order, those beyond `max_seq_len` too.
    pub tokens: Vec<TokenView>,
    /// How many of them the model sees.
    pub kept: usize,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// In the vocabulary.
    pub id: u32,
    /// What it adds to the text; empty for a token that ends within a character.
    pub text: String,
    /// Whether it is trained on.
    pub trained: bool,
    /// Whether it is a special token.
    pub special: bool,
    /// Whose words it is.
    pub part: Part,
}

/// Looks at a record.
///
/// # Errors
/// A record that cannot be tokenised.
pub fn view(record: &Record, tokenizer: &TextTokenizer, config: &TokenizeConfig) -> Result<RecordView, DataError> {
    let made = make(record, 0, tokenizer, config, false).map_err(|refused| {
        let (Refused::NotPrefixStable(message) | Refused::Unusable(message)) = refused;
        let mut faults = Faults::default();
        faults.push(record.source.clone(), message);
        DataError::Records(faults)
    })?;
    let examples = made.examples.iter().map(|made| viewed(made, tokenizer, config.max_seq_len));
    Ok(RecordView { source: record.source.clone(), examples: examples.collect::<Result<_, _>>()? })
}

fn viewed(made: &MadeExample, tokenizer: &TextTokenizer, max_seq_len: usize) -> Result<ViewedExample, DataError> {
    let MadeExample { example, parts } = made;
    let Example { input_ids, labels, .. } = example;
    let mut texts = Texts { tokenizer, ids: input_ids, shown: 0 };
    let mut tokens = Vec::with_capacity(input_ids.len());
    for (index, ((id, label), part)) in input_ids.iter().zip(labels).zip(parts).enumerate() {
        tokens.push(TokenView {
            id: *id,
            text: texts.up_to(index)?,
            trained: *label != IGNORED,
            special: tokenizer.is_special(*id),
            part: *part,
        });
    }
    Ok(ViewedExample { kept: tokens.len().min(max_seq_len), tokens })
}

/// What each token adds to the text. A token alone may be a part of a character, and some decoders take the space
/// before the first word away, so that a few tokens before it are decoded with it.
struct Texts<'a> {
    tokenizer: &'a TextTokenizer,
    ids: &'a [u32],
    /// Tokens whose text has been given out.
    shown: usize,
}

impl Texts<'_> {
    fn up_to(&mut self, index: usize) -> Result<String, DataError> {
        let from = self.shown.saturating_sub(2);
        let before = self.tokenizer.decode(&self.ids[from..self.shown], false)?;
        let all = self.tokenizer.decode(&self.ids[from..=index], false)?;
        let unfinished = all.ends_with('\u{fffd}') && index + 1 < self.ids.len() && index - self.shown < 4;
        if unfinished {
            return Ok(String::new());
        }
        self.shown = index + 1;
        Ok(all.strip_prefix(&before).map_or_else(|| all.clone(), str::to_owned))
    }
}
