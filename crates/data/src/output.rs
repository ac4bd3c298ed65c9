//! Files that are written whole or not at all.

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::DataError;

/// Writes a new file.
///
/// # Errors
/// A file that is there already, or one that cannot be written.
pub fn write_new(path: &Path, text: &str) -> Result<(), DataError> {
    // Asked before the work as well as at its end, where it counts.
    if path.exists() {
        return Err(occupied(path));
    }
    written_aside(path, text)?.persist_noclobber(path).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => occupied(path),
        _ => io(path, error.error),
    })?;
    Ok(())
}

/// Writes a file in the place of an earlier one.
///
/// # Errors
/// A file that cannot be written.
pub fn write_over(path: &Path, text: &str) -> Result<(), DataError> {
    written_aside(path, text)?.persist(path).map_err(|error| io(path, error.error))?;
    Ok(())
}

fn written_aside(path: &Path, text: &str) -> Result<NamedTempFile, DataError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| io(path, error))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rankine-").suffix(".part");
    // As any new file has them: others may read a report, within the user's own mask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(|error| io(path, error))?;
    file.write_all(text.as_bytes()).map_err(|error| io(path, error))?;
    file.as_file().sync_all().map_err(|error| io(path, error))?;
    Ok(file)
}

fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io { path: path.to_path_buf(), action: "write", source }
}

fn occupied(path: &Path) -> DataError {
    DataError::File {
        path: path.to_path_buf(),
        message: "the file is there already, and is not written over\n  help: give another name, or remove it"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_leaves_an_old_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.jsonl");
        write_new(&path, "one").unwrap();
        let error = write_new(&path, "two").unwrap_err().to_string();
        assert!(error.contains("a.jsonl: the file is there already"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        write_over(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(folder.path().join("deep")).unwrap().count(), 1, "nothing else is left behind");
    }
}
