mod adapters;
mod folders;
mod gguf;
mod merging;
mod ollama;
mod platforms;
mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rankine_models::adapter_file::{
    AdapterConfig, AdapterFile, CONFIG_FILE, HostTensor, TENSORS_FILE, read_adapter, write_adapter,
};
use rankine_models::weights::{PlannedTensor, StoredDtype, StoredTensor, WeightFiles, WeightWriter, encode};
use tempfile::TempDir;

use super::*;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(case)
}

fn cases() -> Vec<String> {
    let folders = fs::read_dir(golden("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut cases: Vec<String> = folders.filter(|name| golden(name).join("golden.json").exists()).collect();
    cases.sort();
    assert!(cases.len() >= 18);
    cases
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A place to export to.
struct Place {
    dir: TempDir,
    facts: CardFacts,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), facts: CardFacts::default() }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn export(&self, config: &ExportConfig, base: &Path, adapter: Option<&Path>) -> Result<ExportReport, ExportError> {
        let inputs = ExportInputs { base, adapter, tokenizer: None, chat_template: None, facts: &self.facts };
        export(config, &inputs, &self.out(), &mut |_| ())
    }

    fn refused(&self, config: &ExportConfig, base: &Path, adapter: Option<&Path>) -> String {
        let text = self.export(config, base, adapter).unwrap_err().to_string();
        assert_eq!(listing(self.dir.path()), Vec::<String>::new(), "nothing is left");
        text
    }
}

fn merged() -> ExportConfig {
    ExportConfig::new(Target::Merged)
}

/// A copy of a case's base with a tokenizer, a chat template and stop tokens, as a model for conversations has them.
fn chat_base(case: &str) -> TempDir {
    let dir = recast_base(case, StoredDtype::BF16);
    let write = |name: &str, value: serde_json::Value| fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("tokenizer.json", serde_json::json!({"model": {"vocab": {"a": 0, "b": 1, "</s>": 2}}, "added_tokens": []}));
    write(
        "tokenizer_config.json",
        serde_json::json!({
            "tokenizer_class": "TokenizersBackend", "eos_token": "</s>", "extra_special_tokens": ["a"],
            "chat_template": "{{ messages }}",
        }),
    );
    write("generation_config.json", serde_json::json!({"eos_token_id": 2}));
    dir
}

fn merge_case(case: &str, config: &ExportConfig) -> (Place, WeightFiles, ExportReport) {
    let place = Place::new();
    let report = place.export(config, &golden(case), Some(&golden(case).join("adapter"))).unwrap();
    let files = WeightFiles::open(&place.out()).unwrap();
    (place, files, report)
}

/// A copy of a case's base with every tensor in another type.
fn recast_base(case: &str, dtype: StoredDtype) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden(case).join("config.json"), dir.path().join("config.json")).unwrap();
    let files = WeightFiles::open(&golden(case)).unwrap();
    let plan =
        files.names().map(|name| PlannedTensor { name: name.to_owned(), dtype, shape: files.get(name).unwrap().shape });
    let writer = WeightWriter::plan(dir.path(), plan.collect(), u64::MAX).unwrap();
    let write: Result<(), ExportError> =
        writer.write(|tensor, sink| Ok(sink.put(&encode(dtype, &files.get(&tensor.name).unwrap().to_f32()))?));
    write.unwrap();
    dir
}

/// A copy of a case's adapter, changed.
fn changed_adapter(case: &str, change: impl FnOnce(&mut AdapterConfig, &mut BTreeMap<String, HostTensor>)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let adapter = read_adapter(&golden(case).join("adapter")).unwrap();
    let mut config = adapter.config;
    let mut tensors = adapter.tensors.into_iter().map(|(key, tensor)| (key.to_string(), tensor)).collect();
    change(&mut config, &mut tensors);
    write_adapter(dir.path(), &config, &tensors).unwrap();
    dir
}

/// Largest difference, relative to the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let apart = found.iter().zip(expected).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    f64::from(apart) / f64::from(largest)
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
