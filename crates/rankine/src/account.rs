//! The account on Amazon: folders on S3, and what a refusal means for the command.

use std::path::Path;

use rankine_hub::S3Address;
use serde::Serialize;

use crate::Environment;
use crate::fault::{Failure, Fault};

/// An address that a person wrote where it may also be something else; `None` where none is meant.
pub(crate) fn s3_address(text: &str) -> Result<Option<S3Address>, Failure> {
    if !S3Address::is_meant(text) {
        return Ok(None);
    }
    let address = text.parse::<S3Address>();
    address.map(Some).map_err(|error| Failure::bad_input(Fault::new(error.to_string()).help(error.help())))
}

/// What is on S3 after an upload.
#[derive(Debug, Serialize)]
pub(crate) struct OnS3 {
    /// Where.
    pub(crate) out: String,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Files that were there already.
    pub(crate) kept: usize,
    /// Objects of other origin in the same folder.
    pub(crate) others: Vec<String>,
}

/// Every file of a folder and of those in it, with `/` between folders; hidden ones stay.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<String>, Failure> {
    fn walk(root: &Path, below: &str, files: &mut Vec<String>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(root.join(below))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.path().is_dir() {
                walk(root, &path, files)?;
            } else {
                files.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    walk(folder, "", &mut files)
        .map_err(|error| Failure::bad_input(Fault::new(format!("{}: {error}", folder.display()))))?;
    files.sort();
    Ok(files)
}

/// Sends these files of a folder, compares what arrived, and tells what else lies there. With `force`, other objects of
/// the same names are written over.
#[cfg(feature = "s3")]
pub(crate) fn upload(
    environment: &Environment,
    folder: &Path,
    files: &[String],
    to: &S3Address,
    force: bool,
    quiet: bool,
) -> Result<OnS3, Failure> {
    use rankine_hub::{Aws, Existing, PART_SIZE, S3Upload};

    use crate::terminal;
    use crate::terminal::transfer::Transfer;

    let existing = if force { Existing::Replace } else { Existing::Refuse };
    let upload = S3Upload { folder, files, to, existing, part_size: PART_SIZE };
    let name = to.to_string();
    let uploaded = Transfer::new(&name, quiet)
        .run(|telling| Aws::new(environment.aws.clone())?.upload(&upload, telling))
        .map_err(|error| failure(&error))?;
    if !quiet && uploaded.kept > 0 {
        terminal::note(&format!("{name}: {} of {} files were there already", uploaded.kept, uploaded.files));
    }
    if !quiet && !uploaded.others.is_empty() {
        let others = uploaded.others.join(", ");
        terminal::note(&format!("note: {name} also holds what does not belong to it, and was left alone: {others}"));
    }
    Ok(OnS3 { out: name, files: uploaded.files, bytes: uploaded.bytes, kept: uploaded.kept, others: uploaded.others })
}

/// Says that this program cannot.
#[cfg(not(feature = "s3"))]
pub(crate) fn upload(
    _: &Environment,
    _: &Path,
    _: &[String],
    to: &S3Address,
    _: bool,
    _: bool,
) -> Result<OnS3, Failure> {
    Err(without_s3(to))
}

/// Asks before anything is made that could not be sent.
#[cfg(feature = "s3")]
pub(crate) fn can_upload(environment: &Environment, to: &S3Address) -> Result<(), Failure> {
    let asked = rankine_hub::Aws::new(environment.aws.clone()).and_then(|aws| aws.can_list(to));
    asked.map_err(|error| failure(&error))
}

/// Says before anything is made that this program cannot.
#[cfg(not(feature = "s3"))]
pub(crate) fn can_upload(_: &Environment, to: &S3Address) -> Result<(), Failure> {
    Err(without_s3(to))
}

#[cfg(not(feature = "s3"))]
fn without_s3(to: &S3Address) -> Failure {
    let fault = Fault::new(format!("this rankine was built without the feature `s3`, and cannot write to {to}"));
    Failure::bad_input(fault.help(
        "build it with `cargo build --release --features s3`, or give a local folder and upload it with `aws s3 sync`",
    ))
}

/// As the end of a command.
#[cfg(any(feature = "s3", feature = "aws"))]
pub(crate) fn failure(error: &rankine_hub::AwsError) -> Failure {
    let fault = Fault::new(error.to_string()).help(error.help());
    if error.is_outside() { Failure::Failed(fault) } else { Failure::bad_input(fault) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_folders_are_found_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("deploy/.git")).unwrap();
        for name in ["config.json", ".DS_Store", "deploy/run.sh", "deploy/.git/x"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        assert_eq!(files_below(folder.path()).unwrap(), ["config.json", "deploy/run.sh"]);
    }

    #[test]
    fn what_is_meant_as_an_address_is_one_or_refused() {
        assert!(s3_address("runs/x").unwrap().is_none());
        assert!(s3_address("org/name").unwrap().is_none());
        assert_eq!(s3_address("s3://bucket/a").unwrap().unwrap().prefix, "a");
        let Err(Failure::BadInput(input)) = s3_address("s3:/bucket") else { panic!("refused") };
        assert_eq!(input.faults[0].help.as_deref(), Some("give `s3://bucket/folder`"));
    }
}
