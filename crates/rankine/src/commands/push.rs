//! `rankine push`: an adapter or a model becomes a repository on the Hugging Face Hub.

use crate::Environment;
use crate::cli::PushArgs;
use crate::fault::{Failure, Fault};

/// Uploads, and prints the page.
///
/// # Errors
/// A folder that is neither, a token that may not write, an upload that failed.
#[cfg(feature = "hub")]
pub fn run(args: &PushArgs, environment: &Environment) -> Result<(), Failure> {
    use rankine_hub::{Kind, Repository, Upload, Visibility};
    use serde_json::json;

    use crate::repositories::{FindError, Repositories};
    use crate::terminal;
    use crate::terminal::transfer::Transfer;

    let repository = Repository::new(Kind::Model, &args.repository).filter(|repository| repository.name.contains('/'));
    let repository = repository.ok_or_else(|| {
        let fault = Fault::new(format!("`{}` is no name of a repository", args.repository));
        Failure::bad_input(fault.help("give `org/name`, where `org` is your account or an organisation"))
    })?;
    let found = folder::find(&args.folder)?;
    if !found.files.iter().any(|file| file == "README.md") {
        terminal::note(&format!("note: {} has no README.md: the repository will have no card", found.folder.display()));
    }
    let repositories = Repositories::new(environment, args.json)?;
    let message = args.message.clone().unwrap_or_else(|| format!("Upload {} with rankine", found.what));
    let upload = Upload {
        folder: &found.folder,
        files: &found.files,
        message: &message,
        visibility: if args.public { Visibility::Public } else { Visibility::Private },
    };
    let pushed = Transfer::new(&repository.name, args.json)
        .run(|telling| repositories.hub().push(&repository, &upload, telling))
        .map_err(|error| FindError::Hub(error).failure())?;
    if args.json {
        let value = json!({
            "name": repository.name, "commit": pushed.commit, "page": pushed.page,
            "created": pushed.created, "files": found.files,
        });
        return terminal::print(&format!("{value:#}\n"));
    }
    let made = match (pushed.created, args.public) {
        (false, _) => "",
        (true, false) => ", a new private repository",
        (true, true) => ", a new public repository",
    };
    terminal::note(&format!("{} from {} at {}{made}", found.what, found.folder.display(), pushed.commit));
    terminal::print(&format!("{}\n", pushed.page))
}

/// Says that this program cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "hub"))]
pub fn run(_: &PushArgs, _: &Environment) -> Result<(), Failure> {
    let fault = Fault::new("this rankine was built without the feature `hub`, and cannot upload");
    Err(Failure::bad_input(fault.help("build it with its default features")))
}

#[cfg(feature = "hub")]
mod folder {
    //! Which folder is meant, and which of its files are uploaded.

    use std::fs;
    use std::path::{Path, PathBuf};

    use crate::fault::{Failure, Fault};

    /// What is uploaded.
    #[derive(Debug)]
    pub(super) struct Found {
        pub(super) folder: PathBuf,
        pub(super) files: Vec<String>,
        /// `an adapter` or `a model`.
        pub(super) what: &'static str,
    }

    /// Endings of files that a folder of an adapter or a model consists of.
    const ENDINGS: [&str; 7] = ["safetensors", "json", "jinja", "md", "txt", "model", "gguf"];

    /// What an endpoint runs (`rankine export --target hf-endpoint --handler`).
    const HANDLER: &str = "handler.py";

    /// The folder itself, or the adapter or model of a run.
    pub(super) fn find(given: &Path) -> Result<Found, Failure> {
        for folder in [given.to_owned(), given.join("adapter"), given.join("model")] {
            let has = |name: &str| folder.join(name).is_file();
            let what = match (has("adapter_config.json"), has("config.json")) {
                (true, _) => "an adapter",
                (false, true) => "a model",
                (false, false) => continue,
            };
            let files = files(&folder)
                .map_err(|error| Failure::bad_input(Fault::new(format!("{}: {error}", folder.display()))))?;
            if !files.iter().any(|name| name.ends_with(".safetensors")) {
                let fault = Fault::new(format!("{} has no safetensors weights", folder.display()));
                return Err(Failure::bad_input(
                    fault.help("a run that was not finished has its weights in `checkpoints`"),
                ));
            }
            return Ok(Found { folder, files, what });
        }
        let fault = Fault::new(format!("{} is no adapter, model or finished run", given.display()));
        Err(Failure::bad_input(fault.help("give a run's folder, or one with adapter_config.json or config.json")))
    }

    /// Files at the top that belong to it; hidden ones, pickles and folders stay.
    fn files(folder: &Path) -> std::io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let licence = name.to_ascii_uppercase().starts_with("LICENSE");
            let belongs = ENDINGS.contains(&ending.as_str()) || licence || name == HANDLER;
            if path.is_file() && belongs && !name.starts_with('.') {
                files.push(name);
            }
        }
        files.sort();
        Ok(files)
    }
}
