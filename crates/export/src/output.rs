//! The folder that an export is made in, and its place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rankine_models::weights::{sync_folder, write_aside};

use crate::ExportReport;
use crate::error::ExportError;

/// The file that says what an export consists of. A folder with it is one of ours and may be replaced.
pub const REPORT_FILE: &str = "export.json";

/// `.NAME.part` beside `NAME`. Dropping it removes it; publishing it renames it.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    part: PathBuf,
    out: PathBuf,
    published: bool,
}

impl OutputFolder {
    /// Makes the folder for an export to `out`, unless `out` holds anything but an earlier export, or is one of `sources`,
    /// inside one or around one.
    pub(crate) fn begin(out: &Path, sources: &[&Path]) -> Result<Self, ExportError> {
        let occupied = |reason: &str| ExportError::Occupied { out: out.to_owned(), reason: reason.to_owned() };
        let name = out.file_name().ok_or_else(|| occupied("this is not the name of a folder"))?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        refuse_occupied(out)?;
        fs::create_dir_all(parent).map_err(ExportError::io(parent, "create"))?;
        let place = fs::canonicalize(parent).map_err(ExportError::io(parent, "find"))?.join(name);
        for source in sources {
            let found = fs::canonicalize(source).map_err(ExportError::io(source, "find"))?;
            if place.starts_with(&found) || found.starts_with(&place) {
                return Err(ExportError::Overlap { out: out.to_owned(), source_folder: (*source).to_owned() });
            }
        }
        let part = beside(&place, "part");
        remove(&part)?;
        fs::create_dir(&part).map_err(ExportError::io(&part, "create"))?;
        Ok(Self { part, out: place, published: false })
    }

    /// Where the export is made.
    pub(crate) fn path(&self) -> &Path {
        &self.part
    }

    /// Bytes of every file made so far.
    pub(crate) fn files(&self) -> Result<BTreeMap<String, u64>, ExportError> {
        sizes(&self.part).map_err(ExportError::io(&self.part, "list"))
    }

    pub(crate) fn write_report(&self, report: &ExportReport) -> Result<(), ExportError> {
        let file = self.part.join(REPORT_FILE);
        let text = serde_json::to_string_pretty(report).map_err(|error| ExportError::Io {
            file: file.clone(),
            action: "write",
            source: error.into(),
        })?;
        Ok(write_aside(&file, format!("{text}\n").as_bytes())?)
    }

    /// Renames it into place. An earlier export steps aside until the new one is there.
    pub(crate) fn publish(mut self) -> Result<(), ExportError> {
        sync_folder(&self.part)?;
        // Asked again: an export takes minutes, in which something else may have come here.
        refuse_occupied(&self.out)?;
        let old = beside(&self.out, "old");
        remove(&old)?;
        let replaces = self.out.exists();
        if replaces {
            fs::rename(&self.out, &old).map_err(ExportError::io(&self.out, "move aside"))?;
        }
        if let Err(error) = fs::rename(&self.part, &self.out) {
            if replaces {
                // What can be done about a second failure is said by the first.
                let _ = fs::rename(&old, &self.out);
            }
            return Err(ExportError::io(&self.out, "rename into place")(error));
        }
        self.published = true;
        if let Some(parent) = self.out.parent() {
            sync_folder(parent)?;
        }
        remove(&old)
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.published {
            // After a failure that is already being reported.
            let _ = fs::remove_dir_all(&self.part);
        }
    }
}

/// `.NAME.ending` beside `NAME`.
fn beside(out: &Path, ending: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{ending}"))
}

fn remove(folder: &Path) -> Result<(), ExportError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ExportError::io(folder, "remove")(error)),
        _ => Ok(()),
    }
}

/// Refuses a place that holds anything but an export exactly as it was made.
fn refuse_occupied(out: &Path) -> Result<(), ExportError> {
    let refuse = |reason: String| Err(ExportError::Occupied { out: out.to_owned(), reason });
    let about = match fs::symlink_metadata(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about.map_err(ExportError::io(out, "read"))?,
    };
    if !about.is_dir() {
        return refuse("there is a file of that name".to_owned());
    }
    let found = match sizes(out) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return refuse(error.to_string()),
        Err(error) => return Err(ExportError::io(out, "list")(error)),
    };
    if found.is_empty() {
        return Ok(());
    }
    let report =
        fs::read(out.join(REPORT_FILE)).ok().and_then(|text| serde_json::from_slice::<ExportReport>(&text).ok());
    let Some(report) = report else {
        return refuse("the folder is not empty and not an earlier export".to_owned());
    };
    let foreign = found.iter().find(|(name, size)| *name != REPORT_FILE && report.files.get(*name) != Some(size));
    match foreign {
        Some((name, _)) => refuse(format!("`{name}` was added or changed since the export here was made")),
        None => Ok(()),
    }
}

