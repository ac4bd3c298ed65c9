//! A chat format in Go's template language, with the variables that Ollama sets.

use super::chat_format::{ChatFormat, System};

/// The text of `TEMPLATE`; or what in it a Modelfile cannot hold.
///
/// Ollama leaves BOS to the tokenizer. It renders a conversation whose last message is the question, or an answer that is
/// to go on.
pub(crate) fn source(format: &ChatFormat) -> Result<String, String> {
    let bos = format.own_bos.as_deref().unwrap_or_default();
    let mut text = String::new();
    // The tokenizer puts the first one.
    let begin = format.begin.strip_prefix(bos).unwrap_or(&format.begin);
    let bos_within_question = !bos.is_empty() && format.begin.is_empty() && format.user.before.starts_with(bos);
    text.push_str(&literal(begin));
    let (mut system, mut within) = (String::new(), String::new());
    match &format.system {
        System::Message { around, default } => {
            if !default.is_empty() {
                text.push_str(&format!("{{{{ if not .System }}}}{}{{{{ end }}}}", literal(default)));
            }
            system = format!("{}{{{{ .Content }}}}{}", literal(&around.before), literal(&around.after));
        }
        System::InFirstQuestion(around) => {
            within = pending(&literal(&around.before), &literal(&around.after));
        }
        System::Refused => within = pending("", "\n\n"),
    }
    if !within.is_empty() {
        text.push_str("{{ $system := .System }}");
    }
    if bos_within_question {
        text.push_str("{{ $bos := \"\" }}");
    }
    let question = match bos_within_question {
        true => {
            let rest = literal(format.user.before.strip_prefix(bos).unwrap_or_default());
            format!("{{{{ $bos }}}}{{{{ $bos = {} }}}}{rest}", go_string(bos))
        }
        false => literal(&format.user.before),
    };
    text.push_str("{{ range $i, $message := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}");
    let mut roles = Vec::new();
    if !system.is_empty() {
        roles.push(("system", system));
    }
    roles.push(("user", format!("{question}{within}{{{{ .Content }}}}{}", literal(&format.user.after))));
    // The beginning of an answer is the prompt for it, which the last question ends with.
    let answer = format!(
        "{}{{{{ .Content }}}}{{{{ if not $last }}}}{}{{{{ end }}}}",
        literal(&format.assistant.before),
        literal(&format.assistant.after)
    );
    roles.push(("assistant", answer));
    for (index, (role, body)) in roles.iter().enumerate() {
        let word = if index == 0 { "if" } else { "else if" };
        text.push_str(&format!("{{{{ {word} eq .Role \"{role}\" }}}}{body}"));
    }
    text.push_str("{{ end }}");
    if !format.prompt.is_empty() {
        let prompt = literal(&format.prompt);
        text.push_str(&format!("{{{{ if and $last (ne .Role \"assistant\") }}}}{prompt}{{{{ end }}}}"));
    }
    text.push_str("{{ end }}");
    if text.contains("\"\"\"") || text.ends_with('"') {
        return Err("the chat template holds three quotes, which end a Modelfile's text".to_owned());
    }
    Ok(text)
}

/// The system message, once.
fn pending(before: &str, after: &str) -> String {
    format!("{{{{ if $system }}}}{before}{{{{ $system }}}}{after}{{{{ $system = \"\" }}}}{{{{ end }}}}")
}

/// Constant text.
fn literal(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}

/// A string of Go's.
fn go_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
