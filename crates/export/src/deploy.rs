//! The files beside an export that bring it to its platform: policies, requests and scripts, from templates.

use std::fs;
use std::path::Path;

use rankine_models::weights::{sync_folder, write_aside};

use crate::error::ExportError;

/// The folder of those files in an export.
pub(crate) const FOLDER: &str = "deploy";

/// The folder's name as platforms take names: letters, digits and single hyphens, at most 63.
pub(crate) fn model_name(out: &Path) -> String {
    let given = out.file_name().unwrap_or_default().to_string_lossy();
    let mut name = String::new();
    for c in given.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(63);
    match name.trim_end_matches('-') {
        "" => "model".to_owned(),
        name => name.to_owned(),
    }
}

/// A template with `@NAME@` replaced.
pub(crate) fn filled(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

/// Writes a file into `deploy/`; a script may be run.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> Result<(), ExportError> {
    let deploy = folder.join(FOLDER);
    fs::create_dir_all(&deploy).map_err(ExportError::io(&deploy, "create"))?;
    let path = deploy.join(name);
    write_aside(&path, text.as_bytes())?;
    if text.starts_with("#!") {
        executable(&path)?;
    }
    Ok(sync_folder(&deploy)?)
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<(), ExportError> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = fs::metadata(path).map_err(ExportError::io(path, "read"))?.permissions();
    permissions.set_mode(permissions.mode() | 0o111);
    fs::set_permissions(path, permissions).map_err(ExportError::io(path, "make executable"))
}

#[cfg(not(unix))]
fn executable(_path: &Path) -> Result<(), ExportError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_platforms_take() {
        for (folder, name) in [
            ("runs/tickets/bedrock", "bedrock"),
            ("My model v1.5", "My-model-v1-5"),
            ("..x__y..", "x-y"),
            ("", "model"),
            ("äöü", "model"),
        ] {
            assert_eq!(model_name(Path::new(folder)), name, "{folder}");
        }
        assert_eq!(model_name(Path::new(&"a".repeat(100))).len(), 63);
    }

    #[test]
    fn every_place_of_a_template_is_filled() {
        assert_eq!(filled("@A@ and @B@, @A@", &[("A", "1"), ("B", "2")]), "1 and 2, 1");
    }
}
