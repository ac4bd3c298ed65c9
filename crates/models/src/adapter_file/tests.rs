use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(case).join("adapter")
}

/// `q_proj` of rank 2 over a 3 to 4 layer, values that no default could give.
fn small() -> (AdapterConfig, BTreeMap<String, HostTensor>) {
    let text = r#"{"peft_type":"LORA","r":2,"lora_alpha":3,"target_modules":["q_proj"],"modules_to_save":["lm_head"]}"#;
    let config = AdapterConfig::parse(text, Path::new("test")).unwrap();
    let tensors = [
        ("base_model.model.layers.0.q_proj.lora_A.weight", vec![2, 3]),
        ("base_model.model.layers.0.q_proj.lora_B.weight", vec![4, 2]),
        ("base_model.model.lm_head.weight", vec![2, 2]),
    ];
    let filled = tensors.into_iter().map(|(key, shape)| (key.to_owned(), tensor(&shape))).collect();
    (config, filled)
}

fn tensor(shape: &[usize]) -> HostTensor {
    let count = shape.iter().product::<usize>();
    HostTensor { shape: shape.to_vec(), data: (0..count).map(|i| i as f32 / 7.0 - 0.3).collect() }
}

fn refused(config: &AdapterConfig, tensors: &BTreeMap<String, HostTensor>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let text = write_adapter(dir.path(), config, tensors).unwrap_err().to_string();
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
    text
}

