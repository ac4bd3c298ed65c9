//! One record to tokens and labels.

use std::ops::Range;

use serde_json::Value;

use crate::error::DataError;
use crate::example::{Example, IGNORED, TokenizeConfig, TrainOn};
use crate::part::Part;
use crate::record::{Content, Record};
use crate::remark::RemarkKind;
use crate::spans::{Piece, Refused, chat_pieces};
use crate::tokenizer::{Encoded, TextTokenizer};

/// The examples of one record before they are cut to length.
pub(crate) struct Made {
    pub(crate) examples: Vec<MadeExample>,
    pub(crate) boundary_merges: usize,
    pub(crate) without_stop: usize,
    pub(crate) remarks: Vec<RemarkKind>,
}

/// An example and, for each of its tokens, whose words it is.
pub(crate) struct MadeExample {
    pub(crate) example: Example,
    pub(crate) parts: Vec<Part>,
}

/// The examples of a record, or why there are none. `thorough` is for a few records of each dataset: see
/// [`chat_pieces`].
pub(crate) fn make(
    record: &Record,
    dataset: u32,
    tokenizer: &TextTokenizer,
    config: &TokenizeConfig,
    thorough: bool,
) -> Result<Made, Refused> {
    let say = |error: DataError| error.to_string();
    let mut remarks = Vec::new();
    let (tokens, without_stop) = match &record.content {
        Content::Text(text) => {
            let tokens = plain_text(text, tokenizer).map_err(say)?;
            (vec![tokens], usize::from(tokenizer.eos_id().is_none()))
        }
        Content::PromptCompletion { prompt, completion } => {
            let mut tokens = prompt_completion(prompt, completion, tokenizer).map_err(say)?;
            if config.train_on == TrainOn::All {
                tokens.mask.fill(true);
            } else if prompt.is_empty() {
                remarks.push(RemarkKind::EverythingTrained);
            }
            (vec![tokens], usize::from(tokenizer.eos_id().is_none()))
        }
        Content::Chat { messages, trained, tools } => {
            let train_on = config.train_on;
            let found = chat_pieces(tokenizer, messages, trained, tools.as_ref(), train_on, thorough)?;
            if !found.dropped.is_empty() {
                remarks.push(RemarkKind::TemplateDrops(found.dropped.join(", ")));
            }
            remarks.extend(spelled_special(messages, tokenizer));
            let without_stop = found.pieces.iter().map(|piece| piece.without_stop).sum();
            let tokens = found
                .pieces
                .iter()
                .map(|piece| {
                    let mut tokens = chat(piece, tokenizer, train_on).map_err(say)?;
                    if train_on != TrainOn::All && tokens.mask.iter().all(|trained| *trained) {
                        remarks.push(RemarkKind::EverythingTrained);
                    }
                    if piece.spans.len() != 1 || train_on == TrainOn::All {
                        tokens.completion_start = None;
                    }
                    Ok(tokens)
                })
                .collect::<Result<Vec<_>, String>>()?;
            (tokens, without_stop)
        }
    };
    Ok(Made {
        boundary_merges: tokens.iter().map(|tokens| tokens.merges).sum(),
        without_stop,
        remarks,
        examples: tokens
            .into_iter()
            .map(|tokens| MadeExample {
                example: Example {
                    labels: labels(&tokens),
                    input_ids: tokens.ids,
                    completion_start: tokens.completion_start,
                    source: record.source.clone(),
                    dataset,
                },
                parts: tokens.parts,
            })
            .collect(),
    })
}

/// The first special token that a message spells which the model does not write itself.
fn spelled_special(messages: &[Value], tokenizer: &TextTokenizer) -> Option<RemarkKind> {
    messages.iter().enumerate().find_map(|(message, value)| {
        let role = value.get("role").and_then(Value::as_str).filter(|role| *role != "assistant")?;
        let token = tokenizer.special_in(value.get("content").and_then(Value::as_str)?)?;
        Some(RemarkKind::SpecialToken { message, role: role.to_owned(), token: token.to_owned() })
    })
}

/// Tokens, which of them are trained, and where the one answer begins.
struct Tokens {
    ids: Vec<u32>,
    mask: Vec<bool>,
    parts: Vec<Part>,
    completion_start: Option<usize>,
    /// Places where prompt and answer would have shared a token.
    merges: usize,
}

fn labels(tokens: &Tokens) -> Vec<i64> {
    let mut labels: Vec<i64> = tokens
        .ids
        .iter()
        .zip(&tokens.mask)
        .map(|(id, trained)| if *trained { i64::from(*id) } else { IGNORED })
        .collect();
    if let Some(first) = labels.first_mut() {
        *first = IGNORED;
    }
    labels
}

