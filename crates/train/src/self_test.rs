//! Whether a device computes what the CPU computes: a tiny model of random weights is trained on both.
//!
//! Drivers and compilers of kernels were seen to be wrong without a word: a loss of 172.7 where the CPU gives 566. The
//! model needs no file and has one of everything that a run may use: biases, grouped heads, a window, documents side
//! by side, padding, LoRA and DoRA.

use burn::tensor::{DType, Device};
use rankine_data::{Batch, Example, RecordSource};
use rankine_models::adapter_file::HostTensor;
use rankine_models::attach::{AdapterLayout, Tying};
use rankine_models::config::{DecoderConfig, RopeConfig, RopeScaling};
use rankine_models::model::{Model, to_host};
use rankine_nn::lora::{AdapterKind, LoraConfig};
use rankine_nn::parameter::{Noise, Parameter, ParameterMut, Parameters, Pass};
use thiserror::Error;

use crate::config::{OptimizerConfig, OptimizerKind};
use crate::gradients::GradientSum;
use crate::objective::supervised;
use crate::optimizer::Optimizer;

/// A device that computes what the CPU computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Losses, gradients and logits that were compared.
    pub compared: usize,
    /// The largest difference, as a share of the tensor's largest value.
    pub apart: f64,
    /// Where it is.
    pub at: String,
}

/// A device on which nothing should be trained.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{} of {compared} losses, gradients and logits are not the CPU's:\n  {}", faults.len(), shown(faults))]
pub struct Disagreement {
    /// A sentence for each that differs.
    pub faults: Vec<String>,
    /// Losses, gradients and logits that were compared.
    pub compared: usize,
}

/// Trains two steps on `device` and on the CPU and compares both losses, every gradient, and then the logits of a token
/// as generation computes them. The frozen weights are held in `dtype`, in which another device than the CPU also
/// multiplies.
///
/// # Errors
/// Everything that differs by more than rounding explains.
pub fn self_test(device: &Device, dtype: DType) -> Result<Agreement, Disagreement> {
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for kind in [AdapterKind::Lora, AdapterKind::Dora] {
        let mut cpu = Subject::new(kind, dtype, &Device::flex());
        let mut other = Subject::new(kind, dtype, device);
        let trained = cpu.moved();
        for subject in [&mut cpu, &mut other] {
            subject.set(&trained);
        }
        expected.extend(cpu.train());
        found.extend(other.train());
    }
    compare(&found, &expected, tolerance(dtype))
}

/// What rounding explains, as a share of a tensor's largest value: a few roundings to the type, one after the other.
/// In f32 it leaves room for the 10 bits of TF32, in which a GPU may multiply.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 6e-2,
        DType::F16 => 1e-2,
        _ => 5e-3,
    }
}

/// A loss or a gradient, by what it is.
type Measured = (String, Vec<f32>);

fn compare(found: &[Measured], expected: &[Measured], tolerance: f64) -> Result<Agreement, Disagreement> {
    let mut faults = Vec::new();
    let mut worst = Agreement { compared: expected.len(), apart: 0.0, at: String::new() };
    for (name, expected) in expected {
        let Some((_, found)) = found.iter().find(|(other, _)| other == name) else {
            faults.push(format!("{name} is missing"));
            continue;
        };
        let scale = expected.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
        let difference = |(found, expected): (&f32, &f32)| (f64::from(*found) - f64::from(*expected)).abs();
        // Not `max`, which would pass over NaN.
        let apart = found.iter().zip(expected).map(difference).fold(
            0.0_f64,
            |most, apart| {
                if apart <= most { most } else { apart }
            },
        ) / scale.max(f64::MIN_POSITIVE);
        if found.len() == expected.len() && apart <= tolerance {
            if apart >= worst.apart {
                worst = Agreement { apart, at: name.clone(), ..worst };
            }
            continue;
        }
        faults.push(match (found.as_slice(), expected.as_slice()) {
            ([found], [expected]) => format!("{name} is {found}, {expected} on the CPU"),
            _ if found.len() != expected.len() => {
                format!("{name} has {} values, {} on the CPU", found.len(), expected.len())
            }
            _ => format!("{name} is {:.1}% of its largest value away from the CPU's", 100.0 * apart),
        });
    }
    if faults.is_empty() { Ok(worst) } else { Err(Disagreement { faults, compared: expected.len() }) }
}

