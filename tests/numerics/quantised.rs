//! NF4 against bitsandbytes, and what a quantised base computes against its values written out.

use std::fs;

use burn::tensor::Device;
use rankine_models::drift::logits;
use rankine_models::model::{BaseForm, Model};
use rankine_models::weights::StoredDtype;
use rankine_ops::{QuantFormat, QuantWeight};
use safetensors::SafeTensors;

use super::golden::{Golden, apart};

const CASES: [&str; 5] = ["even", "rest", "many", "hard", "halves"];

#[test]
fn nf4_is_that_of_bitsandbytes_to_the_bit() {
    let bytes = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/quantised/nf4.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    for case in CASES {
        let view = file.tensor(&format!("{case}.values")).unwrap();
        let shape = [view.shape()[0], view.shape()[1]];
        let weight = QuantWeight::quantise(QuantFormat::Nf4, &floats(&format!("{case}.values")), shape);
        let bytes = |name: &str| file.tensor(&format!("{case}.{name}")).unwrap().data().to_vec();
        assert_eq!(weight.codes(), bytes("codes"), "{case}: codes");
        let (codes, outer, offset) = weight.nested_scales().unwrap();
        let expected = floats(&format!("{case}.offset"))[0];
        // The reference sums in an order of its own.
        assert!((offset - expected).abs() <= 2.0 * f32::EPSILON * expected.abs(), "{case}: {offset}, {expected}");
        assert_eq!(codes, bytes("scale_codes"), "{case}: codes of the scales");
        let (found, expected_values) = (weight.dequantise(), floats(&format!("{case}.dequantised")));
        if offset == expected {
            assert_eq!(outer, floats(&format!("{case}.outer")), "{case}: outer scales");
            assert!(found == expected_values, "{case}: values");
        } else {
            let most = expected_values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected_values) {
                assert!((found - expected).abs() <= 4.0 * f32::EPSILON * most, "{case}: {found}, {expected}");
            }
        }
    }
}

/// The same logits, to the bit, as a model whose files hold the rounded values: what is packed is widened exactly, in
/// every format, and embeddings, norms and the head are left alone.
#[test]
fn a_quantised_base_computes_what_its_values_written_out_compute() {
    use std::collections::HashMap;

    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

    let golden = Golden::open("llama-untied");
    let ids: Vec<u32> = golden.integers("input_ids")[..12].iter().map(|id| *id as u32).collect();
    let plain = logits(&golden.base(), &ids);
    let mut away = Vec::new();
    for format in [QuantFormat::Int8, QuantFormat::Nf4, QuantFormat::Int4] {
        let form = BaseForm { quantize: Some(format), ..StoredDtype::F32.into() };
        let packed = Model::load(&golden.folder, form, &Device::flex()).unwrap();
        let mut layers = 0;
        let mut tensors: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
        for (name, shape, mut values) in golden.base().all_tensors() {
            if name.ends_with("_proj.weight") {
                values = QuantWeight::quantise(format, &values, [shape[0], shape[1]]).dequantise();
                layers += 1;
            }
            tensors.insert(name, (shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
        }
        assert_eq!(layers, 14);
        let folder = tempfile::tempdir().unwrap();
        fs::copy(golden.folder.join("config.json"), folder.path().join("config.json")).unwrap();
        let views = tensors
            .iter()
            .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        let written = Model::load(folder.path(), StoredDtype::F32, &Device::flex()).unwrap();
        let found = logits(&packed, &ids);
        assert_eq!(found, logits(&written, &ids), "{format:?}");
        away.push(apart(&found, &plain, &|_| true, 1));
    }
    // Another model than the base, and 8 bits (16 times as fine as 4) much closer to it.
    assert!(away[0] > 0.0 && 4.0 * away[0] < away[1] && 4.0 * away[0] < away[2], "{away:?}");
}