/// Bytes of every file in a folder, by its path in it; a folder that has anything but files and folders with files is
/// none of ours.
fn sizes(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    collect(folder, "", &mut found)?;
    Ok(found)
}

fn collect(folder: &Path, prefix: &str, found: &mut BTreeMap<String, u64>) -> io::Result<()> {
    let foreign = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let before = found.len();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if about.is_dir() {
            collect(&entry.path(), &format!("{name}/"), found)?;
        } else if about.is_file() {
            found.insert(name, about.len());
        } else {
            return Err(foreign(format!("`{name}` in it is not a file")));
        }
    }
    if !prefix.is_empty() && found.len() == before {
        return Err(foreign(format!("`{prefix}` in it is an empty folder")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    fn listing(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn make(out: &Path, name: &str) -> Result<(), ExportError> {
        let folder = OutputFolder::begin(out, &[])?;
        fs::write(folder.path().join(name), name).unwrap();
        let report = ExportReport {
            rankine: "0".into(),
            target: Target::Merged,
            form: None,
            base_model: None,
            changed_tensors: 0,
            kept_tensors: 0,
            untied: false,
            drift: None,
            quantisation: None,
            warnings: Vec::new(),
            files: folder.files()?,
        };
        folder.write_report(&report)?;
        folder.publish()
    }

    #[test]
    fn an_earlier_export_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b/out");
        make(&out, "one").unwrap();
        make(&out, "two").unwrap();
        assert_eq!(listing(&out), ["export.json", "two"]);
        assert_eq!(listing(out.parent().unwrap()), ["out"], "nothing is left beside it");
        let refused = |change: &dyn Fn()| {
            make(&out, "two").unwrap();
            change();
            let before = listing(&out);
            let text = make(&out, "three").unwrap_err().to_string();
            assert_eq!(listing(&out), before);
            assert_eq!(listing(out.parent().unwrap()), ["out"]);
            fs::remove_dir_all(&out).unwrap();
            text
        };
        assert!(refused(&|| fs::write(out.join("mine"), "").unwrap()).contains("`mine` was added or changed"));
        assert!(refused(&|| fs::write(out.join("two"), "edited").unwrap()).contains("`two` was added or changed"));
        assert!(refused(&|| fs::create_dir(out.join("sub")).unwrap()).contains("`sub/` in it is an empty folder"));
        let nested = || {
            fs::create_dir(out.join("sub")).unwrap();
            fs::write(out.join("sub/mine"), "").unwrap();
        };
        assert!(refused(&nested).contains("`sub/mine` was added or changed"));
        assert!(refused(&|| fs::remove_file(out.join(REPORT_FILE)).unwrap()).contains("not an earlier export"));
        assert!(refused(&|| fs::write(out.join(REPORT_FILE), "{}").unwrap()).contains("not an earlier export"));
        fs::create_dir(&out).unwrap();
        make(&out, "in an empty folder").unwrap();
    }

    #[test]
    fn a_failure_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        make(&out, "one").unwrap();
        drop(OutputFolder::begin(&out, &[]).unwrap());
        assert_eq!(
            (listing(dir.path()), listing(&out)),
            (vec!["out".to_owned()], vec!["export.json".into(), "one".into()])
        );
        // What a killed export leaves is cleared away by the next.
        fs::create_dir_all(dir.path().join(".out.part/x")).unwrap();
        make(&out, "two").unwrap();
        assert_eq!(listing(dir.path()), ["out"]);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make(&file, "x").unwrap_err().to_string().contains("a file of that name"));
        assert!(make(Path::new("/"), "x").is_err());
    }

    #[test]
    fn sources_are_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("models/base");
        fs::create_dir_all(&base).unwrap();
        for out in ["models/base", "models/base/merged", "models/x/../base"] {
            let error = OutputFolder::begin(&dir.path().join(out), &[&base]).map(|_| ());
            assert!(matches!(error, Err(ExportError::Overlap { .. } | ExportError::Io { .. })), "{out}: {error:?}");
        }
        assert_eq!(listing(&base), Vec::<String>::new());
        OutputFolder::begin(&dir.path().join("models/base2"), &[&base]).unwrap();
    }
}
