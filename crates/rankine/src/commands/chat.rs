//! `rankine chat`: a conversation.

use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rankine_models::generate::{Finish, GenerateConfig, generate};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value as Json, json};

use super::open::{self, Opened, chat_ids};
use crate::Environment;
use crate::cli::ChatArgs;
use crate::fault::{Failure, Fault, chain};
use crate::terminal::{self, note};

const HELP: &str = "/reset forgets the conversation, /system TEXT sets the system message, /quit ends";

/// Reads messages and answers them, until `/quit` or the end of the input.
///
/// # Errors
/// A model that cannot be used.
pub fn run(args: &ChatArgs, environment: &Environment) -> Result<(), Failure> {
    let mut config = open::generate_config(&args.sampling, &[])?;
    let opened = open::open(&args.model, environment)?;
    config.eos_token_ids.clone_from(&opened.eos_token_ids);
    // A model without a template is refused before anything is typed.
    chat_ids(&opened.tokenizer, &[json!({"role": "user", "content": "Hello"})], None)?;
    let stop = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&stop);
    // Without a handler Ctrl-C ends the program, which is no harm.
    let _ = ctrlc::set_handler(move || handler.store(true, Ordering::Relaxed));
    let mut chat = Chat { opened, config, system: args.system.clone(), messages: Vec::new(), stop };
    let mut input = Input::open();
    if input.is_terminal() {
        note(HELP);
    }
    while let Some(line) = input.line()? {
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => note(HELP),
            "/reset" => chat.messages.clear(),
            "/system" => chat.system = None,
            text if text.starts_with("/system ") => {
                chat.system = text.strip_prefix("/system ").map(|text| text.trim().to_owned());
                chat.messages.clear();
            }
            text if text.starts_with('/') => note(&format!("there is no `{text}`: {HELP}")),
            text => chat.answer(text)?,
        }
    }
    Ok(())
}

struct Chat {
    opened: Opened,
    config: GenerateConfig,
    system: Option<String>,
    messages: Vec<Json>,
    stop: Arc<AtomicBool>,
}

impl Chat {
    fn answer(&mut self, text: &str) -> Result<(), Failure> {
        self.messages.push(json!({"role": "user", "content": text}));
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Json> = system.chain(self.messages.iter().cloned()).collect();
        let ids = chat_ids(&self.opened.tokenizer, &messages, None)?;
        self.stop.store(false, Ordering::Relaxed);
        let mut written = Ok(());
        let answer = generate(&self.opened.model, self.opened.tokenizer.inner(), &ids, &self.config, &mut |piece| {
            written = terminal::print(piece);
            let go_on = written.is_ok() && !self.stop.load(Ordering::Relaxed);
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        written?;
        match answer {
            Ok(answer) => {
                terminal::print("\n")?;
                match answer.finish {
                    Finish::Length => note("(--max-new-tokens is reached)"),
                    Finish::Context => note("(the model's context is full: /reset forgets the conversation)"),
                    Finish::Eos | Finish::Stop | Finish::Cancelled => {}
                }
                self.messages.push(json!({"role": "assistant", "content": answer.text}));
            }
            // The conversation goes on without this message.
            Err(error) => {
                self.messages.pop();
                note(&format!("error: {}; /reset forgets the conversation", chain(&error)));
            }
        }
        Ok(())
    }
}

/// Where messages come from.
enum Input {
    Terminal(Box<DefaultEditor>),
    Lines(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    fn open() -> Self {
        if std::io::stdin().is_terminal()
            && let Ok(editor) = DefaultEditor::new()
        {
            return Self::Terminal(Box::new(editor));
        }
        Self::Lines(std::io::stdin().lock().lines())
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next message; `None` at the end.
    fn line(&mut self) -> Result<Option<String>, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::Failed(Fault::new(format!("the input cannot be read: {}", chain(error))))
        };
        match self {
            Self::Lines(lines) => lines.next().transpose().map_err(|error| failed(&error)),
            Self::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        // A history that is full loses nothing that is needed.
                        let _ = editor.add_history_entry(&line);
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => note("/quit or Ctrl-D ends"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(failed(&error)),
                }
            },
        }
    }
}