fn plain_text(text: &str, tokenizer: &TextTokenizer) -> Result<Tokens, DataError> {
    let mut ids = tokenizer.encode_prompt(text)?;
    end(&mut ids, tokenizer);
    let parts = vec![Part::Text; ids.len()];
    Ok(Tokens { mask: vec![true; ids.len()], parts, ids, completion_start: None, merges: 0 })
}

fn prompt_completion(prompt: &str, completion: &str, tokenizer: &TextTokenizer) -> Result<Tokens, DataError> {
    let given = tokenizer.encode_prompt(prompt)?;
    let mut ids = tokenizer.encode_prompt(&format!("{prompt}{completion}"))?;
    let start = given.len();
    let merged = !ids.starts_with(&given);
    if merged {
        // The model is given the prompt alone, so that is what it has to be trained after.
        ids = given;
        ids.extend(continuation(completion, tokenizer)?);
    }
    end(&mut ids, tokenizer);
    let part = |index: usize| if index < start { Part::Prompt } else { Part::Completion };
    Ok(Tokens {
        mask: (0..ids.len()).map(|index| index >= start).collect(),
        parts: (0..ids.len()).map(part).collect(),
        completion_start: Some(start),
        ids,
        merges: usize::from(merged),
    })
}

/// The template has written BOS itself where it wants one, so none is added, as in transformers.
fn chat(piece: &Piece, tokenizer: &TextTokenizer, train_on: TrainOn) -> Result<Tokens, DataError> {
    let encoded = tokenizer.encode(&piece.text, false)?;
    let (mut mask, merges) = mask(&encoded, &piece.spans);
    let mut parts = parts(&encoded, piece, &mask, train_on);
    let mut ids = encoded.ids;
    if tokenizer.single_bos(&mut ids) {
        mask.remove(0);
        parts.remove(0);
    }
    Ok(Tokens { completion_start: mask.iter().position(|trained| *trained), ids, mask, parts, merges })
}

/// Whose words each token is. What is trained and in nobody's words is the end of the assistant's turn or its
/// call of a tool.
fn parts(encoded: &Encoded, piece: &Piece, mask: &[bool], train_on: TrainOn) -> Vec<Part> {
    let mut next = piece.parts.iter().peekable();
    let one = |(&(_, end), trained): (&(usize, usize), &bool)| {
        // By its last byte: the space before a word belongs to the word.
        let last = end.saturating_sub(1);
        while next.next_if(|(range, _)| range.end <= last).is_some() {}
        match next.peek() {
            Some((range, part)) if range.contains(&last) => *part,
            _ if *trained && train_on != TrainOn::All => Part::Assistant,
            _ => Part::Template,
        }
    };
    encoded.offsets.iter().zip(mask).map(one).collect()
}

/// A token is trained if it begins in a span. One that begins before the span and reaches into it is not:
/// after the prompt alone, inference never asks for that token. Says how many there are of those, too.
fn mask(encoded: &Encoded, spans: &[Range<usize>]) -> (Vec<bool>, usize) {
    let mut reached = 0;
    let mut straddling = 0;
    let mask = encoded
        .offsets
        .iter()
        .map(|&(start, end)| {
            // Some post-processors trim spaces off the offsets: the bytes between two tokens belong to the later
            // one. Tokens that share one character all have its whole range, so `start` may lie before.
            let begins = start.min(reached);
            reached = reached.max(end);
            let span = spans.get(spans.partition_point(|span| span.end <= begins));
            let trained = span.is_some_and(|span| span.start <= begins);
            straddling += usize::from(span.is_some_and(|span| begins < span.start && span.start < end));
            trained
        })
        .collect();
    (mask, straddling)
}

fn end(ids: &mut Vec<u32>, tokenizer: &TextTokenizer) {
    if let Some(eos) = tokenizer.eos_id()
        && ids.last() != Some(&eos)
    {
        ids.push(eos);
    }
}

/// The tokens of a text that goes on another one. Tokenizers of SentencePiece's kind put a space before any
/// text; a line break before it takes that space and is then cut off again.
fn continuation(text: &str, tokenizer: &TextTokenizer) -> Result<Vec<u32>, DataError> {
    let anchor = tokenizer.encode("\n", false)?.ids;
    let mut anchored = tokenizer.encode(&format!("\n{text}"), false)?.ids;
    if anchored.starts_with(&anchor) {
        Ok(anchored.split_off(anchor.len()))
    } else {
        Ok(tokenizer.encode(text, false)?.ids)
    }
}
