//! Which bytes of a rendered conversation are trained on.
//!
//! A template with `{% generation %}` tags says so itself. For one without, each answer is found by rendering
//! twice: `messages[..i]` with the generation prompt is what the model is given when it answers message i, so
//! it must be a prefix of `messages[..=i]`, and what follows it there is the answer with its stop token.
//! Whitespace after the stop token belongs to the next turn (`<|im_end|>\n`): the model has stopped by then, so
//! it is not trained.
//!
//! Some templates rewrite earlier turns: Qwen3 drops the thinking of all but the last answer, Mistral moves the
//! system prompt to the last user turn. Then `messages[..=i]` is no prefix of the whole conversation, and the
//! whole conversation does not show what the model sees when it gives answer i. Such a record becomes several
//! examples: the whole conversation trains the answers that it shows as they were given, and for the others
//! there is one more example that ends after them, so that each answer is trained exactly once and after
//! exactly the text that inference would feed.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::example::TrainOn;
use crate::part::{Located, Part, locate};
use crate::template::{ChatTemplate, PreparedConversation, Rendered, TemplateError};
use crate::tokenizer::TextTokenizer;

/// One text to tokenise and the bytes of it to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) spans: Vec<Range<usize>>,
    /// Answers that do not end in a special token: the model would not learn to stop.
    pub(crate) without_stop: usize,
    /// Whose words stand where.
    pub(crate) parts: Vec<(Range<usize>, Part)>,
}

/// The texts of one conversation and what the template left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChatPieces {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) dropped: Vec<String>,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The answer cannot be told from the prompt; where the two renderings part.
    NotPrefixStable(String),
    /// Anything else.
    Unusable(String),
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self::Unusable(message)
    }
}

