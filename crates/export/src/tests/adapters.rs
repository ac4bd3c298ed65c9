//! Adapters for other readers than peft: they compute what they computed.

use rankine_models::adapter_file::{Adapter, AdapterKey};

use super::*;

/// `s B A` of every adapted module, in f64, as a reader with one scale computes it.
fn updates(adapter: &Adapter) -> BTreeMap<String, Vec<f64>> {
    let scale = adapter.config.lora_alpha / adapter.config.r as f64;
    updates_by(adapter, &|_| scale)
}

fn updates_by(adapter: &Adapter, scale: &dyn Fn(&str) -> f64) -> BTreeMap<String, Vec<f64>> {
    let mut updates = BTreeMap::new();
    for (key, a) in &adapter.tensors {
        let (module, b) = match key {
            AdapterKey::LoraA { module } => (module, AdapterKey::LoraB { module: module.clone() }),
            AdapterKey::EmbeddingA { module } => (module, AdapterKey::EmbeddingB { module: module.clone() }),
            _ => continue,
        };
        let b = &adapter.tensors[&b];
        let (rows, rank, columns) = (b.shape[0], a.shape[0], a.shape[1]);
        assert_eq!(b.shape[1], rank, "{module}");
        let value = |row: usize, column: usize| -> f64 {
            let one = |k: usize| f64::from(b.data[row * rank + k]) * f64::from(a.data[k * columns + column]);
            scale(module) * (0..rank).map(one).sum::<f64>()
        };
        let all = (0..rows * columns).map(|at| value(at / columns, at % columns)).collect();
        updates.insert(module.clone(), all);
    }
    updates
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Vec<f64>>, expected: &BTreeMap<String, Vec<f64>>) {
    for (module, update) in found {
        let zeros = vec![0.0; update.len()];
        let expected = expected.get(module).unwrap_or(&zeros);
        let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let apart = update.iter().zip(expected).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(apart <= 1e-6 * largest, "{module}: {apart:e} of {largest:e}");
    }
    assert!(expected.keys().all(|module| found.contains_key(module)), "a module is lost");
}

fn portable() -> ExportConfig {
    ExportConfig { portable: true, ..ExportConfig::new(Target::Peft) }
}

#[test]
fn a_portable_adapter_says_with_one_scale_what_the_adapter_says_with_many() {
    for case in ["lora-patterns", "lora-rslora", "lora-layers", "lora-regex-target", "llama-untied", "lora-head"] {
        let source = golden(case).join("adapter");
        let expected = {
            let adapter = read_adapter(&source).unwrap();
            let file = AdapterFile::open(&source).unwrap();
            updates_by(&adapter, &|module| file.scale(module))
        };
        for config in [portable(), ExportConfig::new(Target::Vllm)] {
            let place = Place::new();
            place.export(&config, &golden(case), Some(&source)).unwrap();
            let found = read_adapter(&place.out()).unwrap();
            assert_eq!(found.config.lora_alpha, found.config.r as f64);
            assert!(found.config.rank_pattern.is_empty() && found.config.alpha_pattern.is_empty());
            assert!(!found.config.use_rslora && found.config.layers_to_transform.is_none());
            assert_same(&updates(&found), &expected);
        }
    }
    // Where a layer lacked a module it has one of zeros: `layers.1` alone was adapted.
    let place = Place::new();
    place.export(&portable(), &golden("lora-layers"), Some(&golden("lora-layers").join("adapter"))).unwrap();
    let found = read_adapter(&place.out()).unwrap();
    let layers: Vec<String> = updates(&found).into_keys().collect();
    assert_eq!(
        layers,
        [
            "model.layers.0.mlp.down_proj",
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.mlp.down_proj",
            "model.layers.1.self_attn.q_proj"
        ]
    );
}

