//! Files of a model folder beside the tokenizer: its settings and its chat templates.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::special::SpecialTokens;
use crate::template::ChatTemplate;

/// `chat_template: chatml` in a recipe: the format for base models that have none of their own.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
                      + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
                      }}{% endif %}";

/// The template, and the one for conversations with tools.
pub(crate) type Templates = (Option<ChatTemplate>, Option<ChatTemplate>);

/// The folder's templates, or the chosen one. A file of its own goes before `tokenizer_config.json`, as in
/// transformers.
pub(crate) fn templates(
    folder: &Path,
    config: &Map<String, Value>,
    chosen: Option<&str>,
    special: &SpecialTokens,
) -> Result<Templates, DataError> {
    let compile = |source: &str| ChatTemplate::new(source, special);
    if let Some(chosen) = chosen {
        return Ok((Some(compile(&chosen_source(folder, chosen)?)?), None));
    }
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let tools = folder.join("additional_chat_templates").join("tool_use.jinja");
        let tools = if tools.is_file() { Some(compile(&read_text(&tools)?)?) } else { None };
        return Ok((Some(compile(&read_text(&file)?)?), tools));
    }
    match config.get("chat_template") {
        Some(Value::String(source)) => Ok((Some(compile(source)?), None)),
        Some(Value::Array(list)) => {
            let named = |name: &str| {
                list.iter()
                    .find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
                    .and_then(|entry| entry.get("template").and_then(Value::as_str))
                    .map(compile)
                    .transpose()
            };
            Ok((named("default")?, named("tool_use")?))
        }
        _ => Ok((None, None)),
    }
}

fn chosen_source(folder: &Path, chosen: &str) -> Result<String, DataError> {
    if chosen == "chatml" {
        return Ok(CHATML.to_owned());
    }
    // A template without a single tag renders nothing, so this is a path.
    if chosen.contains("{{") || chosen.contains("{%") {
        return Ok(chosen.to_owned());
    }
    let path =
        [PathBuf::from(chosen), folder.join(chosen)].into_iter().find(|path| path.is_file()).ok_or_else(|| {
            DataError::NotFound {
                path: PathBuf::from(chosen),
                expected: "`chat_template` is neither a template nor a file".to_owned(),
                help: "give a template's text, the path of a .jinja file, or `chatml`".to_owned(),
            }
        })?;
    read_text(&path)
}

/// A JSON object, empty if there is no such file.
pub(crate) fn json_object(path: &Path) -> Result<Map<String, Value>, DataError> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&read(path)?).map_err(|error| DataError::File {
        path: path.to_path_buf(),
        message: format!("expected a JSON object: {error}; fetch the file again"),
    })
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::Io { path: path.to_path_buf(), action: "read", source })
}

fn read_text(path: &Path) -> Result<String, DataError> {
    String::from_utf8(read(path)?)
        .map_err(|_| DataError::File { path: path.to_path_buf(), message: "not UTF-8".to_owned() })
}
