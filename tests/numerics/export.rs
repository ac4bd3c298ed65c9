//! A merged model computes what base and adapter compute, and comes back as it was written.

use std::collections::BTreeMap;

use burn::tensor::Device;
use rankine_export::{CardFacts, ExportConfig, ExportError, ExportInputs, ReadBack, Target, export, write};
use rankine_models::adapter_file::{AdapterConfig, HostTensor, read_adapter, write_adapter};
use rankine_models::drift::{drift, logits};
use rankine_models::model::Model;
use rankine_models::weights::StoredDtype;

use super::golden::{CASES, Golden, assert_close};

#[test]
fn a_merged_model_computes_what_base_and_adapter_compute() {
    for case in CASES {
        let golden = Golden::open(case);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("merged");
        let inputs = ExportInputs {
            base: &golden.folder,
            adapter: Some(&golden.folder.join("adapter")),
            tokenizer: None,
            chat_template: None,
            facts: &CardFacts::default(),
        };
        export(&ExportConfig::new(Target::Merged), &inputs, &out, &mut |_| {}).unwrap();
        let merged = Model::load(&out, StoredDtype::F32, &Device::flex()).unwrap();
        let ids: Vec<u32> = golden.integers("input_ids")[..12].iter().map(|id| *id as u32).collect();
        let (found, expected) = (logits(&merged, &ids), logits(&golden.adapted(), &ids));
        assert_close(case, &found, &expected, 2e-5);
    }
}

#[test]
fn adapters_for_other_readers_compute_what_peft_computes() {
    let mut compared = 0;
    for case in CASES {
        let golden = Golden::open(case);
        let folder = tempfile::tempdir().unwrap();
        let adapter = golden.folder.join("adapter");
        let facts = CardFacts::default();
        let inputs = ExportInputs {
            base: &golden.folder,
            adapter: Some(&adapter),
            tokenizer: None,
            chat_template: None,
            facts: &facts,
        };
        let ids: Vec<u32> = golden.integers("input_ids")[..12].iter().map(|id| *id as u32).collect();
        let portable = ExportConfig { portable: true, ..ExportConfig::new(Target::Peft) };
        for config in [portable, ExportConfig::new(Target::Vllm), ExportConfig::new(Target::Mlx)] {
            let written = match write(&config, &inputs, &folder.path().join("out"), &mut |_| {}) {
                Ok(written) => written,
                // Said with its reason; which ones are is tested in the crate.
                Err(ExportError::NotPortable { .. }) => continue,
                Err(error) => panic!("{case}: {error}"),
            };
            let ReadBack::Adapter(found) = written.read_back().unwrap() else { panic!("an adapter") };
            let mut model = golden.base();
            model.attach_file(&found).unwrap();
            let (found, expected) = (logits(&model, &ids), logits(&golden.adapted(), &ids));
            assert_close(case, &found, &expected, 2e-5);
            compared += 1;
        }
    }
    assert!(compared >= 36, "{compared}");
}

#[test]
fn an_extended_vocabulary_is_attached_as_it_is_merged() {
    let golden = Golden::open("llama-untied");
    let place = tempfile::tempdir().unwrap();
    let adapter = read_adapter(&golden.folder.join("adapter")).unwrap();
    let mut tensors: BTreeMap<String, HostTensor> =
        adapter.tensors.into_iter().map(|(key, tensor)| (key.to_string(), tensor)).collect();
    let width = golden.base().config.hidden_size;
    for (name, seed) in [("model.embed_tokens", 1), ("lm_head", 2)] {
        let data = (0..100 * width).map(|at| ((at * 7919 + seed * 31) % 997) as f32 / 997.0 - 0.5).collect();
        tensors.insert(format!("base_model.model.{name}.weight"), HostTensor { shape: vec![100, width], data });
    }
    let saved = Some(vec!["embed_tokens".to_owned(), "lm_head".to_owned()]);
    let config = AdapterConfig { modules_to_save: saved, ..adapter.config };
    write_adapter(&place.path().join("adapter"), &config, &tensors).unwrap();
    let inputs = ExportInputs {
        base: &golden.folder,
        adapter: Some(&place.path().join("adapter")),
        tokenizer: None,
        chat_template: None,
        facts: &CardFacts::default(),
    };
    export(&ExportConfig::new(Target::Merged), &inputs, &place.path().join("out"), &mut |_| {}).unwrap();
    let merged = Model::load(&place.path().join("out"), StoredDtype::F32, &Device::flex()).unwrap();
    let mut attached = golden.base();
    attached.attach_file(&read_adapter(&place.path().join("adapter")).unwrap()).unwrap();
    // The new tokens, too.
    let ids = [3, 96, 99, 5, 97, 98];
    let (found, expected) = (logits(&merged, &ids), logits(&attached, &ids));
    assert_eq!(found.len(), 6 * 100);
    assert_close("extended", &found, &expected, 2e-5);
}

#[test]
fn a_broken_weight_is_seen_as_drift() {
    let golden = Golden::open("llama-untied");
    let (adapted, base) = (golden.adapted(), golden.base());
    let ids: Vec<u32> = golden.integers("input_ids")[..12].iter().map(|id| *id as u32).collect();
    let none = drift(&adapted, &golden.adapted(), std::slice::from_ref(&ids));
    assert_eq!((none.max_abs, none.same_argmax, none.positions), (0.0, 12, 12));
    let wrong = drift(&adapted, &base, &[ids]);
    assert!(wrong.max_abs > 0.1 * wrong.max_logit, "{wrong:?}");
}