#[test]
fn what_one_scale_cannot_say_is_refused_with_the_reason() {
    for (case, reason) in [
        ("lora-dora", "DoRA's magnitudes"),
        ("lora-modules-to-save", "tensors trained in full (lm_head.weight"),
        ("lora-embedding", "an adapter of `model.embed_tokens` is not read everywhere"),
    ] {
        for config in [portable(), ExportConfig::new(Target::Vllm)] {
            let text = Place::new().refused(&config, &golden(case), Some(&golden(case).join("adapter")));
            assert!(text.contains(reason) && text.contains("merge it instead"), "{case}: {text}");
        }
    }
    // A base weight inside the adapter is dropped where it is the base's, and refused where it is not.
    let changed = changed_adapter("lora-head", |_, tensors| {
        tensors.get_mut("base_model.model.lm_head.base_layer.weight").unwrap().data[0] += 1.0;
    });
    let text = Place::new().refused(&portable(), &golden("lora-head"), Some(changed.path()));
    assert!(text.contains("`lm_head`'s base weight was changed"), "{text}");
    let tied = changed_adapter("llama-tied", |config, tensors| {
        config.target_modules = rankine_nn::lora::TargetModules::Names(vec!["lm_head".into()]);
        tensors.clear();
        let fill = |shape: Vec<usize>| HostTensor { data: vec![0.5; shape.iter().product()], shape };
        tensors.insert("base_model.model.lm_head.lora_A.weight".into(), fill(vec![4, 32]));
        tensors.insert("base_model.model.lm_head.lora_B.weight".into(), fill(vec![96, 4]));
    });
    let text = Place::new().refused(&portable(), &golden("llama-tied"), Some(tied.path()));
    assert!(text.contains("`lm_head` is adapted and shares its weight"), "{text}");
}

#[test]
fn mlx_reads_its_own_names_and_the_same_update() {
    for case in ["lora-patterns", "lora-rslora", "lora-layers", "lora-dora", "lora-embedding", "mistral"] {
        let source = golden(case).join("adapter");
        let place = Place::new();
        place.export(&ExportConfig::new(Target::Mlx), &golden(case), Some(&source)).unwrap();
        let file = AdapterFile::open(&source).unwrap();
        let original = read_adapter(&source).unwrap();
        let found = mlx::read(&place.out()).unwrap();
        assert_same(&updates(&found), &updates_by(&original, &|module| file.scale(module)));
        for (key, tensor) in original.tensors.iter().filter(|(key, _)| matches!(key, AdapterKey::Magnitude { .. })) {
            assert_eq!(found.tensors.get(key), Some(tensor), "{case}");
        }
        let config = json(&place.out().join("adapter_config.json"));
        assert_eq!(config["fine_tune_type"], if case == "lora-dora" { "dora" } else { "lora" });
        assert_eq!((&config["num_layers"], &config["lora_parameters"]["scale"]), (&2.into(), &1.0.into()));
    }
    let tensors = {
        let place = Place::new();
        let case = golden("llama-head-dim");
        place.export(&ExportConfig::new(Target::Mlx), &case, Some(&case.join("adapter"))).unwrap();
        let config = json(&place.out().join("adapter_config.json"));
        assert!(config["lora_parameters"]["keys"].as_array().unwrap().contains(&"self_attn.q_proj".into()));
        rankine_models::weights::TensorFile::open(&place.out().join("adapters.safetensors")).unwrap()
    };
    assert_eq!(tensors.get("model.layers.0.self_attn.q_proj.lora_a").unwrap().shape, [32, 4]);
    assert_eq!(tensors.get("model.layers.0.self_attn.q_proj.lora_b").unwrap().shape, [4, 64]);
    let text = Place::new().refused(
        &ExportConfig::new(Target::Mlx),
        &golden("lora-modules-to-save"),
        Some(&golden("lora-modules-to-save").join("adapter")),
    );
    assert!(text.contains("tensors trained in full"), "{text}");
}

#[test]
fn an_extended_vocabulary_is_merged_at_both_ends() {
    let extended = |head: usize| {
        changed_adapter("llama-untied", move |config, tensors| {
            config.modules_to_save = Some(vec!["embed_tokens".into(), "lm_head".into()]);
            for (name, rows) in [("model.embed_tokens", 100), ("lm_head", head)] {
                let data = (0..rows * 32).map(|at| at as f32 / 64.0).collect();
                let tensor = HostTensor { shape: vec![rows, 32], data };
                tensors.insert(format!("base_model.model.{name}.weight"), tensor);
            }
        })
    };
    let (place, adapter) = (Place::new(), extended(100));
    place.export(&merged(), &golden("llama-untied"), Some(adapter.path())).unwrap();
    let files = WeightFiles::open(&place.out()).unwrap();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let tensor = files.get(name).unwrap();
        assert_eq!(tensor.shape, [100, 32]);
        let expected: Vec<f32> = (0..3200).map(|at| at as f32 / 64.0).collect();
        assert_eq!(tensor.to_f32(), expected);
    }
    assert_eq!(json(&place.out().join("config.json"))["vocab_size"], 100);
    let text = Place::new().refused(&merged(), &golden("llama-untied"), Some(extended(98).path()));
    assert!(text.contains("the embedding has 100 tokens and the head 98"), "{text}");
    let text = Place::new().refused(&merged(), &golden("llama-untied"), Some(extended(90).path()));
    assert!(text.contains("`base_model.model.lm_head.weight` has shape [90, 32]"), "{text}");
}
