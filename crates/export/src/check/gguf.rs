//! Rules of GGUF files and of Ollama's folders.

use rankine_models::config::DecoderConfig;
use rankine_models::gguf::{self, SmallFiles, read_adapter};
use rankine_models::weights::WeightFiles;

use super::finding::Rule;
use super::folder::Folder;
use crate::gguf::ADAPTER_FILE;
use crate::ollama::MODELFILE;

const ANEW: &str = "export it anew with `--target gguf`";

pub(super) fn check(folder: &mut Folder) {
    if folder.has(ADAPTER_FILE) {
        if let Err(error) = read_adapter(&folder.path.join(ADAPTER_FILE)) {
            folder.error(Rule::GgufMissing, ADAPTER_FILE, error.to_string(), ANEW);
        }
        return;
    }
    check_model(folder);
}

fn check_model(folder: &mut Folder) {
    let found = match gguf::find(&folder.path) {
        Ok(Some(found)) => found,
        Ok(None) => return folder.error(Rule::GgufMissing, "model.gguf", "there is no GGUF file", ANEW),
        Err(error) => return folder.error(Rule::GgufMissing, "model.gguf", error.to_string(), ANEW),
    };
    let name = found.first().file_name().and_then(|name| name.to_str()).unwrap_or("model.gguf").to_owned();
    let files = match SmallFiles::open(&found) {
        Ok(files) => files,
        Err(error) => return folder.error(Rule::GgufMissing, &name, error.to_string(), ANEW),
    };
    match (DecoderConfig::from_folder(&folder.path), WeightFiles::open(&folder.path)) {
        (Ok(config), Ok(weights)) => {
            let wrong: Vec<String> = config
                .tensors()
                .into_iter()
                .filter(|spec| weights.get(&spec.name).is_none_or(|tensor| tensor.shape != spec.shape))
                .map(|spec| spec.name)
                .collect();
            if let Some(first) = wrong.first() {
                let what = format!("{} tensors are missing or have another shape: `{first}` is the first", wrong.len());
                folder.error(Rule::GgufTensors, &name, what, ANEW);
            }
        }
        (Err(error), _) => folder.error(Rule::GgufTensors, &name, error.to_string(), ANEW),
        (_, Err(error)) => folder.error(Rule::GgufTensors, &name, error.to_string(), ANEW),
    }
    match files.read("tokenizer.json") {
        Ok(Some(_)) => {}
        Ok(None) => folder.error(Rule::GgufTokenizer, &name, "there is no tokenizer in it", ANEW),
        Err(error) => folder.error(Rule::GgufTokenizer, &name, error.to_string(), ANEW),
    }
    let template = files.read("tokenizer_config.json").ok().flatten();
    if template.is_some_and(|text| !text.contains("\"chat_template\"")) {
        let fix = "train with a chat template, or ask it for plain text only";
        folder.warn(Rule::GgufTemplate, &name, "there is no chat template in it", fix);
    }
}

pub(super) fn check_ollama(folder: &mut Folder) {
    const FIX: &str = "export it anew with `--target ollama`";
    check_model(folder);
    let text = match std::fs::read_to_string(folder.path.join(MODELFILE)) {
        Ok(text) => text,
        Err(error) => {
            return folder.error(Rule::ModelfileMissing, MODELFILE, format!("it cannot be read: {error}"), FIX);
        }
    };
    let from = text.lines().find_map(|line| line.strip_prefix("FROM ./"));
    if from.is_none_or(|file| !folder.has(file.trim())) {
        let what = format!("`FROM` names no file of the folder: {:?}", from.unwrap_or_default());
        folder.error(Rule::ModelfileMissing, MODELFILE, what, FIX);
    }
    if !text.lines().any(|line| line.starts_with("TEMPLATE ")) {
        folder.error(Rule::ModelfileTemplate, MODELFILE, "there is no `TEMPLATE`", FIX);
    }
}
