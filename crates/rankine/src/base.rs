//! The small files of a base model, wherever they are: a folder has them as files, a GGUF file as metadata.

use std::collections::BTreeMap;
use std::path::Path;

use rankine_data::{TextTokenizer, TokenizerFiles};
use rankine_models::companions::{CONFIG_FILE, Companions, GENERATION_FILE, TEMPLATE_FILES, TOKENIZER_FILES};

use crate::fault::{Failure, Fault, chain};
use crate::plan::data_failure;

/// A model's tokenizer, with another chat template where one is chosen.
///
/// # Errors
/// A missing or broken tokenizer, or a template that cannot be parsed.
pub(crate) fn tokenizer(model: &Path, chat_template: Option<&str>) -> Result<TextTokenizer, Failure> {
    let unreadable = |error| Failure::bad_input(Fault::new(chain(&error)));
    let companions = Companions::of(model).map_err(unreadable)?;
    let files = match &companions {
        Companions::Folder(folder) => TokenizerFiles::Folder(folder.clone()),
        Companions::Gguf(_) => {
            let names = TOKENIZER_FILES.into_iter().chain(TEMPLATE_FILES).chain([CONFIG_FILE, GENERATION_FILE]);
            let mut files = BTreeMap::new();
            for name in names {
                if let Some(bytes) = companions.read(name).map_err(unreadable)? {
                    files.insert(name.to_owned(), bytes);
                }
            }
            TokenizerFiles::Memory { place: model.to_owned(), files }
        }
    };
    TextTokenizer::from_files(&files, chat_template).map_err(data_failure)
}
