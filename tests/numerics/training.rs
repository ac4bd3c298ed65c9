//! Losses, gradients by name and a ten-step run, against peft.

use rankine_data::{Batch, Example, RecordSource};
use rankine_models::adapter_file::HostTensor;
use rankine_models::attach::{EMBEDDING, HEAD};
use rankine_models::model::{Model, to_host};
use rankine_nn::parameter::{Noise, Pass};
use rankine_train::config::{OptimizerConfig, OptimizerKind};
use rankine_train::gradients::GradientSum;
use rankine_train::objective::supervised;
use rankine_train::optimizer::Optimizer;

use super::golden::{CASES, Golden, apart, assert_close};

const PREFIX: &str = "base_model.model.";
/// f32 against f32: golden.json's `float32_minus_float64` says that the reference's own gradients are this far off.
pub(crate) const GRADIENT: f32 = 3e-5;

pub(crate) fn example(golden: &Golden, row: usize) -> Example {
    let (ids, labels, seen) =
        (golden.integers("input_ids"), golden.integers("labels"), golden.integers("attention_mask"));
    let length = ids.len() / 2;
    let tokens: Vec<usize> = (row * length..(row + 1) * length).filter(|i| seen[*i] != 0).collect();
    Example {
        input_ids: tokens.iter().map(|i| ids[*i] as u32).collect(),
        labels: tokens.iter().map(|i| labels[*i]).collect(),
        completion_start: None,
        source: RecordSource { file: "golden".into(), line: row + 1 },
        dataset: 0,
    }
}

fn noise() -> Pass {
    Pass::Train(Noise::new(0, 0, 0))
}

/// Summed loss, its tokens and its gradients, of each batch in turn.
pub(crate) fn accumulate(model: &mut Model, batches: &[Batch]) -> (f64, usize, GradientSum) {
    let (mut sum, mut tokens, mut gradients) = (0.0, 0, GradientSum::default());
    for batch in batches {
        let loss = supervised(model, batch, &mut noise(), None);
        sum += f64::from(loss.sum.into_scalar::<f32>());
        tokens += loss.tokens;
        gradients.add(model, &mut loss.objective.backward());
    }
    (sum, tokens, gradients)
}

/// peft writes the tied pair under both names, and its gradient under both.
pub(crate) fn trained_keys(golden: &Golden, model: &Model) -> Vec<(String, String)> {
    let keys: Vec<String> = serde_json::from_value(golden.json["trained"].clone()).unwrap();
    keys.into_iter()
        .map(|key| {
            let name = key.strip_prefix(PREFIX).unwrap().to_owned();
            let tied = name == format!("{HEAD}.weight") && model.lm_head.is_none();
            (key, if tied { format!("{EMBEDDING}.weight") } else { name })
        })
        .collect()
}

#[test]
fn losses_and_gradients_equal_peft() {
    for case in CASES {
        let golden = Golden::open(case);
        let mut model = golden.adapted();
        let examples = [example(&golden, 0), example(&golden, 1)];
        let padded = Batch::from_examples(&[vec![&examples[0]], vec![&examples[1]]], 0);
        let packed = Batch::from_examples(&[vec![&examples[1], &examples[0]]], 0);
        let apart_rows = [&examples[0], &examples[1]].map(|example| Batch::from_examples(&[vec![example]], 0));
        for (layout, batches) in
            [("padded", vec![padded]), ("packed", vec![packed]), ("micro-batches", apart_rows.into())]
        {
            let (sum, tokens, gradients) = accumulate(&mut model, &batches);
            assert_eq!(tokens as f64, golden.scalar("adapter.tokens"), "{case} {layout}");
            let expected = golden.scalar("adapter.loss_sum");
            assert!((sum / expected - 1.0).abs() < 1e-5, "{case} {layout}: loss {sum}, {expected} expected");
            let keys = trained_keys(&golden, &model);
            let mut names: Vec<&str> = keys.iter().map(|(_, name)| name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(
                gradients.iter().map(|(name, _)| name).collect::<Vec<_>>(),
                names,
                "{case}: what has a gradient"
            );
            for (key, name) in &keys {
                let found = to_host(gradients.get(name).unwrap());
                assert_close(
                    &format!("{case} {layout} {key}"),
                    &found,
                    &golden.values(&format!("grad.{key}")),
                    GRADIENT,
                );
            }
        }
    }
}

#[test]
fn ten_steps_equal_peft() {
    for case in CASES {
        let golden = Golden::open(case);
        let mut model = golden.adapted();
        let examples = [example(&golden, 0), example(&golden, 1)];
        let mut optimizer = Optimizer::new(OptimizerConfig {
            kind: OptimizerKind::Adamw,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            loraplus_lr_ratio: None,
        });
        for (step, expected) in golden.json["curve"].as_array().unwrap().iter().enumerate() {
            let rows = expected["rows"].as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as usize);
            let batches: Vec<Batch> = rows.map(|row| Batch::from_examples(&[vec![&examples[row]]], 0)).collect();
            let (sum, tokens, mut gradients) = accumulate(&mut model, &batches);
            gradients.scale(1.0 / tokens as f64);
            let norm = gradients.clip(Some(1.0));
            optimizer.step(&mut model, &gradients, 5e-3);
            let (loss, reference) = (sum / tokens as f64, expected["loss"].as_f64().unwrap());
            assert!((loss / reference - 1.0).abs() < 2e-5, "{case} step {step}: loss {loss}, {reference} expected");
            let reference = expected["grad_norm"].as_f64().unwrap();
            assert!((norm / reference - 1.0).abs() < 2e-4, "{case} step {step}: norm {norm}, {reference} expected");
        }
        let finals: std::collections::HashMap<String, Vec<f32>> =
            model.trained_tensors().into_iter().map(|(name, _, values)| (name, values)).collect();
        for (key, name) in trained_keys(&golden, &model) {
            let expected = golden.values(&format!("final.{key}"));
            let apart = apart(&finals[&name], &expected, &|_| true, 1);
            assert!(apart < 1e-4, "{case} {key}: after ten steps {apart:.2e}");
        }
    }
}

