#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rankine_nn::linear::Adapter;
use rankine_nn::lora::{AdapterKind, LoraConfig, TargetModules};
use rankine_nn::parameter::Noise;

use super::*;
use crate::adapter_file::HostTensor;
use crate::attach::{AdapterLayout, Tying};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(name)
}

/// The model of a folder, of which no tensor of a matrix has more than `most` bytes.
fn load(folder: &Path, most: Option<u64>) -> Model {
    let form = BaseForm::from(StoredDtype::F32);
    let files = WeightFiles::open(folder).unwrap();
    let config = DecoderConfig::from_folder(folder).unwrap();
    Model::build(config, &Device::flex(), most, &mut |spec| form.hold(&files, &spec.name))
}

fn splits(model: &Model) -> usize {
    let mut count = usize::from(matches!(model.model.embed_tokens.weight, Table::Split(_)));
    model.clone().for_each_linear(&mut |_, linear| {
        count += usize::from(matches!(linear.weight, LinearWeight::Split(_)));
    });
    count
}

/// Logits, and the gradient of every trained tensor.
fn run(model: &mut Model) -> Vec<(String, Vec<f32>)> {
    // No factor of an update is 0, so that the other has a gradient.
    let moved = |name: &str, shape: Vec<usize>, values: Vec<f32>| {
        let moved = values.iter().enumerate().map(|(i, value)| value + 0.1 * ((i + name.len()) as f32).sin());
        HostTensor { shape, data: moved.collect() }
    };
    let trained: HashMap<String, HostTensor> = model
        .trained_tensors()
        .into_iter()
        .map(|(name, shape, values)| (name.clone(), moved(&name, shape, values)))
        .collect();
    model.set_trained(&|name| trained.get(name).cloned()).unwrap();
    let ids: Vec<u32> = (0..12).map(|i| i * 5 % model.config.vocab_size as u32).collect();
    let positions: Vec<u32> = (0..12).collect();
    let tokens = Tokens { rows: 1, input_ids: &ids, position_ids: &positions, segment_ids: &[1; 12] };
    let logits = model.logits(model.hidden(&tokens, &mut Pass::Infer), &mut Pass::Infer);
    let mut found = vec![("logits".to_owned(), to_host(logits))];
    let mut pass = Pass::Train(Noise::new(1, 1, 1));
    let hidden = model.hidden(&tokens, &mut pass);
    let targets: Vec<i64> = (0..12).map(|i| i * 7 % model.config.vocab_size as i64).collect();
    let loss = match model.frozen_head() {
        Some(weight) => ops::head_loss(hidden, &weight, &targets, model.head_product()),
        None => ops::cross_entropy(model.logits(hidden, &mut pass), &targets),
    };
    found.push(("loss".to_owned(), to_host(loss.sum)));
    let gradients = loss.objective.backward();
    model.visit("", &mut |name, parameter| match parameter {
        ParameterMut::Matrix(Parameter::Trained(weight)) => {
            found.push((name.to_owned(), to_host(weight.grad(&gradients).unwrap())));
        }
        ParameterMut::Vector(Parameter::Trained(weight)) => {
            found.push((name.to_owned(), to_host(weight.grad(&gradients).unwrap())));
        }
        _ => {}
    });
    found
}

/// A device with small buffers holds matrices in parts, of one row each where a row is as large as a buffer, and
/// computes the same.
#[test]
fn a_model_in_parts_computes_what_it_computes_whole() {
    for case in ["llama-tied", "llama-untied", "qwen2", "qwen3"] {
        let folder = golden(case);
        let config = DecoderConfig::from_folder(&folder).unwrap();
        for (kind, modules) in [
            (AdapterKind::Lora, vec!["q_proj", "down_proj"]),
            (AdapterKind::Lora, vec!["embed_tokens", "lm_head", "v_proj"]),
            (AdapterKind::Dora, vec!["o_proj", "up_proj"]),
        ] {
            let lora = LoraConfig {
                target_modules: TargetModules::Names(modules.iter().map(ToString::to_string).collect()),
                ..LoraConfig::default()
            };
            let layout = AdapterLayout::resolve(&config, kind, &lora, Tying::Parted).unwrap();
            let mut whole = load(&folder, None);
            assert_eq!(splits(&whole), 0);
            whole.attach(&layout, 3);
            let expected = run(&mut whole);
            for most in [1, 4 * config.hidden_size as u64 * 7] {
                let mut parts = load(&folder, Some(most));
                assert!(splits(&parts) > 2, "{case}");
                parts.attach(&layout, 3);
                let found = run(&mut parts);
                assert_eq!(found.len(), expected.len(), "{case} {modules:?}");
                for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                    let scale = expected.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
                    let apart = found.iter().zip(expected).fold(0.0_f32, |most, (f, e)| most.max((f - e).abs()));
                    assert!(apart <= 1e-5 * scale, "{case} {modules:?} {name}: {apart} of {scale}");
                }
            }
        }
    }
}

/// What is trained in full is one tensor, and an adapter of it sees the same model.
#[test]
fn what_is_trained_in_full_is_whole() {
    let folder = golden("llama-tied");
    let config = DecoderConfig::from_folder(&folder).unwrap();
    let lora = LoraConfig { modules_to_save: vec!["embed_tokens".into(), "lm_head".into()], ..LoraConfig::default() };
    let layout = AdapterLayout::resolve(&config, AdapterKind::Lora, &lora, Tying::Parted).unwrap();
    let (mut whole, mut parts) = (load(&folder, None), load(&folder, Some(256)));
    for model in [&mut whole, &mut parts] {
        model.attach(&layout, 3);
    }
    assert!(matches!(parts.model.embed_tokens.weight, Table::Whole(Parameter::Trained(_))));
    assert_eq!(parts.trained_tensors(), whole.trained_tensors());
    assert!(parts.model.layers.iter().all(|layer| matches!(layer.mlp.up_proj.adapter, Some(Adapter::Lora(_)))));
    let full = AdapterLayout::resolve(&config, AdapterKind::Full, &LoraConfig::default(), Tying::Kept).unwrap();
    let (mut whole, mut parts) = (load(&folder, None), load(&folder, Some(256)));
    for model in [&mut whole, &mut parts] {
        model.attach(&full, 3);
    }
    assert_eq!(splits(&parts), 0);
    assert_eq!(parts.trained_tensors(), whole.trained_tensors());
}
