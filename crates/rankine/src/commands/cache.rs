//! `rankine cache`: what is in the Hugging Face cache.

use rankine_hub::{CachedRepository, HubError, list_cache};
use serde_json::json;

use crate::Environment;
use crate::cli::CacheArgs;
use crate::fault::Failure;
use crate::repositories::FindError;
use crate::terminal;
use crate::terminal::numbers::{bytes, counted};
use crate::terminal::table::columns;

/// Prints every repository with its size.
///
/// # Errors
/// A cache that cannot be read.
pub fn run(args: &CacheArgs, environment: &Environment) -> Result<(), Failure> {
    let refused = |error: HubError| FindError::Hub(error).failure();
    let folder = environment.hub.cache.as_deref().ok_or(HubError::NoCache).map_err(refused)?;
    let repositories = list_cache(folder).map_err(refused)?;
    let total: u64 = repositories.iter().map(|found| found.bytes + found.unfinished_bytes).sum();
    if args.json {
        let value = json!({"folder": folder, "bytes": total, "repositories": repositories});
        return terminal::print(&format!("{value:#}\n"));
    }
    let mut rows = Vec::new();
    for found in &repositories {
        rows.extend(repository_rows(found));
    }
    let count = match repositories.len() {
        1 => "1 repository".to_owned(),
        count => format!("{count} repositories"),
    };
    terminal::print(&format!("{}{}: {count}, {}\n", columns(&rows, &[3], ""), folder.display(), bytes(total)))
}

/// The repository, and below it each of its commits where there are several.
fn repository_rows(found: &CachedRepository) -> Vec<Vec<String>> {
    let short = |commit: &str| commit.get(..12).unwrap_or(commit).to_owned();
    let row = |first: [String; 2], at: &rankine_hub::CachedCommit, size: String| {
        let [kind, name] = first;
        vec![kind, name, format!("{} {}", short(&at.commit), at.revisions.join(" ")), size, counted(at.files, "file")]
    };
    let head = [found.repository.kind.word().to_owned(), found.repository.name.clone()];
    let mut rows = match found.commits.as_slice() {
        [one] => vec![row(head, one, bytes(found.bytes))],
        several => {
            let [kind, name] = head;
            let mut rows = vec![vec![kind, name, counted(several.len(), "commit"), bytes(found.bytes)]];
            rows.extend(several.iter().map(|at| row([String::new(), String::new()], at, bytes(at.bytes))));
            rows
        }
    };
    if found.unfinished_bytes > 0 {
        let note = "unfinished: `rankine pull` goes on".to_owned();
        rows.push(vec![String::new(), String::new(), note, bytes(found.unfinished_bytes)]);
    }
    rows
}
