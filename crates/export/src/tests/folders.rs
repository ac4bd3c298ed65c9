//! What an export leaves on the disk, and what it refuses.

use super::*;

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
        fs::write(base.path().join(name), format!("{{\"from\": \"{name}\"}}")).unwrap();
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
    fs::write(tokenizer.path().join("tokenizer.json"), "{\"other\": 1}").unwrap();
    let inputs = ExportInputs {
        base: base.path(),
        adapter: None,
        tokenizer: Some(tokenizer.path()),
        chat_template: Some("{{ x }}"),
        facts: &place.facts,
    };
    export(&merged(), &inputs, &place.out(), &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(place.out().join("tokenizer.json")).unwrap(), "{\"other\": 1}");
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
                tensor.map(|t| (t.shape.clone(), t.bytes().to_vec())).expect(file)
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
    let report = write(&merged(), &inputs, &place.out(), &mut |_| ()).unwrap().publish(None).unwrap();
    assert_eq!(report.files.len() + 1, listing(&place.out()).len());
    assert_eq!(serde_json::from_value::<ExportReport>(json(&place.out().join(REPORT_FILE))).unwrap(), report);
}
