//! Hugging Face chat templates: conversations to text, equal to what transformers renders.
//!
//! transformers renders with Jinja2 in a sandbox with `trim_blocks` and `lstrip_blocks`, a `tojson` that is
//! `json.dumps(ensure_ascii=False)`, `raise_exception`, `strftime_now`, `{% break %}`, `{% continue %}` and
//! `{% generation %}` (`utils/chat_template_utils.py`). minijinja renders here, with the source respelled
//! where the two would differ and with Python's way of printing values.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Serde;
use minijinja::{Environment, Value as JinjaValue};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::template::builtins::{GENERATION_END, GENERATION_START, Raised, environment};
use crate::template::date::DEFAULT_TIME;
use crate::template::rewrite::rewrite;
use crate::tokenizer::SpecialTokens;

mod builtins;
mod date;
mod expression;
mod methods;
mod python;
mod rewrite;

const NAME: &str = "chat_template";

/// A chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    special: Vec<(&'static str, JinjaValue)>,
    has_generation: bool,
    clock: Arc<AtomicI64>,
}

/// What a template made of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, special tokens spelled out.
    pub text: String,
    /// Byte ranges that `{% generation %}` blocks rendered, in order; `None` if the template has no such block.
    pub generated: Option<Vec<Range<usize>>>,
}

/// Why a template could not be compiled or did not render a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Not a template.
    #[error("the chat template cannot be read{}: {message}", at_line(*line))]
    Syntax {
        /// 1-based line of the template.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// The template refused the conversation with `raise_exception`.
    #[error("the chat template refuses the conversation: {message}")]
    Raised {
        /// In the template's own words.
        message: String,
    },
    /// The template failed on the conversation.
    #[error("the chat template failed{}: {message}", at_line(*line))]
    Render {
        /// 1-based line of the template.
        line: Option<usize>,
        /// What went wrong.
        message: String,
    },
    /// A text has one of the code points that mark `{% generation %}` blocks.
    #[error(
        "a text has U+FDD0 or U+FDD1, which Unicode keeps for internal use and which mark the template's \
         generation blocks here; remove them"
    )]
    ReservedCharacter,
    /// A text without a template to render it.
    #[error("the model folder has no chat template, and conversations cannot be rendered without one\n  help: {help}")]
    Missing {
        /// What to do.
        help: String,
    },
}

impl ChatTemplate {
    /// Compiles `source`; the template may use `bos_token` and the other names of `special`.
    ///
    /// `strftime_now` gives 26 July 2024 until [`set_time`](Self::set_time) says otherwise: the day that Llama
    /// 3's template falls back to. Training data does not change with the day on which it is tokenised.
    ///
    /// # Errors
    /// A template that cannot be parsed.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self, TemplateError> {
        let (respelled, has_generation) = rewrite(source);
        let clock = Arc::new(AtomicI64::new(DEFAULT_TIME));
        let syntax = |error: minijinja::Error| TemplateError::Syntax { line: error.line(), message: detail(&error) };
        let mut environment = environment(Arc::clone(&clock)).map_err(syntax)?;
        environment.add_template_owned(NAME, respelled).map_err(syntax)?;
        Ok(Self {
            source: source.to_owned(),
            environment,
            special: special.named().into_iter().map(|(name, value)| (name, JinjaValue::from(Serde(value)))).collect(),
            has_generation,
            clock,
        })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template marks what the assistant says with `{% generation %}`.
    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// Sets the time that `strftime_now` gives (UTC), as for a conversation of today.
    pub fn set_time(&self, time: SystemTime) {
        let seconds = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
        };
        // Far enough for any calendar, and no overflow in its arithmetic.
        let bound = 1 << 45;
        self.clock.store(seconds.clamp(-bound, bound), Ordering::Relaxed);
    }

    /// The time of `strftime_now`, for templates that use it; 0 for others.
    pub(crate) fn time(&self) -> i64 {
        if self.source.contains("strftime_now") { self.clock.load(Ordering::Relaxed) } else { 0 }
    }

    /// Renders a conversation. `extra` are further variables (`enable_thinking`), which go before the special
    /// tokens but not before `messages`, `tools` and `add_generation_prompt`.
    ///
    /// # Errors
    /// A template that refuses the conversation or fails on it.
    pub fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<Rendered, TemplateError> {
        self.conversation(messages, tools, extra)?.render(messages.len(), add_generation_prompt)
    }

    /// A conversation made ready to be rendered up to several of its messages.
    pub(crate) fn conversation(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        extra: &Map<String, Value>,
    ) -> Result<PreparedConversation<'_>, TemplateError> {
        if self.has_generation
            && (messages.iter().any(has_mark) || tools.is_some_and(has_mark) || extra.values().any(has_mark))
        {
            return Err(TemplateError::ReservedCharacter);
        }
        let mut context: Vec<(String, JinjaValue)> =
            self.special.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        context.extend(extra.iter().map(|(name, value)| (name.clone(), JinjaValue::from(Serde(value)))));
        // transformers always passes these two; templates ask `is none` as well as `is defined`.
        context.push(("tools".to_owned(), JinjaValue::from(Serde(tools))));
        if !extra.contains_key("documents") {
            context.push(("documents".to_owned(), JinjaValue::from(())));
        }
        Ok(PreparedConversation {
            template: self,
            messages: messages.iter().map(|message| JinjaValue::from(Serde(as_passed(message)))).collect(),
            context,
        })
    }
}