fn shown(faults: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut lines: Vec<String> = faults.iter().take(SHOWN).cloned().collect();
    if faults.len() > SHOWN {
        lines.push(format!("and {} more", faults.len() - SHOWN));
    }
    lines.join("\n  ")
}

/// The tiny model with an adapter on one device.
struct Subject {
    kind: AdapterKind,
    model: Model,
}

impl Subject {
    fn new(kind: AdapterKind, dtype: DType, device: &Device) -> Self {
        let mut model = Model::random(shape(), 7, device);
        model.visit("", &mut |_, parameter| {
            if let ParameterMut::Matrix(Parameter::Frozen(weight)) = parameter {
                *weight = weight.clone().cast(dtype);
            }
        });
        // A matrix and a column have kernels of their own: some updates are of rank 1.
        let rank_pattern = ["v_proj", "gate_proj"].map(|module| (module.to_owned(), 1)).into();
        let lora = LoraConfig { r: 4, alpha: 6.0, rank_pattern, ..LoraConfig::default() };
        let layout = AdapterLayout::resolve(&model.config, kind, &lora, Tying::default());
        let layout = layout.unwrap_or_else(|error| unreachable!("an adapter of this very model: {error}"));
        model.attach(&layout, 11);
        Self { kind, model }
    }

    /// What it trains, moved away from the start, at which half of the gradients are 0.
    fn moved(&self) -> Vec<(String, HostTensor)> {
        let moved = |(name, shape, data): (String, Vec<usize>, Vec<f32>)| {
            let noise = |(index, value): (usize, f32)| value + 0.1 * (index as f32 * 0.618 + name.len() as f32).sin();
            let data = data.into_iter().enumerate().map(noise).collect();
            (name.clone(), HostTensor { shape, data })
        };
        self.model.trained_tensors().into_iter().map(moved).collect()
    }

    fn set(&mut self, trained: &[(String, HostTensor)]) {
        let of = |wanted: &str| trained.iter().find(|(name, _)| name == wanted).map(|(_, tensor)| tensor.clone());
        let set = self.model.set_trained(&of);
        set.unwrap_or_else(|error| unreachable!("tensors of this very model: {error}"));
    }

    /// Losses and gradients of two steps. By plain gradient descent: a rule that divides by a gradient's own size would
    /// blow up what rounding does to the smallest.
    fn train(&mut self) -> Vec<Measured> {
        let mut optimizer = Optimizer::new(OptimizerConfig {
            kind: OptimizerKind::Sgd,
            beta1: 0.0,
            beta2: 0.0,
            eps: 0.0,
            weight_decay: 0.0,
            loraplus_lr_ratio: None,
        });
        let kind = match self.kind {
            AdapterKind::Dora => "dora",
            AdapterKind::Lora | AdapterKind::Full => "lora",
        };
        let batch = batch();
        let mut measured = Vec::new();
        for step in 0..2 {
            let loss = supervised(&self.model, &batch, &mut Pass::Train(Noise::new(0, step, 0)), None);
            let mut gradients = GradientSum::default();
            gradients.add(&mut self.model, &mut loss.objective.backward());
            gradients.scale(1.0 / loss.tokens as f64);
            let step = format!("{kind}, step {}", step + 1);
            measured.push((format!("{step}: the loss"), vec![loss.sum.into_scalar::<f32>() / loss.tokens as f32]));
            let each =
                gradients.iter().map(|(name, sum)| (format!("{step}: the gradient of {name}"), to_host(sum.clone())));
            measured.extend(each);
            optimizer.step(&mut self.model, &gradients, 0.2);
        }
        measured.push((format!("{kind}: the logits of a token after cached ones"), self.logits_of_a_token()));
        measured
    }

    /// As generation computes them: one row, against keys that are there.
    fn logits_of_a_token(&self) -> Vec<f32> {
        let mut cache = self.model.cache();
        self.model.extend(&[3, 1, 41, 59, 26, 53, 58, 97, 9], &mut cache);
        to_host(self.model.logits(self.model.extend(&[32], &mut cache), &mut Pass::Infer))
    }
}