#[test]
fn the_base_is_untouched_after_steps() {
    for case in ["llama-tied", "lora-dora", "lora-modules-to-save"] {
        let golden = Golden::open(case);
        let mut model = golden.adapted();
        let frozen = |model: &Model| {
            let trained: Vec<String> = model.trained_tensors().into_iter().map(|(name, ..)| name).collect();
            let all = model.all_tensors().into_iter().filter(|(name, ..)| !trained.contains(name));
            all.map(|(name, _, values)| (name, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        let (before, trained_before) = (frozen(&model), model.trained_tensors());
        let example = example(&golden, 0);
        let mut optimizer = Optimizer::new(OptimizerConfig {
            kind: OptimizerKind::Adamw,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            loraplus_lr_ratio: Some(4.0),
        });
        for _ in 0..3 {
            let (_, _, gradients) = accumulate(&mut model, &[Batch::from_examples(&[vec![&example]], 0)]);
            optimizer.step(&mut model, &gradients, 1e-2);
        }
        assert_eq!(frozen(&model), before, "{case}");
        for ((name, _, before), (_, _, after)) in trained_before.iter().zip(model.trained_tensors()) {
            assert_ne!(*before, after, "{case}: {name} was not trained");
        }
    }
}

/// The directional derivative along a random direction in all trained tensors, by central differences.
#[test]
fn gradients_equal_finite_differences() {
    use rand::SeedableRng;
    for case in ["llama-untied", "mistral", "qwen3", "lora-modules-to-save", "lora-embedding"] {
        let golden = Golden::open(case);
        let mut model = golden.adapted();
        let batch = [Batch::from_examples(&[vec![&example(&golden, 0)]], 0)];
        let (_, _, gradients) = accumulate(&mut model, &batch);
        let start = model.trained_tensors();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let direction: Vec<Vec<f32>> = start
            .iter()
            .map(|(_, _, values)| values.iter().map(|_| rankine_nn::linear::standard_normal(&mut rng)).collect())
            .collect();
        let slope: f64 = start
            .iter()
            .zip(&direction)
            .map(|((name, ..), direction)| {
                let gradient = to_host(gradients.get(name).unwrap());
                gradient.iter().zip(direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum::<f64>()
            })
            .sum();
        let mut loss_at = |step: f32| {
            let moved: std::collections::HashMap<&str, HostTensor> = start
                .iter()
                .zip(&direction)
                .map(|((name, shape, values), direction)| {
                    let data = values.iter().zip(direction).map(|(v, d)| v + step * d).collect();
                    (name.as_str(), HostTensor { shape: shape.clone(), data })
                })
                .collect();
            model.set_trained(&|name| moved.get(name).cloned()).unwrap();
            accumulate(&mut model, &batch).0
        };
        // Richardson's extrapolation of two central differences: f32 losses allow no smaller step.
        let central = |loss_at: &mut dyn FnMut(f32) -> f64, h: f32| (loss_at(h) - loss_at(-h)) / (2.0 * f64::from(h));
        let (wide, narrow) = (central(&mut loss_at, 4e-3), central(&mut loss_at, 2e-3));
        let expected = (4.0 * narrow - wide) / 3.0;
        assert!((slope / expected - 1.0).abs() < 5e-3, "{case}: slope {slope}, {expected} by differences");
    }
}
