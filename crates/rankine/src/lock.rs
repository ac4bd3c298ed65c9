//! `rankine.lock` beside the recipe: exactly what went into a run, so that it can be repeated, and refused where it
//! would be another one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rankine_hub::Kind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fault::{BadInput, Failure, Fault};
use crate::plan::{Plan, Prepared};
use crate::recipe::RecipeFile;
use crate::repositories::{Repositories, UsedRepository};
use crate::terminal::note;

/// The name of the file.
pub(crate) const FILE: &str = "rankine.lock";
const VERSION: u32 = 1;

/// Every recipe of a folder, by its file's name without the ending.
#[derive(Debug, Serialize, Deserialize)]
struct Lock {
    version: u32,
    recipes: BTreeMap<String, Provenance>,
}

/// What went into a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Provenance {
    /// The program's version.
    rankine: String,
    /// Repositories, each at its commit.
    repositories: Vec<UsedRepository>,
    /// SHA-256 of every local file that is read, by its path from the recipe's folder where it is below it.
    files: BTreeMap<String, String>,
    /// SHA-256 over the tokenizer's files.
    tokenizer: String,
    /// SHA-256 of the chat template, where there is one.
    chat_template: Option<String>,
}

/// The repositories of a recipe: with `locked`, at the commits of its lock.
pub(crate) fn repositories(
    file: &RecipeFile,
    locked: bool,
    repositories: Repositories,
) -> Result<Repositories, Failure> {
    if !locked {
        return Ok(repositories);
    }
    Ok(repositories.pinned(locked_provenance(file)?.repositories))
}

/// What went in, if it is what the lock says.
pub(crate) fn check(file: &RecipeFile, plan: &Plan, prepared: &Prepared) -> Result<Provenance, Failure> {
    let (locked, found) = (locked_provenance(file)?, Provenance::of(file, plan, prepared)?);
    let differences = locked.differences(&found);
    if differences.is_empty() {
        return Ok(found);
    }
    let help = "put it back as it was, or run once without `--locked`, which writes the lock anew";
    let lock = path(file);
    let faults = differences.into_iter().map(|what| Fault::new(format!("{}: {what}", lock.display())).help(help));
    Err(BadInput { sources: Vec::new(), faults: faults.collect() }.into())
}

/// What went in; the lock is written anew where it says something else.
pub(crate) fn update(file: &RecipeFile, plan: &Plan, prepared: &Prepared, quiet: bool) -> Result<Provenance, Failure> {
    let found = Provenance::of(file, plan, prepared)?;
    let path = path(file);
    let mut lock = read(&path)?.unwrap_or(Lock { version: VERSION, recipes: BTreeMap::new() });
    if let Some(before) = lock.recipes.get(&file.name) {
        let differences = before.differences(&found);
        if differences.is_empty() {
            return Ok(found);
        }
        if !quiet {
            differences.iter().for_each(|what| note(&format!("note: {}: {what}", path.display())));
        }
    }
    lock.recipes.insert(file.name.clone(), found.clone());
    // Plain texts: this cannot fail.
    let text = serde_json::to_string_pretty(&lock).unwrap_or_default() + "\n";
    let part = path.with_extension("lock.part");
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, &path));
    // Recipes may lie where nothing can be written: the run's folder has the same.
    if let Err(error) = written.as_ref()
        && !quiet
    {
        note(&format!("note: {} cannot be written: {error}", path.display()));
    }
    Ok(found)
}

fn path(file: &RecipeFile) -> PathBuf {
    let path = file.folder.join(FILE);
    path.strip_prefix(".").map(Path::to_owned).unwrap_or(path)
}

fn read(path: &Path) -> Result<Option<Lock>, Failure> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| failed(path, &error))?,
    };
    let refused = |what: String| {
        let fault = Fault::new(format!("{}: {what}", path.display()));
        Failure::bad_input(fault.help("delete it and run once without `--locked`, which writes it anew"))
    };
    let lock: Lock = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    if lock.version != VERSION {
        return Err(refused(format!("its version is {}, expected {VERSION}", lock.version)));
    }
    Ok(Some(lock))
}

fn locked_provenance(file: &RecipeFile) -> Result<Provenance, Failure> {
    let path = path(file);
    let found = read(&path)?.and_then(|mut lock| lock.recipes.remove(&file.name));
    found.ok_or_else(|| {
        let what = match path.is_file() {
            true => format!("{} has no entry for `{}`", path.display(), file.name),
            false => format!("there is no {}", path.display()),
        };
        Failure::bad_input(Fault::new(what).help("run once without `--locked`, which writes it"))
    })
}

