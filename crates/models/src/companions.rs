//! The files beside a model's weights without which it cannot be used.

use std::path::{Path, PathBuf};

use crate::gguf::{self, GgufError, SmallFiles};

/// Everything that a tokenizer may consist of.
pub const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// The chat template's own files: a tokenizer's, which goes before `tokenizer_config.json` in transformers, and an old
/// processor's.
pub const TEMPLATE_FILES: [&str; 2] = ["chat_template.jinja", "chat_template.json"];

/// Settings for generation: the stop tokens among them.
pub const GENERATION_FILE: &str = "generation_config.json";

/// The shape of the model.
pub const CONFIG_FILE: &str = "config.json";

/// Where a model's small files come from.
#[derive(Debug)]
pub enum Companions {
    /// A folder that holds them.
    Folder(PathBuf),
    /// A GGUF file, whose metadata say the same.
    Gguf(Box<SmallFiles>),
}

impl Companions {
    /// Those of a model: a folder with safetensors, or a GGUF file or a folder with one.
    ///
    /// # Errors
    /// A GGUF file that cannot be read, or several in the folder.
    pub fn of(model: &Path) -> Result<Self, GgufError> {
        Ok(match gguf::find(model)? {
            Some(found) => Self::Gguf(Box::new(SmallFiles::open(&found)?)),
            None => Self::Folder(model.to_owned()),
        })
    }

    /// The bytes of the file of that name; `None` where there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read, or metadata that are not what the file would need.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, GgufError> {
        match self {
            Self::Gguf(files) => Ok(files.read(name)?.map(String::into_bytes)),
            Self::Folder(folder) => {
                let file = folder.join(name);
                if !file.is_file() {
                    return Ok(None);
                }
                std::fs::read(&file).map(Some).map_err(|source| GgufError::Unreadable { file, source })
            }
        }
    }
}
