//! From a file and `--set` arguments to a recipe, or to everything that is wrong with them.

use std::path::{Path, PathBuf};

use super::check::{self, Places};
use super::schema::Shape;
use super::{Recipe, set, yaml};
use crate::fault::{BadInput, Fault, Place, Source};

/// A recipe with what is needed to point at its keys.
#[derive(Debug, Clone)]
pub struct RecipeFile {
    /// What was asked for.
    pub recipe: Recipe,
    /// The file's name without its ending; the default name of the run.
    pub name: String,
    /// The recipe's folder.
    pub folder: PathBuf,
    /// The file and the `--set` arguments.
    pub sources: Vec<Source>,
    /// Where each key stands in them.
    pub places: Places,
}

/// Reads a recipe and applies `--set` arguments in their order.
///
/// # Errors
/// Every fault of the text, each with its line.
pub fn read(path: &Path, sets: &[String]) -> Result<RecipeFile, BadInput> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let fault = Fault::new(format!("{name}: the recipe cannot be read: {error}"));
        BadInput::one(match error.kind() {
            std::io::ErrorKind::NotFound => fault.help("give the path of a recipe, a YAML file"),
            std::io::ErrorKind::IsADirectory => fault.help("give the recipe itself, a YAML file in that folder"),
            std::io::ErrorKind::InvalidData => fault.help("a recipe is UTF-8 text"),
            _ => fault,
        })
    })?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = path.file_stem().map_or_else(|| "run".to_owned(), |stem| stem.to_string_lossy().into_owned());
    parse(&name, &text, sets).map(|parsed| RecipeFile { name: stem, folder: folder.to_owned(), ..parsed })
}

/// Parses the text of a recipe called `name`, in the working directory.
///
/// # Errors
/// As [`read`].
pub fn parse(name: &str, text: &str, sets: &[String]) -> Result<RecipeFile, BadInput> {
    // A byte order mark would become part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sources = vec![Source { name: name.to_owned(), text: text.to_owned() }];
    sources.extend(sets.iter().map(|argument| Source { name: "--set".to_owned(), text: argument.clone() }));
    let mut faults = Vec::new();
    let mut root = match yaml::parse(text, 0, 0) {
        Ok(root) => root,
        Err(fault) => {
            return Err(BadInput { sources, faults: vec![fault] });
        }
    };
    for (index, argument) in sets.iter().enumerate() {
        if let Err(fault) = set::apply(&mut root, argument, index + 1) {
            faults.push(fault);
        }
    }
    let checked = check::check(&root, &Shape::recipe());
    faults.extend(checked.faults);
    if !faults.is_empty() {
        return Err(BadInput { sources, faults });
    }
    match serde_json::from_value::<Recipe>(checked.json) {
        Ok(recipe) => Ok(RecipeFile {
            recipe,
            name: "run".to_owned(),
            folder: PathBuf::from("."),
            sources,
            places: checked.places,
        }),
        // What the schema cannot say, a type's own check does.
        Err(error) => {
            let place = Place { source: 0, start: 0, end: 0 };
            Err(BadInput { sources, faults: vec![Fault::new(error.to_string()).at(place)] })
        }
    }
}

impl RecipeFile {
    /// A fault at a key.
    pub(crate) fn fault(&self, path: &str, what: impl Into<String>) -> Fault {
        Fault::new(what).at(self.places.of(path))
    }

    /// Whether the key was written (and not left empty).
    pub(crate) fn has(&self, path: &str) -> bool {
        self.places.has(path)
    }
}
