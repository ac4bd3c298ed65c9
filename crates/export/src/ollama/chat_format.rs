//! What a chat template puts around its messages, found by rendering it.
//!
//! A Jinja template may do anything. What Ollama's language can say of it is this: constant text before, between and after
//! the messages. It is read off from conversations whose messages are unlike anything else, and proved on others.

use rankine_data::ChatTemplate;
use serde_json::{Map, Value, json};

/// Constant text around the messages of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChatFormat {
    /// Before everything, the system message included.
    pub(crate) begin: String,
    /// BOS, where the tokenizer puts it before a text by itself: the first of a rendering is then left out.
    pub(crate) own_bos: Option<String>,
    pub(crate) system: System,
    pub(crate) user: Around,
    /// Before an answer that was given, and after it.
    pub(crate) assistant: Around,
    /// After the last question, where the answer is to begin.
    pub(crate) prompt: String,
}

/// Text before and after a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Around {
    pub(crate) before: String,
    pub(crate) after: String,
}

/// Where the system message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum System {
    /// A message of its own; `default` stands in its place where there is none.
    Message { around: Around, default: String },
    /// Inside the first question, between its beginning and its text.
    InFirstQuestion(Around),
    /// The template refuses one: it is put before the first question, with an empty line.
    Refused,
}

/// Texts that no template holds.
const S: &str = "Qsys1Z";
const U: [&str; 3] = ["Qone2Z", "Qtwo3Z", "Qthree4Z"];
const A: [&str; 2] = ["Qans5Z", "Qans6Z"];

impl ChatFormat {
    /// Reads it off, or says why it cannot be said so. `own_bos` is BOS where the tokenizer puts it before a text.
    pub(crate) fn of(template: &ChatTemplate, own_bos: Option<&str>) -> Result<Self, String> {
        let render = |messages: &[(&str, &str)], prompt: bool| render(template, messages, prompt);
        let cut =
            |text: &str, at: &[&str]| cut(text, at).ok_or_else(|| format!("it changes or repeats messages: {text:?}"));
        let chat = render(&[("user", U[0]), ("assistant", A[0]), ("user", U[1])], true)?;
        let [head, to_answer, to_question, prompt] =
            cut(&chat, &[U[0], A[0], U[1]])?.try_into().map_err(|_| "parts")?;
        let asked = render(&[("user", U[0])], false).unwrap_or_default();
        let answered = render(&[("user", U[0]), ("assistant", A[0])], false).unwrap_or_default();
        let after =
            |text: &str, last: &str| text.rsplit_once(last).map_or_else(String::new, |(_, after)| after.to_owned());
        // Where a part ends does not change what is rendered, only how it reads.
        let answer_end = Some(after(&answered, A[0])).filter(|end| to_question.starts_with(end));
        // Some templates end a text otherwise than an answer.
        let answer_end = answer_end.unwrap_or_else(|| {
            let begins = common_end(&head, &to_question).len();
            to_question[..to_question.len() - begins].to_owned()
        });
        let question_end = after(&asked, U[0]);
        let question_end = Some(question_end).filter(|end| to_answer.starts_with(end) && prompt.starts_with(end));
        let question_end = question_end.unwrap_or_default();
        let user = Around { before: to_question[answer_end.len()..].to_owned(), after: question_end.clone() };
        let assistant = Around { before: to_answer[question_end.len()..].to_owned(), after: answer_end };
        // A first question that has no more before it than BOS has its beginning within the head.
        let head = head
            .strip_suffix(&user.before)
            .ok_or_else(|| format!("the first question begins with {head:?} and the next with {:?}", user.before))?;
        let prompt = prompt[question_end.len()..].to_owned();
        let format = |begin: &str, system: System| Self {
            begin: begin.to_owned(),
            own_bos: own_bos.map(str::to_owned),
            system,
            user: user.clone(),
            assistant: assistant.clone(),
            prompt: prompt.clone(),
        };
        let found = match render(&[("system", S), ("user", U[0])], true) {
            Err(_) => format(head, System::Refused),
            Ok(text) => {
                let [before, between, _] = cut(&text, &[S, U[0]])?.try_into().map_err(|_| "parts")?;
                match between.strip_suffix(&user.before).filter(|_| !user.before.is_empty()) {
                    Some(after) => {
                        let begin = common_start(head, &before);
                        // A beginning that is cut within a word, or within the system message, is none.
                        let begin = if head == begin { begin } else { own_start(begin, own_bos) };
                        let around = Around { before: before[begin.len()..].to_owned(), after: after.to_owned() };
                        format(begin, System::Message { around, default: head[begin.len()..].to_owned() })
                    }
                    None => {
                        let start = format!("{head}{}", user.before);
                        let inner = before.strip_prefix(&start).ok_or_else(|| {
                            format!("a chat begins with {start:?}, and one with a system message with {before:?}")
                        })?;
                        format(head, System::InFirstQuestion(Around { before: inner.to_owned(), after: between }))
                    }
                }
            }
        };
        found.prove(template)?;
        Ok(found)
    }

