//! `--out s3://bucket/folder`: made and proven in a local folder, sent, compared, and the local folder removed.

use std::fs;
use std::path::{Path, PathBuf};

use rankine_hub::S3Address;
use sha2::{Digest, Sha256};

use super::Exported;
use crate::Environment;
use crate::account::{self, s3_address};
use crate::cli::ExportArgs;
use crate::fault::{Failure, Fault};
use crate::terminal::note;

/// An export that is on its way to a bucket.
pub(super) struct Bucket {
    to: S3Address,
    scratch: PathBuf,
    local: PathBuf,
}

/// Where an export goes that is meant for S3; `None` for a folder. Keys and bucket are asked for first: what is made
/// takes minutes.
pub(super) fn begin(args: &ExportArgs, environment: &Environment) -> Result<Option<Bucket>, Failure> {
    let Some(to) = s3_address(&args.out.to_string_lossy())? else {
        if args.force {
            let fault = Fault::new("`--force` is for exports to S3");
            return Err(Failure::bad_input(fault.help("remove the folder first, or give another")));
        }
        return Ok(None);
    };
    account::can_upload(environment, &to)?;
    // By the address: what a killed export left there is removed by the next.
    let hash: String = Sha256::digest(to.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let scratch = environment.cache.join("exports").join(hash);
    // The folder's name is what the platform will call the model.
    let name = to.prefix.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&to.bucket);
    let local = scratch.join(name);
    let bucket = Bucket { to, scratch, local };
    bucket.remove().and_then(|()| fs::create_dir_all(&bucket.scratch)).map_err(|error| {
        Failure::Failed(Fault::new(format!("{}: cannot be made anew: {error}", bucket.scratch.display())))
    })?;
    Ok(Some(bucket))
}

impl Bucket {
    /// The folder that is made first.
    pub(super) fn local(&self) -> &Path {
        &self.local
    }

    /// Sends what was made. The report and `deploy/` are for the person, and no part of a model.
    pub(super) fn send(
        &self,
        exported: Exported,
        args: &ExportArgs,
        environment: &Environment,
    ) -> Result<Exported, Failure> {
        let mut files = account::files_below(&self.local)?;
        let has_deploy = files.iter().any(|file| file.starts_with("deploy/"));
        files.retain(|file| file != "export.json" && !file.starts_with("deploy/"));
        let sent = account::upload(environment, &self.local, &files, &self.to, args.force, args.json)?;
        if has_deploy && !args.json {
            note(
                "note: the scripts and policies of `deploy/` are made with a local `--out`, and stay out of the bucket",
            );
        }
        Ok(Exported { out: PathBuf::from(self.to.to_string()), s3: Some(sent), ..exported })
    }

    fn remove(&self) -> std::io::Result<()> {
        match fs::remove_dir_all(&self.scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // What stays is removed by the next export to this address.
        let _ = self.remove();
    }
}