#[test]
fn what_is_written_is_read() {
    let (config, tensors) = small();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new/adapter");
    write_adapter(&folder, &config, &tensors).unwrap();
    write_adapter(&folder, &config, &tensors).unwrap();
    let read = read_adapter(&folder).unwrap();
    assert_eq!(read.config, AdapterConfig { inference_mode: read.config.inference_mode, ..config });
    let keys: BTreeMap<String, HostTensor> =
        read.tensors.into_iter().map(|(key, tensor)| (key.to_string(), tensor)).collect();
    assert_eq!(keys, tensors);
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [CONFIG_FILE, TENSORS_FILE]);
    let bytes = fs::read(folder.join(TENSORS_FILE)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn pefts_adapters_are_read_and_written_back_to_the_byte_of_every_tensor() {
    for case in [
        "llama-untied",
        "lora-dora",
        "lora-patterns",
        "lora-embedding",
        "lora-head",
        "lora-layers",
        "lora-regex-target",
        "lora-modules-to-save",
        "lora-tied-modules-to-save-ensured",
        "lora-rslora",
    ] {
        let adapter = read_adapter(&golden(case)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let tensors = adapter.tensors.iter().map(|(key, tensor)| (key.to_string(), tensor.clone())).collect();
        write_adapter(dir.path(), &adapter.config, &tensors).unwrap();
        let ours = TensorFile::open(&dir.path().join(TENSORS_FILE)).unwrap();
        let theirs = TensorFile::open(&golden(case).join(TENSORS_FILE)).unwrap();
        assert_eq!(ours.names().len(), theirs.names().len());
        for name in theirs.names() {
            let (ours, theirs) = (ours.get(name).unwrap(), theirs.get(name).unwrap());
            assert_eq!((&ours.shape, ours.bytes()), (&theirs.shape, theirs.bytes()), "{case}: {name}");
        }
        let config = |dir: &Path| fs::read_to_string(dir.join(CONFIG_FILE)).unwrap();
        assert_eq!(config(dir.path()), config(&golden(case)));
    }
}

#[test]
fn scales_are_those_of_peft() {
    let cases = fs::read_dir(golden("x").parent().unwrap().parent().unwrap()).unwrap();
    let mut compared = 0;
    for case in cases.map(|case| case.unwrap().path()) {
        let Ok(text) = fs::read_to_string(case.join("golden.json")) else { continue };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let adapter = AdapterFile::open(&case.join("adapter")).unwrap();
        let scaling = golden["scaling"].as_object().unwrap();
        let modules: std::collections::BTreeSet<&String> = adapter
            .keys()
            .filter_map(|key| match key {
                AdapterKey::LoraA { module } | AdapterKey::EmbeddingA { module } => Some(module),
                _ => None,
            })
            .collect();
        assert_eq!(modules, scaling.keys().collect(), "{}", case.display());
        for (module, scale) in scaling {
            assert_eq!(adapter.scale(module), scale.as_f64().unwrap(), "{}: {module}", case.display());
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn tensors_that_do_not_fit_are_all_listed() {
    let (config, mut tensors) = small();
    tensors.insert("base_model.model.layers.0.q_proj.lora_A.weight".into(), tensor(&[3, 3]));
    tensors.insert("base_model.model.layers.1.q_proj.lora_A.weight".into(), tensor(&[2, 3]));
    tensors.insert("base_model.model.layers.2.q_proj.lora_B.weight".into(), tensor(&[3, 2]));
    tensors.insert("base_model.model.layers.0.k_proj.lora_A.weight".into(), tensor(&[2, 3]));
    tensors.insert("base_model.model.layers.0.k_proj.lora_B.weight".into(), tensor(&[4, 2]));
    tensors.insert("base_model.model.layers.0.q_proj.weight".into(), tensor(&[4, 3]));
    tensors.insert("base_model.model.layers.0.q_proj.lora_magnitude_vector".into(), tensor(&[4]));
    tensors.insert("base_model.model.norm.base_layer.weight".into(), tensor(&[4]));
    tensors.insert("model.layers.0.q_proj.lora_A.weight".into(), tensor(&[2, 3]));
    tensors.insert("base_model.model.x.weight".into(), HostTensor { shape: vec![2, 2], data: vec![0.0; 3] });
    let text = refused(&config, &tensors);
    for part in [
        "layers.0.q_proj.lora_A.weight` has shape [3, 3] where [2, n]",
        "layers.1.q_proj.lora_B.weight` is missing",
        "layers.2.q_proj.lora_A.weight` is missing",
        "layers.0.k_proj.lora_A.weight`: adapter_config.json does not target",
        "layers.0.q_proj.weight`: the module is both",
        "lora_magnitude_vector`: `use_dora` is false",
        "norm.base_layer.weight`: the module has no adapter",
        "does not start with `base_model.model.`",
        "`base_model.model.x.weight` of shape [2, 2] was given 3 values",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(text.lines().count(), 9, "{text}");
}

#[test]
fn dora_needs_its_magnitudes() {
    let (config, mut tensors) = small();
    let config = AdapterConfig { use_dora: true, ..config };
    assert!(refused(&config, &tensors).contains("lora_magnitude_vector` is missing: `use_dora` is true"));
    let key = "base_model.model.layers.0.q_proj.lora_magnitude_vector".to_owned();
    tensors.insert(key.clone(), tensor(&[3]));
    assert!(refused(&config, &tensors).contains("has shape [3] where [4] is expected"));
    tensors.insert(key, tensor(&[4]));
    write_adapter(tempfile::tempdir().unwrap().path(), &config, &tensors).unwrap();
    assert!(refused(&config, &BTreeMap::new()).contains("no tensors"));
}

#[test]
fn patterns_that_overlap_must_be_sorted() {
    let (_, tensors) = small();
    let dir = tempfile::tempdir().unwrap();
    let text = |patterns: &str| {
        format!(r#"{{"peft_type":"LORA","r":2,"lora_alpha":3,"target_modules":["q_proj"],"alpha_pattern":{patterns}}}"#)
    };
    let open = |patterns: &str| {
        let config = AdapterConfig::parse(&text("{}"), Path::new("test")).unwrap();
        write_adapter(dir.path(), &config, &tensors).unwrap();
        fs::write(dir.path().join(CONFIG_FILE), text(patterns)).unwrap();
        AdapterFile::open(dir.path())
    };
    assert_eq!(open(r#"{"layers.0.q_proj":8,"q_proj":5}"#).unwrap().scale("layers.0.q_proj"), 4.0);
    assert_eq!(open(r#"{"q_proj":5,"k_proj":8}"#).unwrap().scale("layers.0.q_proj"), 2.5);
    let fault = open(r#"{"q_proj":5,"layers.0.q_proj":8}"#).unwrap_err().to_string();
    assert!(fault.contains("both match layers.0.q_proj and disagree"), "{fault}");
}

#[test]
fn folders_that_are_no_adapter_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let open = || AdapterFile::open(dir.path()).unwrap_err().to_string();
    assert!(open().contains("no adapter_config.json"));
    fs::write(dir.path().join(CONFIG_FILE), small().0.to_json()).unwrap();
    assert!(open().contains("no adapter_model.safetensors"));
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(open().contains("adapter_model.bin: pickle files are never read"));
    fs::write(dir.path().join(TENSORS_FILE), "short").unwrap();
    assert!(open().contains("adapter_model.safetensors: 5 bytes long"));
    fs::write(dir.path().join(CONFIG_FILE), "{").unwrap();
    assert!(open().contains("not a JSON object"));
    fs::write(dir.path().join(CONFIG_FILE), [0xff]).unwrap();
    assert!(open().contains("cannot be read"));
}

#[test]
fn a_failed_write_leaves_no_adapter() {
    let (config, tensors) = small();
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &config, &tensors).unwrap();
    fs::remove_file(dir.path().join(TENSORS_FILE)).unwrap();
    fs::create_dir(dir.path().join(TENSORS_FILE)).unwrap();
    assert!(write_adapter(dir.path(), &config, &tensors).is_err());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [TENSORS_FILE], "neither a configuration nor a partial file");
}
