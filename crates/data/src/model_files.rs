//! Files of a model folder beside the tokenizer: its settings and its chat templates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::special::SpecialTokens;
use crate::template::ChatTemplate;

/// `chat_template: chatml` in a recipe: the format for base models that have none of their own.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
                      + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
                      }}{% endif %}";

/// Where a tokenizer's files are: `tokenizer.json`, `tokenizer_config.json` and what else a model folder may have.
#[derive(Debug, Clone)]
pub enum TokenizerFiles {
    /// In a folder.
    Folder(PathBuf),
    /// In memory.
    Memory {
        /// Where they come from, for messages.
        place: PathBuf,
        /// By name.
        files: BTreeMap<String, Vec<u8>>,
    },
}

impl TokenizerFiles {
    /// The folder, or what stands for it.
    pub fn place(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Memory { place, .. } => place,
        }
    }

    /// A file's bytes; `None` where there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                if path.is_file() { read(&path).map(Some) } else { Ok(None) }
            }
            Self::Memory { files, .. } => Ok(files.get(name).cloned()),
        }
    }

    fn read_text(&self, name: &str) -> Result<Option<String>, DataError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        text(&self.place().join(name), bytes).map(Some)
    }
}

/// The template, and the one for conversations with tools.
pub(crate) type Templates = (Option<ChatTemplate>, Option<ChatTemplate>);

/// The folder's templates, or the chosen one. A file of its own goes before `tokenizer_config.json`, as in
/// transformers.
pub(crate) fn templates(
    files: &TokenizerFiles,
    config: &Map<String, Value>,
    chosen: Option<&str>,
    special: &SpecialTokens,
) -> Result<Templates, DataError> {
    let compile = |source: &str| ChatTemplate::new(source, special);
    if let Some(chosen) = chosen {
        return Ok((Some(compile(&chosen_source(files.place(), chosen)?)?), None));
    }
    if let Some(own) = files.read_text("chat_template.jinja")? {
        let tools = files.read_text("additional_chat_templates/tool_use.jinja")?;
        return Ok((Some(compile(&own)?), tools.as_deref().map(compile).transpose()?));
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
    text(&path, read(&path)?)
}

/// A JSON object, empty if there is no such file.
pub(crate) fn json_object(files: &TokenizerFiles, name: &str) -> Result<Map<String, Value>, DataError> {
    let Some(bytes) = files.read(name)? else { return Ok(Map::new()) };
    serde_json::from_slice(&bytes).map_err(|error| DataError::File {
        path: files.place().join(name),
        message: format!("expected a JSON object: {error}; fetch the file again"),
    })
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::Io { path: path.to_path_buf(), action: "read", source })
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    String::from_utf8(bytes).map_err(|_| DataError::File { path: path.to_path_buf(), message: "not UTF-8".to_owned() })
}
