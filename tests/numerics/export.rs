//! A merged model computes what base and adapter compute, and comes back as it was written.

use burn::tensor::Device;
use rankine_export::{CardFacts, ExportConfig, ExportInputs, Target, export};
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
fn a_broken_weight_is_seen_as_drift() {
    let golden = Golden::open("llama-untied");
    let (adapted, base) = (golden.adapted(), golden.base());
    let ids: Vec<u32> = golden.integers("input_ids")[..12].iter().map(|id| *id as u32).collect();
    let none = drift(&adapted, &golden.adapted(), std::slice::from_ref(&ids));
    assert_eq!((none.max_abs, none.same_argmax, none.positions), (0.0, 12, 12));
    let wrong = drift(&adapted, &base, &[ids]);
    assert!(wrong.max_abs > 0.1 * wrong.max_logit, "{wrong:?}");
}