/// See [`ChatTemplate::conversation`].
pub(crate) struct PreparedConversation<'a> {
    template: &'a ChatTemplate,
    messages: Vec<JinjaValue>,
    context: Vec<(String, JinjaValue)>,
}

impl PreparedConversation<'_> {
    /// Renders the first `count` messages.
    pub(crate) fn render(&self, count: usize, add_generation_prompt: bool) -> Result<Rendered, TemplateError> {
        self.render_messages(self.messages.iter().take(count).cloned().collect(), add_generation_prompt)
    }

    /// Renders the whole conversation with another message in the place of one.
    pub(crate) fn render_changed(&self, index: usize, message: &Value) -> Result<Rendered, TemplateError> {
        let mut messages = self.messages.clone();
        if let Some(place) = messages.get_mut(index) {
            *place = JinjaValue::from(Serde(as_passed(message)));
        }
        self.render_messages(messages, false)
    }

    fn render_messages(
        &self,
        messages: Vec<JinjaValue>,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let own = [
            ("messages".to_owned(), JinjaValue::from(messages)),
            ("add_generation_prompt".to_owned(), JinjaValue::from(add_generation_prompt)),
        ];
        let context = JinjaValue::from_pairs(self.context.iter().cloned().chain(own));
        let text = self
            .template
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(context))
            .map_err(|error| render_error(&error))?;
        if self.template.has_generation { unmarked(&text) } else { Ok(Rendered { text, generated: None }) }
    }
}

/// A message as `apply_chat_template` hands it on: keys whose value is null are dropped, and reasoning is there
/// under both of its names.
fn as_passed(message: &Value) -> Value {
    let Value::Object(message) = message else {
        return message.clone();
    };
    let mut passed: Map<String, Value> = Map::new();
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|name| message.get(*name).filter(|value| !value.is_null()));
    if let Some(reasoning) = reasoning {
        passed.insert("thinking".to_owned(), reasoning.clone());
    }
    let kept = message.iter().filter(|(_, value)| !value.is_null());
    passed.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        passed.insert("reasoning_content".to_owned(), reasoning.clone());
    }
    Value::Object(passed)
}

/// Takes the marks out and notes where they stood.
fn unmarked(text: &str) -> Result<Rendered, TemplateError> {
    let mut plain = String::with_capacity(text.len());
    let mut generated = Vec::new();
    let mut open = None;
    for part in text.split_inclusive([GENERATION_START, GENERATION_END]) {
        let bare = part.trim_end_matches([GENERATION_START, GENERATION_END]);
        plain.push_str(bare);
        if part.ends_with(GENERATION_START) {
            open = Some(plain.len());
        } else if part.ends_with(GENERATION_END) {
            let start = open.take().ok_or_else(|| TemplateError::Render {
                line: None,
                message: "its generation blocks stand within one another, or their text was taken apart".to_owned(),
            })?;
            generated.push(start..plain.len());
        }
    }
    Ok(Rendered { text: plain, generated: Some(generated) })
}

fn has_mark(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains([GENERATION_START, GENERATION_END]),
        Value::Array(items) => items.iter().any(has_mark),
        Value::Object(map) => {
            map.values().any(has_mark) || map.keys().any(|key| key.contains([GENERATION_START, GENERATION_END]))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn render_error(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return TemplateError::Raised { message: message.clone() };
        }
        cause = error.source();
    }
    TemplateError::Render { line: error.line(), message: detail(error) }
}

fn detail(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(" at its line {line}"))
}