/// Two layers with an odd feed-forward size, so that no kernel meets only whole tiles.
fn shape() -> DecoderConfig {
    DecoderConfig {
        model_type: "qwen2".to_owned(),
        vocab_size: 101,
        hidden_size: 32,
        intermediate_size: 45,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: RopeConfig { theta: 1e4, scaling: RopeScaling::Default },
        sliding_window: vec![None, Some(7)],
        qkv_bias: true,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        initializer_range: 0.25,
    }
}

/// A row of two documents and a row of one with padding.
fn batch() -> Batch {
    let document = |first: u32, length: u32| {
        let input_ids: Vec<u32> = (first..first + length).map(|place| place * 37 % 101).collect();
        Example {
            labels: input_ids.iter().map(|id| i64::from(*id)).collect(),
            input_ids,
            completion_start: None,
            source: RecordSource { file: "self-test".into(), line: 1 },
            dataset: 0,
        }
    };
    let documents = [document(1, 21), document(40, 12), document(70, 26)];
    let [a, b, c] = &documents;
    Batch::from_examples(&[vec![a, b], vec![c]], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Vec<Measured> {
        let mut subject = Subject::new(AdapterKind::Lora, DType::F32, &Device::flex());
        let trained = subject.moved();
        subject.set(&trained);
        subject.train()
    }

    #[test]
    fn the_cpu_agrees_with_itself_and_every_gradient_is_one() {
        let agreement = self_test(&Device::flex(), DType::F32).expect("the same device");
        // Two steps of 14 linear layers, with a loss each: A and B, and DoRA's magnitudes; then the logits.
        assert_eq!(agreement.compared, 2 * (1 + 2 * 14) + 1 + 2 * (1 + 3 * 14) + 1);
        assert_eq!(agreement.apart, 0.0);
        let measured = measured();
        assert!(
            measured.iter().all(|(name, values)| values.iter().any(|value| value.abs() > 1e-4) || panic!("{name}"))
        );
        let loss = |step: &str| measured.iter().find(|(name, _)| name == &format!("lora, {step}: the loss"));
        let (first, second) = (loss("step 1").expect("a loss"), loss("step 2").expect("a loss"));
        assert!(second.1[0] < first.1[0] - 0.05, "the step taught nothing: {first:?}, {second:?}");
    }

    /// A device that is wrong in one number is refused, and the number is named.
    #[test]
    fn what_is_wrong_is_refused_and_named() {
        let expected = measured();
        let limit = tolerance(DType::F32);
        let broken = |change: &dyn Fn(&mut Vec<Measured>)| {
            let mut found = expected.clone();
            change(&mut found);
            compare(&found, &expected, limit).expect_err("it is wrong").to_string()
        };
        let said = broken(&|found| found[0].1[0] *= 0.3);
        assert!(said.contains("lora, step 1: the loss is") && said.starts_with("1 of 59"), "{said}");
        let said = broken(&|found| found[0].1[0] = f32::NAN);
        assert!(said.contains("the loss is NaN"), "{said}");
        let at = expected.iter().rposition(|(name, _)| name.contains("gradient")).expect("gradients");
        let name = &expected[at].0;
        assert!(name.contains("step 2: the gradient of"), "{name}");
        // One value of one tensor of the second step.
        let said = broken(&|found| found[at].1[3] += 0.02 * found[at].1.iter().fold(0.0_f32, |m, v| m.max(v.abs())));
        assert!(said.contains(name.as_str()) && said.contains("away from the CPU's"), "{said}");
        let said = broken(&|found| found[at].1.fill(0.0));
        assert!(said.contains("100.0%"), "{said}");
        let said = broken(&|found| drop(found.remove(at)));
        assert!(said.contains("is missing"), "{said}");
        let said = broken(&|found| found[at].1.truncate(5));
        assert!(said.contains("has 5 values"), "{said}");
        let said = broken(&|found| found.iter_mut().for_each(|(_, values)| values.fill(7.0)));
        assert!(said.starts_with("59 of 59") && said.contains("and 55 more"), "{said}");
        let nearly: Vec<Measured> = expected
            .iter()
            .map(|(name, values)| (name.clone(), values.iter().map(|value| value * (1.0 + 1e-3)).collect()))
            .collect();
        assert!(compare(&nearly, &expected, limit).is_ok(), "rounding is no fault");
    }
}
