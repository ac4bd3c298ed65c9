//! `rankine pull`: a model or a dataset comes into the cache.

use rankine_data::CONVERTED_REVISION;
use rankine_hub::{
    DEFAULT_REVISION, HubError, Kind, ModelPart, Repository, Tree, dataset_files, has_data, matching_files,
    model_files, split_revision,
};
use serde_json::json;

use crate::Environment;
use crate::cli::PullArgs;
use crate::fault::{Failure, Fault};
use crate::repositories::{FindError, Repositories};
use crate::terminal;
use crate::terminal::numbers::{bytes, counted};

/// Fetches, and prints the folder.
///
/// # Errors
/// A repository that is not there or not for this account, a transfer that failed.
pub fn run(args: &PullArgs, environment: &Environment) -> Result<(), Failure> {
    let repositories = Repositories::new(environment, args.quiet)?;
    let mut tree = find(&repositories, &args.repository)?;
    let refused = |error: HubError| FindError::Hub(error).failure();
    if args.include.is_empty()
        && let Some(copies) = copies(&repositories, &tree).map_err(refused)?
    {
        tree = copies;
    }
    let files = choose(&tree, &args.include).map_err(refused)?;
    let folder = repositories.fetch(&tree, &files).map_err(refused)?;
    let size: u64 = files.iter().filter_map(|path| tree.files.get(path)).map(|file| file.size).sum();
    let (kind, name) = (tree.repository.kind, &tree.repository.name);
    if args.json {
        let value = json!({
            "kind": kind, "name": name, "revision": tree.revision, "commit": tree.commit,
            "folder": folder, "files": files, "bytes": size,
        });
        return terminal::print(&format!("{value:#}\n"));
    }
    let words =
        format!("{} {name} at {}, {} of {}", kind.word(), tree.commit, counted(files.len(), "file"), bytes(size));
    terminal::note(&words);
    terminal::print(&format!("{}\n", folder.display()))
}

/// A model of that name, else a dataset.
fn find(repositories: &Repositories, text: &str) -> Result<Tree, Failure> {
    let (name, revision) = split_revision(text);
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    let (kinds, name) = match (name.strip_prefix("datasets/"), name.strip_prefix("models/")) {
        // A model of an organisation called `datasets` is `models/datasets/name`.
        (Some(dataset), _) if dataset.contains('/') => (vec![Kind::Dataset], dataset),
        (_, Some(model)) if model.contains('/') => (vec![Kind::Model], model),
        _ => (vec![Kind::Model, Kind::Dataset], name),
    };
    let mut first = None;
    for kind in kinds {
        let repository = Repository::new(kind, name).ok_or_else(|| {
            let fault = Fault::new(format!("`{name}` is no name of a repository"));
            Failure::bad_input(fault.help("give `org/name`, `org/name@revision` or `datasets/org/name`"))
        })?;
        match repositories.tree(&repository, revision) {
            Ok(tree) => return Ok(tree),
            Err(error @ (HubError::NoRepository { .. } | HubError::NotCached { .. })) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(FindError::Hub(error).failure()),
        }
    }
    Err(first
        .map_or_else(|| Failure::bad_input(Fault::new("nothing to fetch")), |error| FindError::Hub(error).failure()))
}

/// The Hub's Parquet copies of a dataset that has nothing to read itself, as a recipe takes them; its card comes along.
fn copies(repositories: &Repositories, tree: &Tree) -> Result<Option<Tree>, HubError> {
    let own = dataset_files(tree);
    if tree.repository.kind != Kind::Dataset || tree.revision != DEFAULT_REVISION || has_data(&own) {
        return Ok(None);
    }
    let Ok(copies) = repositories.tree(&tree.repository, CONVERTED_REVISION) else {
        // What is missing is told of the dataset itself.
        return Ok(None);
    };
    repositories.fetch(tree, &own)?;
    Ok(Some(copies))
}

fn choose(tree: &Tree, patterns: &[String]) -> Result<Vec<String>, HubError> {
    if !patterns.is_empty() {
        return matching_files(tree, patterns);
    }
    match tree.repository.kind {
        Kind::Model => model_files(tree, ModelPart::Whole),
        Kind::Dataset => {
            let files = dataset_files(tree);
            if has_data(&files) {
                return Ok(files);
            }
            Err(HubError::NoFile {
                repository: tree.repository.clone(),
                revision: tree.revision.clone(),
                missing: ["*.parquet", "*.jsonl", "*.json", "*.csv"].map(str::to_owned).to_vec(),
            })
        }
    }
}
