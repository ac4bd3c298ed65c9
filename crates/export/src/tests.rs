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

#[test]
fn merged_tensors_are_those_of_peft() {
    let mut compared = 0;
    for case in cases() {
        let (_place, files, report) = merge_case(&case, &merged());
        let bytes = fs::read(golden(&case).join("golden.safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let about = json(&golden(&case).join("golden.json"));
        for name in about["merged"]["tensors"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let view = expected.tensor(&format!("merged.{name}")).unwrap();
            let expected: Vec<f32> =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let tied = case.contains("ensured") && name == "lm_head.weight";
            let found = files.get(if tied { "model.embed_tokens.weight" } else { name }).unwrap();
            assert_eq!(found.shape, view.shape());
            let apart = difference(&found.to_f32(), &expected);
            assert!(apart < 1e-6, "{case}: {name}: {apart:e}");
            compared += 1;
        }
        // Peft reports the class's default for the others.
        if case.contains("tied") && case != "llama-untied" {
            let still_tied = about["merged"]["tie_word_embeddings"].as_bool().unwrap();
            assert_eq!(files.get("lm_head.weight").is_none(), still_tied, "{case}");
            assert_eq!(report.untied, !still_tied, "{case}");
        }
    }
    assert!(compared >= 36, "{compared}");
}

#[test]
fn what_the_adapter_leaves_alone_is_copied_to_the_byte() {
    let (place, files, report) = merge_case("lora-layers", &merged());
    let base = WeightFiles::open(&golden("lora-layers")).unwrap();
    let adapted = ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"];
    for name in base.names() {
        let same = base.get(name).unwrap().bytes == files.get(name).unwrap().bytes;
        assert_eq!(same, !adapted.contains(&name), "{name}");
    }
    assert_eq!((report.changed_tensors, report.kept_tensors), (2, base.names().len() - 2));
    let config = |folder: &Path| fs::read(folder.join("config.json")).unwrap();
    assert_eq!(config(&place.out()), config(&golden("lora-layers")));
}

#[test]
fn half_precision_is_rounded_once() {
    for (dtype, wanted) in [(StoredDtype::BF16, ExportDtype::Bf16), (StoredDtype::F16, ExportDtype::F16)] {
        for case in ["llama-untied", "lora-dora", "lora-modules-to-save", "lora-embedding"] {
            let base = recast_base(case, dtype);
            let adapter = golden(case).join("adapter");
            let (in_half, in_f32) = (Place::new(), Place::new());
            in_half.export(&merged(), base.path(), Some(&adapter)).unwrap();
            let single = ExportConfig { dtype: Some(ExportDtype::F32), ..merged() };
            in_f32.export(&single, base.path(), Some(&adapter)).unwrap();
            let half = WeightFiles::open(&in_half.out()).unwrap();
            let whole = WeightFiles::open(&in_f32.out()).unwrap();
            for name in half.names() {
                let (half, whole) = (half.get(name).unwrap(), whole.get(name).unwrap());
                assert_eq!((half.dtype, whole.dtype), (dtype, StoredDtype::F32));
                assert!(half.bytes == encode(dtype, &whole.to_f32()), "{case}: {name}");
            }
            // The same from an f32 base with the type asked for: untouched tensors are cast, too.
            let asked = Place::new();
            let config = ExportConfig { dtype: Some(wanted), ..merged() };
            asked.export(&config, &golden(case), Some(&adapter)).unwrap();
            let asked_files = WeightFiles::open(&asked.out()).unwrap();
            assert!(asked_files.names().all(|name| asked_files.get(name).unwrap().dtype == dtype));
            let norm = |files: &WeightFiles| files.get("model.norm.weight").unwrap().bytes.to_vec();
            assert_eq!(norm(&asked_files), norm(&half));
            assert_eq!(json(&asked.out().join("config.json"))["dtype"], dtype.torch_name());
        }
    }
}

#[test]
fn shards_hold_what_one_file_would() {
    let (_place, whole, _) = merge_case("lora-dora", &merged());
    let (place, sharded, report) = merge_case("lora-dora", &ExportConfig { max_shard_bytes: 20_000, ..merged() });
    assert!(sharded.shards().len() > 2);
    assert!(sharded.shards().iter().all(|s| fs::metadata(s.path()).unwrap().len() < 24_000));
    assert!(whole.names().eq(sharded.names()));
    assert!(whole.names().all(|name| whole.get(name).unwrap().bytes == sharded.get(name).unwrap().bytes));
    // And a sharded base is merged as a single file is.
    let again = Place::new();
    again.export(&merged(), &place.out(), None).unwrap();
    let again_files = WeightFiles::open(&again.out()).unwrap();
    assert!(whole.names().all(|name| whole.get(name).unwrap().bytes == again_files.get(name).unwrap().bytes));
    assert!(report.files.contains_key("model.safetensors.index.json"));
}

/// Columns wider than a block, so that every loop runs more than once, in f64 for comparison.
#[test]
fn blocks_join_without_a_seam() {
    let (rows, columns, rank) = (2100, 2100, 3);
    let number = |i: usize, seed: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0;
    let values = |count: usize, seed: usize| -> Vec<f32> { (0..count).map(|i| number(i, seed)).collect() };
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("config.json"), "{}").unwrap();
    let plan = vec![PlannedTensor { name: "x.weight".into(), dtype: StoredDtype::F32, shape: vec![rows, columns] }];
    let write: Result<(), ExportError> = WeightWriter::plan(base.path(), plan, u64::MAX)
        .unwrap()
        .write(|_, sink| Ok(sink.put(&encode(StoredDtype::F32, &values(rows * columns, 1)))?));
    write.unwrap();
    for dora in [false, true] {
        let text = format!(r#"{{"peft_type":"LORA","r":3,"lora_alpha":2,"target_modules":["x"],"use_dora":{dora}}}"#);
        let config = AdapterConfig::parse(&text, Path::new("test")).unwrap();
        let mut tensors = BTreeMap::from([
            (
                "base_model.model.x.lora_A.weight".to_owned(),
                HostTensor { shape: vec![rank, columns], data: values(rank * columns, 2) },
            ),
            (
                "base_model.model.x.lora_B.weight".to_owned(),
                HostTensor { shape: vec![rows, rank], data: values(rows * rank, 3) },
            ),
        ]);
        if dora {
            let magnitudes = HostTensor { shape: vec![rows], data: values(rows, 4) };
            tensors.insert("base_model.model.x.lora_magnitude_vector".to_owned(), magnitudes);
        }
        let adapter = tempfile::tempdir().unwrap();
        write_adapter(adapter.path(), &config, &tensors).unwrap();
        let place = Place::new();
        place.export(&merged(), base.path(), Some(adapter.path())).unwrap();
        let found = WeightFiles::open(&place.out()).unwrap().get("x.weight").unwrap().to_f32();
        let update = |row: usize, column: usize| -> f64 {
            (0..rank).map(|k| f64::from(number(row * rank + k, 3)) * f64::from(number(k * columns + column, 2))).sum()
        };
        for row in [0, 1, 1996, 1997, 1998, 2099] {
            let sums: Vec<f64> =
                (0..columns).map(|c| f64::from(number(row * columns + c, 1)) + 2.0 / 3.0 * update(row, c)).collect();
            let norm = sums.iter().map(|w| w * w).sum::<f64>().sqrt();
            let factor = if dora { f64::from(number(row, 4)) / norm } else { 1.0 };
            let expected: Vec<f32> = sums.iter().map(|w| (w * factor) as f32).collect();
            let apart = difference(&found[row * columns..(row + 1) * columns], &expected);
            assert!(apart < 1e-6, "row {row}, dora {dora}: {apart:e}");
        }
    }
}

#[test]
fn doras_embedding_is_scaled_by_columns() {
    let adapter = changed_adapter("lora-embedding", |config, tensors| {
        config.use_dora = true;
        let layers: Vec<(String, usize)> = tensors
            .iter()
            .filter_map(|(key, t)| Some((key.strip_suffix(".lora_B.weight")?.to_owned(), t.shape[0])))
            .collect();
        for (module, out) in layers {
            tensors.insert(
                format!("{module}.lora_magnitude_vector"),
                HostTensor { shape: vec![out], data: vec![1.0; out] },
            );
        }
        let key = "base_model.model.model.embed_tokens.lora_magnitude_vector".to_owned();
        tensors.insert(key, HostTensor { shape: vec![32], data: (0..32).map(|i| 0.5 + i as f32).collect() });
    });
    let place = Place::new();
    place.export(&merged(), &golden("lora-embedding"), Some(adapter.path())).unwrap();
    let found = WeightFiles::open(&place.out()).unwrap().get("model.embed_tokens.weight").unwrap().to_f32();
    for column in 0..32 {
        let norm = found.iter().skip(column).step_by(32).map(|w| w * w).sum::<f32>().sqrt();
        assert!((norm - (0.5 + column as f32)).abs() < 1e-4, "{column}: {norm}");
    }
}

#[test]
fn a_tied_head_is_parted_only_where_the_two_differ() {
    let config = |place: &Place| json(&place.out().join("config.json"));
    let (place, files, report) = merge_case("lora-tied-modules-to-save", &merged());
    assert_eq!((config(&place)["tie_word_embeddings"].as_bool(), report.untied), (Some(false), true));
    let base = WeightFiles::open(&golden("lora-tied-modules-to-save")).unwrap();
    assert_eq!(files.get("lm_head.weight").unwrap().bytes, base.get("model.embed_tokens.weight").unwrap().bytes);

    let (place, files, report) = merge_case("lora-tied-modules-to-save-ensured", &merged());
    assert_eq!((config(&place)["tie_word_embeddings"].as_bool(), report.untied), (Some(true), false));
    assert!(files.get("lm_head.weight").is_none());

    // One of two ensured copies changed: the adapter says two things, and both are kept.
    let adapter = changed_adapter("lora-tied-modules-to-save-ensured", |_, tensors| {
        tensors.get_mut("base_model.model.lm_head.weight").unwrap().data[5] += 1.0;
    });
    let place = Place::new();
    place.export(&merged(), &golden("llama-tied"), Some(adapter.path())).unwrap();
    assert_eq!(config(&place)["tie_word_embeddings"], false);

    // An adapter on the head alone.
    let adapter = changed_adapter("llama-tied", |config, tensors| {
        config.target_modules = rankine_nn_names(&["q_proj", "lm_head"]);
        tensors.retain(|key, _| key.contains("q_proj"));
        let fill = |shape: Vec<usize>| HostTensor {
            data: (0..shape.iter().product()).map(|i| (i % 7) as f32 - 3.0).collect(),
            shape,
        };
        tensors.insert("base_model.model.lm_head.lora_A.weight".into(), fill(vec![4, 32]));
        tensors.insert("base_model.model.lm_head.lora_B.weight".into(), fill(vec![96, 4]));
    });
    let place = Place::new();
    place.export(&merged(), &golden("llama-tied"), Some(adapter.path())).unwrap();
    let files = WeightFiles::open(&place.out()).unwrap();
    let base = WeightFiles::open(&golden("llama-tied")).unwrap();
    let embedding = |files: &WeightFiles| files.get("model.embed_tokens.weight").unwrap().bytes.to_vec();
    assert_eq!(embedding(&files), embedding(&base));
    assert_ne!(files.get("lm_head.weight").unwrap().bytes, embedding(&base));
}

fn rankine_nn_names(names: &[&str]) -> rankine_nn::lora::TargetModules {
    rankine_nn::lora::TargetModules::Names(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn the_base_weight_inside_the_adapter_takes_the_bases_place() {
    let key = "base_model.model.lm_head.base_layer.weight";
    let adapter = changed_adapter("lora-head", |_, tensors| {
        tensors.get_mut(key).unwrap().data.iter_mut().for_each(|w| *w += 1.0)
    });
    let (place, head) = (Place::new(), "lm_head.weight");
    place.export(&merged(), &golden("lora-head"), Some(adapter.path())).unwrap();
    let (_other, plain, _) = merge_case("lora-head", &merged());
    let plus_one: Vec<f32> = plain.get(head).unwrap().to_f32().iter().map(|w| w + 1.0).collect();
    let found = WeightFiles::open(&place.out()).unwrap().get(head).unwrap().to_f32();
    assert!(difference(&found, &plus_one) < 1e-6);
}

#[test]
fn an_adapter_of_another_base_is_refused_with_all_that_does_not_fit() {
    let other = golden("llama-head-dim").join("adapter");
    let text = Place::new().refused(&merged(), &golden("llama-untied"), Some(&other));
    for part in [
        "q_proj.lora_B.weight` has shape [64, 4], and [32, 4] is expected",
        "layers.1.self_attn.o_proj.lora_A.weight` has",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let adapter = changed_adapter("lora-layers", |config, tensors| {
        config.layers_to_transform = None;
        for part in ["lora_A", "lora_B"] {
            let key = |layer: usize| format!("base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight");
            let tensor = tensors[&key(1)].clone();
            tensors.insert(key(7), tensor);
        }
        config.modules_to_save = Some(vec!["lm_head".into()]);
        tensors.insert("base_model.model.score.weight".into(), HostTensor { shape: vec![2, 2], data: vec![0.0; 4] });
        tensors.insert("base_model.model.model.norm.weight".into(), HostTensor { shape: vec![3], data: vec![0.0; 3] });
    });
    for target in [Target::Merged, Target::Peft] {
        let text = Place::new().refused(&ExportConfig::new(target), &golden("lora-layers"), Some(adapter.path()));
        for part in [
            "`model.layers.7.self_attn.q_proj.weight`, which the base does not have",
            "`score.weight`, which the base does not have",
            "`base_model.model.model.norm.weight` has shape [3], and [32] is expected",
            "`model.layers.0.self_attn.q_proj` is targeted by adapter_config.json, and the adapter has no tensors",
            "`lm_head.weight` is named by modules_to_save",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_refused() {
    let key = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight";
    let poisoned =
        |value: f32| changed_adapter("llama-untied", |_, tensors| tensors.get_mut(key).unwrap().data[4 * 3] = value);
    let base = golden("llama-untied");
    let text = Place::new().refused(&merged(), &base, Some(poisoned(f32::NAN).path()));
    assert!(text.contains("`model.layers.0.mlp.up_proj.weight`, row 3: the merged value is NaN"), "{text}");
    let f16 = ExportConfig { dtype: Some(ExportDtype::F16), ..merged() };
    let text = Place::new().refused(&f16, &base, Some(poisoned(1e6).path()));
    assert!(text.contains("row 3") && text.contains("beyond the range of F16"), "{text}");
    Place::new().export(&merged(), &base, Some(poisoned(1e6).path())).unwrap();
}

#[test]
fn a_merged_folder_has_its_companions_and_no_pickle() {
    let base = recast_base("llama-untied", StoredDtype::BF16);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "LICENSE",
        "chat_template.json",
        "pytorch_model.bin",
        "optimizer.pt",
    ] {
        fs::write(base.path().join(name), name).unwrap();
    }
    fs::write(base.path().join("README.md"), "---\nlicense: llama3.2\n---\n").unwrap();
    let place = Place::new();
    place.export(&merged(), base.path(), Some(&golden("llama-untied").join("adapter"))).unwrap();
    let expected = [
        "LICENSE",
        "README.md",
        "chat_template.json",
        "config.json",
        "export.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(listing(&place.out()), expected);
    let card = fs::read_to_string(place.out().join("README.md")).unwrap();
    for part in [
        "base_model: tiny-random/llama-untied\nbase_model_relation: finetune",
        "license: llama3.2",
        "| Rank | 4 |",
        "| Alpha | 12 |",
    ] {
        assert!(card.contains(part), "{part} in\n{card}");
    }
    assert_eq!(json(&place.out().join(REPORT_FILE))["target"], "merged");
    // A trained template replaces the tokenizer's, in whichever file that was.
    let tokenizer = tempfile::tempdir().unwrap();
    fs::write(tokenizer.path().join("tokenizer.json"), "other").unwrap();
    let inputs = ExportInputs {
        base: base.path(),
        adapter: None,
        tokenizer: Some(tokenizer.path()),
        chat_template: Some("{{ x }}"),
        facts: &place.facts,
    };
    export(&merged(), &inputs, &place.out(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(place.out().join("tokenizer.json")).unwrap(), "other");
    assert_eq!(fs::read_to_string(place.out().join("chat_template.jinja")).unwrap(), "{{ x }}");
    assert!(!place.out().join("chat_template.json").exists() && !place.out().join("tokenizer_config.json").exists());
}

#[test]
fn an_exported_adapter_is_the_adapter() {
    for case in ["lora-dora", "lora-patterns", "lora-embedding", "lora-tied-modules-to-save-ensured"] {
        let source = golden(case).join("adapter");
        let mut place = Place::new();
        place.facts.base_model = Some("org/base".into());
        let report = place.export(&ExportConfig::new(Target::Peft), &golden(case), Some(&source)).unwrap();
        assert_eq!(listing(&place.out()), ["README.md", CONFIG_FILE, TENSORS_FILE, REPORT_FILE]);
        assert_eq!(report.base_model.as_deref(), Some("org/base"));
        let (ours, theirs) = (AdapterFile::open(&place.out()).unwrap(), AdapterFile::open(&source).unwrap());
        assert!(ours.keys().eq(theirs.keys()));
        for key in theirs.keys() {
            let of = |file: &'static str, tensor: Option<StoredTensor<'_>>| {
                tensor.map(|t| (t.shape, t.bytes.to_vec())).expect(file)
            };
            assert!(of("ours", ours.get(key)) == of("theirs", theirs.get(key)), "{case}: {key}");
        }
        let expected = AdapterConfig { base_model_name_or_path: Some("org/base".into()), ..theirs.config.clone() };
        assert_eq!(ours.config, expected);
        let card = fs::read_to_string(place.out().join("README.md")).unwrap();
        let start = "---\nbase_model: org/base\nbase_model_relation: adapter\nlibrary_name: peft\npipeline_tag: text-generation\n\
                     tags:\n- base_model:adapter:org/base\n- ";
        assert!(card.starts_with(start), "{card}");
    }
}

#[test]
fn exports_that_cannot_be_are_refused() {
    let (base, adapter) = (golden("llama-untied"), golden("llama-untied").join("adapter"));
    let peft = ExportConfig { dtype: Some(ExportDtype::F16), ..ExportConfig::new(Target::Peft) };
    assert!(Place::new().refused(&peft, &base, Some(&adapter)).contains("`dtype` does not apply to the target `peft`"));
    let peft = ExportConfig::new(Target::Peft);
    assert!(Place::new().refused(&peft, &base, None).contains("no adapter to export"));
    assert!(Place::new().refused(&merged(), &adapter, Some(&adapter)).contains("config.json: missing"));
    assert!(Place::new().refused(&merged(), &base, Some(&base)).contains("no adapter_config.json"));
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("config.json"), "{").unwrap();
    assert!(Place::new().refused(&merged(), empty.path(), Some(&adapter)).contains("config.json: not a JSON object"));
    fs::write(empty.path().join("config.json"), "{}").unwrap();
    fs::write(empty.path().join("pytorch_model.bin"), "").unwrap();
    assert!(Place::new().refused(&merged(), empty.path(), Some(&adapter)).contains("never read"));
    assert!(
        Place::new()
            .refused(&merged(), Path::new("/nonexistent"), Some(&adapter))
            .contains("/nonexistent: cannot find")
    );
}

#[test]
fn an_export_can_be_looked_at_before_it_is_published() {
    let place = Place::new();
    let (base, adapter) = (golden("lora-rslora"), golden("lora-rslora").join("adapter"));
    let inputs = ExportInputs {
        base: &base,
        adapter: Some(&adapter),
        tokenizer: None,
        chat_template: None,
        facts: &place.facts,
    };
    let mut seen = Vec::new();
    let mut note = |p: Progress<'_>| seen.push((p.tensor.to_owned(), p.done, p.total));
    let written = write(&merged(), &inputs, &place.out(), &mut note).unwrap();
    let base_files = WeightFiles::open(&base).unwrap();
    assert_eq!(seen.len(), base_files.names().len());
    assert_eq!(
        seen.last().map(|(_, done, total)| (*done, *total)),
        Some((base_files.total_bytes(), base_files.total_bytes()))
    );
    WeightFiles::open(written.path()).unwrap();
    assert!(!place.out().exists());
    drop(written);
    assert_eq!(listing(place.dir.path()), Vec::<String>::new());
    let report = write(&merged(), &inputs, &place.out(), &mut |_| ()).unwrap().publish().unwrap();
    assert_eq!(report.files.len() + 1, listing(&place.out()).len());
    assert_eq!(serde_json::from_value::<ExportReport>(json(&place.out().join(REPORT_FILE))).unwrap(), report);
}

#[test]
fn a_recipe_says_it_in_few_words() {
    let config: ExportConfig = serde_json::from_str(r#"{"target":"merged","dtype":"bf16"}"#).unwrap();
    assert_eq!(config, ExportConfig { dtype: Some(ExportDtype::Bf16), ..merged() });
    assert!(serde_json::from_str::<ExportConfig>(r#"{"target":"merged","dtyp":"bf16"}"#).is_err());
    assert!(serde_json::from_str::<ExportConfig>(r#"{"target":"onnx"}"#).is_err());
}