    /// What follows an answer.
    pub(crate) fn answer_end(&self) -> &str {
        &self.assistant.after
    }

    /// The prompt of a conversation that ends with a question, BOS included.
    pub(crate) fn render(&self, messages: &[(&str, &str)]) -> String {
        let mut text = self.begin.clone();
        let mut pending = messages.iter().find(|(role, _)| *role == "system").map(|(_, content)| *content);
        if let (System::Message { default, .. }, None) = (&self.system, pending) {
            text.push_str(default);
        }
        for (role, content) in messages {
            match (*role, &self.system) {
                ("system", System::Message { around, .. }) => {
                    text.extend([around.before.as_str(), content, around.after.as_str()]);
                }
                ("system", _) => {}
                ("user", system) => {
                    text.push_str(&self.user.before);
                    match (system, pending.take()) {
                        (System::InFirstQuestion(around), Some(content)) => {
                            text.extend([around.before.as_str(), content, around.after.as_str()]);
                        }
                        (System::Refused, Some(content)) => text.extend([content, "\n\n"]),
                        _ => {}
                    }
                    text.extend([content, self.user.after.as_str()]);
                }
                _ => text.extend([self.assistant.before.as_str(), content, self.assistant.after.as_str()]),
            }
        }
        text.push_str(&self.prompt);
        text
    }

    /// Compares it with the template on conversations of other lengths.
    fn prove(&self, template: &ChatTemplate) -> Result<(), String> {
        let asked = [("user", U[0]), ("assistant", A[0]), ("user", U[1]), ("assistant", A[1]), ("user", U[2])];
        for length in [1, 3, 5] {
            let mut chats = vec![asked[..length].to_vec()];
            if self.system != System::Refused {
                chats.push([&[("system", S)], &asked[..length]].concat());
            }
            for chat in chats {
                let (expected, found) = (render(template, &chat, true)?, self.render(&chat));
                if expected != found {
                    return Err(format!(
                        "its chat template does more than put constant text around messages, which is all that is \
                         translated into Ollama's language: {expected:?} would be {found:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// At least BOS belongs to the beginning.
fn own_start<'a>(begin: &'a str, own_bos: Option<&str>) -> &'a str {
    match own_bos.filter(|bos| begin.starts_with(*bos)) {
        Some(bos) => &begin[..bos.len()],
        None => "",
    }
}

fn render(template: &ChatTemplate, messages: &[(&str, &str)], prompt: bool) -> Result<String, String> {
    let messages: Vec<Value> =
        messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    let rendered = template.render(&messages, None, prompt, &Map::new());
    rendered.map(|rendered| rendered.text).map_err(|error| format!("the chat template: {error}"))
}

/// The text around the messages, each of which must be there once and in order.
fn cut(text: &str, at: &[&str]) -> Option<Vec<String>> {
    let mut parts = Vec::with_capacity(at.len() + 1);
    let mut rest = text;
    for message in at {
        let (before, after) = rest.split_once(message)?;
        parts.push(before.to_owned());
        rest = after;
    }
    parts.push(rest.to_owned());
    at.iter().all(|message| text.matches(message).count() == 1).then_some(parts)
}

fn common_end<'a>(one: &'a str, other: &str) -> &'a str {
    let alike = one.chars().rev().zip(other.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
    &one[one.len() - alike.sum::<usize>()..]
}

fn common_start<'a>(one: &'a str, other: &str) -> &'a str {
    let end = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    &one[..end.unwrap_or(one.len().min(other.len()))]
}