impl From<TemplateError> for Refused {
    fn from(error: TemplateError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// The texts of one conversation. With `thorough` the template is asked of every message whether it shows it,
/// otherwise only of those whose words are not found in its text.
pub(crate) fn chat_pieces(
    tokenizer: &TextTokenizer,
    messages: &[Value],
    trained: &[bool],
    tools: Option<&Value>,
    train_on: TrainOn,
    thorough: bool,
) -> Result<ChatPieces, Refused> {
    let template = tokenizer.template_for(tools.is_some())?;
    let conversation = template.conversation(messages, tools, &Map::new())?;
    let whole = conversation.render(messages.len(), false)?;
    let Located { parts, missing } = locate(messages, &whole.text);
    let asked = if thorough { (0..messages.len()).collect() } else { missing };
    let mut dropped = dropped_messages(&conversation, messages, &whole.text, &asked);
    if let Some(tools) = tools.filter(|_| thorough) {
        dropped.extend(dropped_tools(template, messages, tools, &whole.text));
    }
    let mut pieces = pieces(tokenizer, &conversation, whole, messages, trained, train_on)?;
    if let [one] = pieces.as_mut_slice() {
        one.parts = parts;
    } else {
        pieces.iter_mut().for_each(|piece| piece.parts = locate(messages, &piece.text).parts);
    }
    Ok(ChatPieces { pieces, dropped })
}

fn pieces(
    tokenizer: &TextTokenizer,
    conversation: &PreparedConversation<'_>,
    whole: Rendered,
    messages: &[Value],
    trained: &[bool],
    train_on: TrainOn,
) -> Result<Vec<Piece>, Refused> {
    let targets = match train_on {
        TrainOn::All => {
            let everything = 0..whole.text.len();
            return Ok(vec![Piece::new(whole.text, vec![everything], 0)]);
        }
        TrainOn::Assistant | TrainOn::Completion => answers(messages, trained),
        TrainOn::Last => {
            let last = messages.iter().rposition(is_assistant);
            last.filter(|last| trained.get(*last) == Some(&true)).into_iter().collect()
        }
    };
    match whole.generated {
        Some(generated) => {
            let spans = chosen(generated, messages, &targets, train_on)?;
            let without_stop = spans
                .iter()
                .filter(|span| !tokenizer.ends_with_special(whole.text[(*span).clone()].trim_end()))
                .count();
            Ok(vec![Piece::new(whole.text, spans, without_stop)])
        }
        None => by_prefix(tokenizer, conversation, whole.text, &targets),
    }
}

impl Piece {
    fn new(text: String, spans: Vec<Range<usize>>, without_stop: usize) -> Self {
        Self { text, spans, without_stop, parts: Vec::new() }
    }
}

fn is_assistant(message: &Value) -> bool {
    message.get("role").and_then(Value::as_str) == Some("assistant")
}

fn answers(messages: &[Value], trained: &[bool]) -> Vec<usize> {
    (0..messages.len()).filter(|index| trained.get(*index) == Some(&true) && is_assistant(&messages[*index])).collect()
}

/// The template's own spans, those of answers that are not to be trained left out.
fn chosen(
    generated: Vec<Range<usize>>,
    messages: &[Value],
    targets: &[usize],
    train_on: TrainOn,
) -> Result<Vec<Range<usize>>, String> {
    let assistants: Vec<usize> = (0..messages.len()).filter(|index| is_assistant(&messages[*index])).collect();
    if targets.len() == assistants.len() {
        return Ok(generated);
    }
    if generated.len() == assistants.len() {
        return Ok(generated
            .into_iter()
            .zip(assistants)
            .filter(|(_, index)| targets.contains(index))
            .map(|(span, _)| span)
            .collect());
    }
    match train_on {
        TrainOn::Last if !targets.is_empty() => Ok(generated.into_iter().next_back().into_iter().collect()),
        _ if targets.is_empty() => Ok(Vec::new()),
        _ => Err(format!(
            "the template marks {} generation blocks for {} assistant messages, so those with `weight: 0` cannot be \
             told apart",
            generated.len(),
            assistants.len()
        )),
    }
}

fn by_prefix(
    tokenizer: &TextTokenizer,
    conversation: &PreparedConversation<'_>,
    whole: String,
    targets: &[usize],
) -> Result<Vec<Piece>, Refused> {
    let mut answers = Vec::with_capacity(targets.len());
    for &index in targets {
        let prompt = conversation.render(index, true)?.text;
        let turn = conversation.render(index + 1, false)?.text;
        if !turn.starts_with(&prompt) {
            return Err(Refused::NotPrefixStable(not_prefix_stable(index, &prompt, &turn)));
        }
        answers.push((prompt.len(), turn));
    }
    let mut pieces = vec![Piece::new(whole, Vec::new(), 0)];
    // From the end, so that a text that ends after one answer also serves those before it that it shows as
    // they were given.
    for (start, turn) in answers.into_iter().rev() {
        let end = stop_end(tokenizer, &turn, start);
        let span = start..end.unwrap_or(turn.len());
        let at = match pieces.iter().position(|piece| piece.text.starts_with(&turn)) {
            Some(at) => at,
            None => {
                pieces.push(Piece::new(turn, Vec::new(), 0));
                pieces.len() - 1
            }
        };
        pieces[at].without_stop += usize::from(end.is_none());
        pieces[at].spans.insert(0, span);
    }
    // In the order of the conversation, and none without an answer to learn (but a single one is kept, to be
    // counted as such).
    pieces.reverse();
    if pieces.iter().any(|piece| !piece.spans.is_empty()) {
        pieces.retain(|piece| !piece.spans.is_empty());
    }
    Ok(pieces)
}

/// Where the answer's stop token ends, if it has one.
fn stop_end(tokenizer: &TextTokenizer, turn: &str, start: usize) -> Option<usize> {
    let trimmed = turn[start..].trim_end();
    tokenizer.ends_with_special(trimmed).then_some(start + trimmed.len())
}

fn not_prefix_stable(index: usize, prompt: &str, turn: &str) -> String {
    let at = prompt
        .char_indices()
        .zip(turn.char_indices())
        .find(|((_, a), (_, b))| a != b)
        .map_or(prompt.len().min(turn.len()), |((at, _), _)| at);
    format!(
        "the chat template is not prefix-stable at message {index} (assistant): what the model is given before the \
         answer is not how the text with the answer begins, so the answer cannot be told from the prompt\n\
         with the generation prompt: {}\n\
         with the answer:            {}\n\
         they part after {at} bytes; help: use a template with {{% generation %}} tags around the answer, or \
         `train_on: all`",
        quoted_from(prompt, at),
        quoted_from(turn, at)
    )
}

/// Appended to what a message says, to see whether the template shows it.
const PROBE: &str = " (is this shown?)";

/// Of the messages that are asked for, those that the template leaves out: with other words it renders the same.
fn dropped_messages(
    conversation: &PreparedConversation<'_>,
    messages: &[Value],
    whole: &str,
    asked: &[usize],
) -> Vec<String> {
    // A template that refuses the changed message has looked at it.
    let same = |index: usize, changed: &Value| {
        conversation.render_changed(index, changed).is_ok_and(|rendered| rendered.text == whole)
    };
    let mut dropped = Vec::new();
    for &index in asked {
        let Some(message) = messages.get(index) else { continue };
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        if let Some(content) = message.get("content").and_then(Value::as_str).filter(|text| !text.trim().is_empty()) {
            let mut changed = message.clone();
            changed["content"] = Value::from(format!("{content}{PROBE}"));
            if same(index, &changed) {
                dropped.push(format!("what message {index} ({role}) says"));
            }
        }
        let calls = message.get("tool_calls").and_then(Value::as_array).map_or(0, Vec::len);
        for call in 0..calls {
            let mut changed = message.clone();
            let place = &mut changed["tool_calls"][call];
            let function = if place.get("function").is_some() { &mut place["function"] } else { place };
            let Some(name) = function.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
            function["name"] = Value::from(format!("{name}_is_shown"));
            if same(index, &changed) {
                dropped.push(format!("the call of `{name}` in message {index} ({role})"));
            }
        }
    }
    dropped
}

/// Tools that the template leaves out.
fn dropped_tools(template: &ChatTemplate, messages: &[Value], tools: &Value, whole: &str) -> Option<String> {
    let mut changed = tools.clone();
    for tool in changed.as_array_mut()? {
        let function = if tool.get("function").is_some() { &mut tool["function"] } else { tool };
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        function["name"] = Value::from(format!("{name}_is_shown"));
    }
    let rendered = template.render(messages, Some(&changed), false, &Map::new());
    rendered.is_ok_and(|rendered| rendered.text == whole).then(|| "the list of tools".to_owned())
}

/// The text around a place, quoted on one line.
fn quoted_from(text: &str, at: usize) -> String {
    const BEFORE: usize = 24;
    const AFTER: usize = 48;
    let start = text[..at].char_indices().rev().nth(BEFORE - 1).map_or(0, |(start, _)| start);
    let end = text[at..].char_indices().nth(AFTER).map_or(text.len(), |(end, _)| at + end);
    format!(
        "{}{:?}{}",
        if start > 0 { "..." } else { "" },
        &text[start..end],
        if end < text.len() { "..." } else { "" }
    )
}
