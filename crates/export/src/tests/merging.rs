//! What a merge computes.

use super::*;

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
        let same = base.get(name).unwrap().bytes() == files.get(name).unwrap().bytes();
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
                assert!(half.bytes() == encode(dtype, &whole.to_f32()), "{case}: {name}");
            }
            // The same from an f32 base with the type asked for: untouched tensors are cast, too.
            let asked = Place::new();
            let config = ExportConfig { dtype: Some(wanted), ..merged() };
            asked.export(&config, &golden(case), Some(&adapter)).unwrap();
            let asked_files = WeightFiles::open(&asked.out()).unwrap();
            assert!(asked_files.names().all(|name| asked_files.get(name).unwrap().dtype == dtype));
            let norm = |files: &WeightFiles| files.get("model.norm.weight").unwrap().bytes().to_vec();
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
    assert!(whole.names().all(|name| whole.get(name).unwrap().bytes() == sharded.get(name).unwrap().bytes()));
    // And a sharded base is merged as a single file is.
    let again = Place::new();
    again.export(&merged(), &place.out(), None).unwrap();
    let again_files = WeightFiles::open(&again.out()).unwrap();
    assert!(whole.names().all(|name| whole.get(name).unwrap().bytes() == again_files.get(name).unwrap().bytes()));
    assert!(report.files.contains_key("model.safetensors.index.json"));
}

#[test]
fn blocks_join_without_a_seam() {
    // Wider than a block, so that every loop runs more than once; compared in f64.
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
    assert_eq!(files.get("lm_head.weight").unwrap().bytes(), base.get("model.embed_tokens.weight").unwrap().bytes());

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
    let embedding = |files: &WeightFiles| files.get("model.embed_tokens.weight").unwrap().bytes().to_vec();
    assert_eq!(embedding(&files), embedding(&base));
    assert_ne!(files.get("lm_head.weight").unwrap().bytes(), embedding(&base));
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
