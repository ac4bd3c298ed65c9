//! Reads what the references computed: `tests/golden/models/<case>/`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rankine_models::adapter_file::read_adapter;
use rankine_models::model::Model;
use rankine_models::weights::StoredDtype;
use safetensors::SafeTensors;
use serde_json::Value;

/// Relative to the largest value of the tensor, what f32 arithmetic in another order may differ by.
pub(crate) const F32: f32 = 1e-5;

/// Every case with its adapter.
pub(crate) const CASES: [&str; 20] = [
    "llama-untied",
    "llama-tied",
    "llama3-rope",
    "linear-rope",
    "llama-mha-bias",
    "llama-head-dim",
    "mistral",
    "qwen2",
    "qwen3",
    "lora-rslora",
    "lora-dora",
    "lora-modules-to-save",
    "lora-patterns",
    "lora-layers",
    "lora-regex-target",
    "lora-head",
    "lora-embedding",
    "lora-tied-modules-to-save",
    "lora-tied-both-to-save",
    "lora-tied-modules-to-save-ensured",
];

/// One case: its folder and what the references computed.
pub(crate) struct Golden {
    pub(crate) folder: PathBuf,
    pub(crate) json: Value,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Golden {
    pub(crate) fn open(case: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(case);
        let json = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                safetensors::Dtype::F32 => {
                    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
                safetensors::Dtype::F64 => {
                    data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
                }
                safetensors::Dtype::I64 => {
                    data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
                }
                other => panic!("{name}: {other:?}"),
            };
            (name, (view.shape().to_vec(), values))
        });
        Self { folder, json, tensors: tensors.collect() }
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensors.get(name).unwrap_or_else(|| panic!("no {name}")).1.iter().map(|v| *v as f32).collect()
    }

    pub(crate) fn integers(&self, name: &str) -> Vec<i64> {
        self.tensors[name].1.iter().map(|v| *v as i64).collect()
    }

    pub(crate) fn scalar(&self, name: &str) -> f64 {
        self.tensors[name].1[0]
    }

    pub(crate) fn base(&self) -> Model {
        Model::load(&self.folder, StoredDtype::F32, &Device::flex()).unwrap()
    }

    pub(crate) fn adapted(&self) -> Model {
        self.adapted_on(&Device::flex())
    }

    pub(crate) fn adapted_on(&self, device: &Device) -> Model {
        let mut model = Model::load(&self.folder, StoredDtype::F32, device).unwrap();
        model.attach_file(&read_adapter(&self.folder.join("adapter")).unwrap()).unwrap();
        model
    }
}

/// The largest difference over the largest expected value, over the rows that `keep` names.
pub(crate) fn apart(found: &[f32], expected: &[f32], keep: &dyn Fn(usize) -> bool, width: usize) -> f32 {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks_exact(width).zip(expected.chunks_exact(width)).enumerate();
    let kept: Vec<_> = rows.filter(|(row, _)| keep(*row)).map(|(_, pair)| pair).collect();
    let scale = kept.iter().flat_map(|(_, e)| e.iter()).fold(0.0_f32, |max, v| max.max(v.abs()));
    let differ = kept.iter().flat_map(|(f, e)| f.iter().zip(*e)).fold(0.0_f32, |max, (f, e)| {
        assert!(f.is_finite());
        max.max((f - e).abs())
    });
    differ / scale.max(1e-30)
}

/// Asserts that two tensors agree, with the name in the message.
pub(crate) fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let apart = apart(found, expected, &|_| true, 1);
    assert!(apart <= tolerance, "{name}: relative difference {apart:.2e} above {tolerance:.0e}");
}
