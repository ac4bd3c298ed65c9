//! The files beside the weights: tokenizer, generation settings, licences.

use std::fs;
use std::path::Path;

use rankine_models::companions::{Companions, GENERATION_FILE, TEMPLATE_FILES, TOKENIZER_FILES};
use rankine_models::weights::write_aside;

use crate::ExportInputs;
use crate::error::ExportError;

/// Copies what there is of the tokenizer, with the chat template that was trained.
pub(crate) fn copy_tokenizer(inputs: &ExportInputs<'_>, folder: &Path) -> Result<(), ExportError> {
    let from = Companions::of(inputs.tokenizer.unwrap_or(inputs.base))?;
    for name in TOKENIZER_FILES {
        copy_if_there(&from, folder, name)?;
    }
    match inputs.chat_template {
        // The file wins over a template inside tokenizer_config.json.
        Some(template) => Ok(write_aside(&folder.join(TEMPLATE_FILES[0]), template.as_bytes())?),
        None => TEMPLATE_FILES.into_iter().try_for_each(|name| copy_if_there(&from, folder, name)),
    }
}

/// Copies the base's settings for generation, which hold its stop tokens.
pub(crate) fn copy_generation_config(inputs: &ExportInputs<'_>, folder: &Path) -> Result<(), ExportError> {
    copy_if_there(&Companions::of(inputs.base)?, folder, GENERATION_FILE)
}

/// Copies the licence and the notices that must accompany a changed model.
pub(crate) fn copy_licences(inputs: &ExportInputs<'_>, folder: &Path) -> Result<(), ExportError> {
    // What lies beside a file that was given by its own path need not belong to it.
    if !inputs.base.is_dir() {
        return Ok(());
    }
    let base = Companions::Folder(inputs.base.to_owned());
    let entries = fs::read_dir(inputs.base).map_err(ExportError::io(inputs.base, "list"))?;
    for entry in entries {
        let name = entry.map_err(ExportError::io(inputs.base, "list"))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let upper = name.to_uppercase();
        if ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"].iter().any(|start| upper.starts_with(start)) {
            copy_if_there(&base, folder, name)?;
        }
    }
    Ok(())
}

/// Copies the file's contents, not its permissions: what a cache holds is read-only, or a link.
fn copy_if_there(from: &Companions, to: &Path, name: &str) -> Result<(), ExportError> {
    match from.read(name)? {
        Some(bytes) => Ok(write_aside(&to.join(name), &bytes)?),
        None => Ok(()),
    }
}
