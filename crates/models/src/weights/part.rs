//! Files that appear under their names when they are whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::fault::WeightsError;

/// Writes `bytes` beside `path`, syncs them and renames: `path` is the old file or the whole new one.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let needed = bytes.len() as u64;
    let mut part = PartFile::create(path)?;
    part.file.write_all(bytes).map_err(|e| WeightsError::writing(path, needed, 0, e))?;
    part.sync(needed, needed)?;
    part.publish()?.keep();
    Ok(())
}

/// Makes the names in `folder` as durable as the files' contents.
pub fn sync_folder(folder: &Path) -> Result<(), WeightsError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Windows has no such call, and its renames do not need it.
    #[cfg(unix)]
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(WeightsError::io(folder, "sync"))?;
    let _ = folder;
    Ok(())
}

/// `NAME.part`, removed when it is dropped.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) file: File,
    pub(super) part: PathBuf,
    pub(super) target: PathBuf,
    pub(super) renamed: bool,
}

impl PartFile {
    pub(super) fn create(target: &Path) -> Result<Self, WeightsError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = target.with_file_name(name);
        let file = File::create(&part).map_err(|e| WeightsError::writing(&part, 0, 0, e))?;
        Ok(Self { file, part, target: target.to_owned(), renamed: false })
    }

    pub(super) fn sync(&self, needed: u64, written: u64) -> Result<(), WeightsError> {
        // Where blocks are allocated late, this is where a full disk shows.
        self.file.sync_all().map_err(|e| WeightsError::writing(&self.target, needed, written, e))
    }

    pub(super) fn publish(mut self) -> Result<Published, WeightsError> {
        fs::rename(&self.part, &self.target).map_err(WeightsError::io(&self.target, "rename into place"))?;
        self.renamed = true;
        Ok(Published { target: Some(self.target.clone()) })
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.renamed {
            remove_partial(&self.part);
        }
    }
}

/// A file under its final name, removed when it is dropped before everything that belongs to it is there.
#[derive(Debug)]
pub(super) struct Published {
    target: Option<PathBuf>,
}

impl Published {
    pub(super) fn keep(mut self) {
        self.target = None;
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(target) = &self.target {
            remove_partial(target);
        }
    }
}

/// In a destructor after a failure that is already being reported: a file that cannot be removed either is left.
fn remove_partial(path: &Path) {
    let _: io::Result<()> = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_aside_replaces_a_file_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        write_aside(&path, b"one").unwrap();
        write_aside(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