impl Provenance {
    fn of(file: &RecipeFile, plan: &Plan, prepared: &Prepared) -> Result<Self, Failure> {
        let mut paths: Vec<PathBuf> = Vec::new();
        let in_repository = |path: &Path| plan.label(path).is_some();
        for folder in [Some(&plan.model.folder), plan.adapter.adapter_path.as_ref()].into_iter().flatten() {
            if !in_repository(folder) {
                paths.extend(model_files(folder).map_err(|error| failed(folder, &error))?);
            }
        }
        let data = prepared.forecast.datasets.iter().flat_map(|dataset| dataset.files.iter().cloned());
        paths.extend(data.filter(|path| !in_repository(path)));
        let template = plan.data.chat_template.as_ref().map(PathBuf::from).filter(|path| path.is_file());
        paths.extend(template);
        paths.sort();
        paths.dedup();
        let hashes = hash_all(&paths)?;
        let name = |path: &PathBuf| relative(path, &file.folder);
        let files = paths.iter().map(name).zip(hashes).collect();
        let mut repositories = plan.repositories.clone();
        repositories.sort_by(|a, b| (&a.repository, &a.revision).cmp(&(&b.repository, &b.revision)));
        Ok(Self {
            rankine: env!("CARGO_PKG_VERSION").to_owned(),
            repositories,
            files,
            tokenizer: tokenizer(&plan.model.folder)?,
            chat_template: prepared.tokenizer.chat_template().map(|template| sha256(template.source().as_bytes())),
        })
    }

    /// What is not as it was, in words.
    fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.rankine != now.rankine {
            found.push(format!("made by rankine {}, this is {}", self.rankine, now.rankine));
        }
        let key = |used: &UsedRepository| (used.repository.clone(), used.revision.clone());
        for used in &now.repositories {
            let name = format!("{} at `{}`", used.repository, used.revision);
            match self.repositories.iter().find(|before| key(before) == key(used)) {
                None => found.push(format!("{name} is not in it")),
                Some(before) if before.commit != used.commit => {
                    found.push(format!("{name} was {}, and is {} now", before.commit, used.commit));
                }
                Some(_) => {}
            }
        }
        for used in
            self.repositories.iter().filter(|used| !now.repositories.iter().any(|other| key(other) == key(used)))
        {
            found.push(format!("{} at `{}` is not used any more", used.repository, used.revision));
        }
        for (path, hash) in &now.files {
            match self.files.get(path) {
                None => found.push(format!("`{path}` is not in it")),
                Some(before) if before != hash => found.push(format!("`{path}` has changed")),
                Some(_) => {}
            }
        }
        for path in self.files.keys().filter(|path| !now.files.contains_key(*path)) {
            found.push(format!("`{path}` is not used any more"));
        }
        if self.tokenizer != now.tokenizer {
            found.push("the tokenizer has changed".to_owned());
        }
        if self.chat_template != now.chat_template {
            found.push("the chat template has changed".to_owned());
        }
        found
    }

    /// Names and values for cards and for the metadata of safetensors files.
    pub(crate) fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("rankine".to_owned(), self.rankine.clone())];
        for used in &self.repositories {
            let key = match used.repository.kind {
                Kind::Model => "base_model",
                Kind::Dataset => "dataset",
            };
            facts.push((key.to_owned(), format!("{}@{}", used.repository.name, used.commit)));
        }
        let file = |(path, hash): (&String, &String)| ("file".to_owned(), format!("{path} sha256:{hash}"));
        facts.extend(self.files.iter().map(file));
        facts.push(("tokenizer".to_owned(), format!("sha256:{}", self.tokenizer)));
        facts.extend(self.chat_template.iter().map(|hash| ("chat_template".to_owned(), format!("sha256:{hash}"))));
        facts
    }
}

/// The files of a model or adapter that decide what it is: weights, configuration, tokenizer, templates.
fn model_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if folder.is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let counts = ["safetensors", "json", "jinja", "model", "txt", "gguf"].contains(&ending.as_str());
        // What an export says of itself is no part of it.
        if counts && path.is_file() && path.file_name().is_some_and(|name| name != rankine_export::REPORT_FILE) {
            files.push(path);
        }
    }
    Ok(files)
}

/// SHA-256 over names and contents of the tokenizer's files.
fn tokenizer(folder: &Path) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    for name in rankine_models::companions::TOKENIZER_FILES {
        let path = folder.join(name);
        if path.is_file() {
            hash.update(format!("{name}\0{}\0", hash_file(&path).map_err(|error| failed(&path, &error))?));
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The path from a folder, where it is below it: a lock is the same on another machine.
fn relative(path: &Path, folder: &Path) -> String {
    let below = match (path.canonicalize(), folder.canonicalize()) {
        (Ok(path), Ok(folder)) => path.strip_prefix(&folder).map(Path::to_owned).ok(),
        _ => None,
    };
    below.unwrap_or_else(|| path.to_owned()).to_string_lossy().replace('\\', "/")
}

/// The hashes of files, several at a time: weights are large.
fn hash_all(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(paths.len().max(1));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(path) = paths.get(index) else { return };
                    let hash = hash_file(path);
                    if let Ok(mut results) = results.lock() {
                        results.insert(index, hash);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    results.into_iter().map(|(index, hash)| hash.map_err(|error| failed(&paths[index], &error))).collect()
}

fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece[..count]);
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(Fault::new(format!("{}: {error}", path.display())))
}
