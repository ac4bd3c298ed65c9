//! `rankine generate`: one answer, as it comes.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use rankine_models::generate::generate;
use serde_json::{Value as Json, json};

use super::open::{self, chat_ids, prompt_ids};
use crate::Environment;
use crate::cli::GenerateArgs;
use crate::fault::{Failure, Fault};
use crate::terminal;

/// Streams the answer to stdout.
///
/// # Errors
/// A model or prompt that cannot be used.
pub fn run(args: &GenerateArgs, environment: &Environment) -> Result<(), Failure> {
    // What is cheap to check goes before a model is loaded.
    let conversation = args.messages.as_deref().map(read_messages).transpose()?;
    let mut config = open::generate_config(&args.sampling, &[])?;
    let opened = open::open(&args.model, environment)?;
    config.eos_token_ids.clone_from(&opened.eos_token_ids);
    let ids = match (&conversation, &args.prompt) {
        (Some((messages, tools)), _) => chat_ids(&opened.tokenizer, messages, tools.as_ref())?,
        (None, Some(prompt)) => prompt_ids(&opened.tokenizer, prompt)?,
        (None, None) => Vec::new(),
    };
    let started = Instant::now();
    let mut written = Ok(());
    let mut first = None;
    let generated = generate(&opened.model, opened.tokenizer.inner(), &ids, &config, &mut |piece| {
        first.get_or_insert_with(|| started.elapsed());
        if args.json {
            return ControlFlow::Continue(());
        }
        written = terminal::print(piece);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let generated = generated.map_err(|error| open::input(&error))?;
    written?;
    if !args.json {
        return terminal::print("\n");
    }
    let seconds = started.elapsed().as_secs_f64();
    let object = json!({
        "text": generated.text,
        "finish": generated.finish,
        "prompt_tokens": ids.len(),
        "new_tokens": generated.ids.len(),
        "seconds": seconds,
        "first_token_seconds": first.map(|first| first.as_secs_f64()),
    });
    terminal::print(&format!("{object}\n"))
}

/// A list of messages, or an object with `messages` and `tools`.
fn read_messages(path: &Path) -> Result<(Vec<Json>, Option<Json>), Failure> {
    let name = path.display();
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(path).map(|found| text = found)
    };
    read.map_err(|error| Failure::bad_input(Fault::new(format!("{name}: cannot be read: {error}"))))?;
    let bad = |what: String| {
        let fault = Fault::new(format!("{name}: {what}"));
        Failure::bad_input(
            fault.help(r#"expected [{"role": "user", "content": "..."}], or an object with `messages` and `tools`"#),
        )
    };
    let value: Json = serde_json::from_str(&text).map_err(|error| bad(format!("this is not JSON: {error}")))?;
    let (messages, tools) = match value {
        Json::Array(messages) => (messages, None),
        Json::Object(mut object) => {
            let tools = object.remove("tools").filter(|tools| !tools.is_null());
            match object.remove("messages") {
                Some(Json::Array(messages)) => (messages, tools),
                _ => return Err(bad("the object has no list `messages`".to_owned())),
            }
        }
        _ => return Err(bad("this is neither a list nor an object".to_owned())),
    };
    if messages.is_empty() {
        return Err(bad("there are no messages".to_owned()));
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Json::is_string) {
            return Err(bad(format!("message {} has no `role`", index + 1)));
        }
    }
    Ok((messages, tools))
}
