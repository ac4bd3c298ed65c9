//! Update rules over the trained tensors, keyed by their names.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{OptimizerConfig, OptimizerKind};
use crate::gradients::GradientSum;
use rankine_models::model::{Model, to_host};
use rankine_nn::parameter::{Parameter, ParameterMut, Parameters};

/// An update rule and what it remembers of every tensor.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: usize,
    state: BTreeMap<String, Moments>,
}

/// What a rule remembers of one tensor; a vector is held as one row.
#[derive(Debug, Clone, Default)]
struct Moments {
    /// First moment, or momentum.
    first: Option<Tensor<2>>,
    /// Second moment, or its row means.
    second: Option<Tensor<2>>,
    /// Column means of the second moment (Adafactor, matrices).
    columns: Option<Tensor<2>>,
}

/// A tensor of the state on the host: its key, its shape and its values.
pub type HostState = (String, [usize; 2], Vec<f32>);

impl Optimizer {
    /// A rule that remembers nothing yet.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, steps: 0, state: BTreeMap::new() }
    }

    /// Moves every trained tensor that has a gradient. `rate` is the learning rate of this step.
    pub fn step(&mut self, model: &mut Model, gradients: &GradientSum, rate: f64) {
        self.steps += 1;
        model.visit("", &mut |name, parameter| {
            let Some(gradient) = gradients.get(name) else { return };
            let rate = match self.config.loraplus_lr_ratio {
                Some(ratio) if name.contains("lora_B") || name.contains("lora_embedding_B") => rate * ratio,
                _ => rate,
            };
            match parameter {
                ParameterMut::Matrix(parameter) => {
                    let value = self.update(name, parameter.plain(), gradient, rate, Rank::Matrix);
                    *parameter = Parameter::trained(value);
                }
                ParameterMut::Vector(parameter) => {
                    let value = parameter.plain().unsqueeze_dim(0);
                    let value = self.update(name, value, gradient, rate, Rank::Vector);
                    *parameter = Parameter::trained(value.squeeze_dim(0));
                }
            }
        });
    }

    /// The state on the host, for a checkpoint, with the number of steps done.
    pub fn state(&self) -> (usize, Vec<HostState>) {
        let mut tensors = Vec::new();
        for (name, moments) in &self.state {
            let held = [("first", &moments.first), ("second", &moments.second), ("columns", &moments.columns)];
            for (part, tensor) in held {
                if let Some(tensor) = tensor {
                    let shape = tensor.dims();
                    tensors.push((format!("{name}#{part}"), shape, to_host(tensor.clone())));
                }
            }
        }
        (self.steps, tensors)
    }

    /// Takes a state back.
    ///
    /// # Errors
    /// The first key that is not one of a state.
    pub fn restore(&mut self, steps: usize, tensors: Vec<HostState>, device: &Device) -> Result<(), String> {
        self.steps = steps;
        self.state.clear();
        for (key, shape, values) in tensors {
            let Some((name, part)) = key.rsplit_once('#') else { return Err(key) };
            let tensor = Tensor::from_data(TensorData::new(values, shape), device);
            let moments = self.state.entry(name.to_owned()).or_default();
            match part {
                "first" => moments.first = Some(tensor),
                "second" => moments.second = Some(tensor),
                "columns" => moments.columns = Some(tensor),
                _ => return Err(key),
            }
        }
        Ok(())
    }

    fn update(&mut self, name: &str, value: Tensor<2>, gradient: Tensor<2>, rate: f64, rank: Rank) -> Tensor<2> {
        let config = &self.config;
        // Norms and biases of a base trained in full are not decayed (`get_decay_parameter_names` in transformers).
        let decay = match rank {
            Rank::Vector if !name.contains("lora_") => 0.0,
            _ => config.weight_decay,
        };
        let moments = self.state.entry(name.to_owned()).or_default();
        match config.kind {
            OptimizerKind::Adamw => adamw(config, moments, self.steps, value, gradient, rate, decay),
            OptimizerKind::Adafactor => adafactor(moments, self.steps, value, gradient, rate, decay, rank),
            OptimizerKind::Lion => lion(config, moments, value, gradient, rate, decay),
            OptimizerKind::Sgd => sgd(config, moments, value, gradient, rate, decay),
        }
    }
}

/// Whether a tensor held as [1, n] is a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Vector,
    Matrix,
}

/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
/// `p = p (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)` (`torch.optim.AdamW`).
fn adamw(
    config: &OptimizerConfig,
    moments: &mut Moments,
    steps: usize,
    value: Tensor<2>,
    gradient: Tensor<2>,
    rate: f64,
    decay: f64,
) -> Tensor<2> {
    let (b1, b2) = (config.beta1, config.beta2);
    let first = blend(moments.first.take(), gradient.clone(), b1, 1.0 - b1);
    let second = blend(moments.second.take(), gradient.square(), b2, 1.0 - b2);
    let (c1, c2) = (1.0 - b1.powf(steps as f64), 1.0 - b2.powf(steps as f64));
    let denominator = second.clone().sqrt().div_scalar(c2.sqrt()).add_scalar(config.eps);
    let value = value.mul_scalar(1.0 - rate * decay) - (first.clone() / denominator).mul_scalar(rate / c1);
    moments.first = Some(first);
    moments.second = Some(second);
    value
}

/// Factored second moments without a first one: rows and columns of `g^2 + eps^2`, the update clipped to a root mean
/// square of 1 (`transformers.optimization.Adafactor` with `scale_parameter` and `relative_step` off).
fn adafactor(
    moments: &mut Moments,
    steps: usize,
    value: Tensor<2>,
    gradient: Tensor<2>,
    rate: f64,
    decay: f64,
    rank: Rank,
) -> Tensor<2> {
    let keep = 1.0 - (steps as f64).powf(-0.8);
    let square = gradient.clone().square().add_scalar(ADAFACTOR_EPS);
    let update = match rank {
        Rank::Vector => {
            let second = blend(moments.second.take(), square, keep, 1.0 - keep);
            moments.second = Some(second.clone());
            gradient / second.sqrt()
        }
        Rank::Matrix => {
            let rows = blend(moments.second.take(), square.clone().mean_dim(1), keep, 1.0 - keep); // [out, 1]
            let columns = blend(moments.columns.take(), square.mean_dim(0), keep, 1.0 - keep); // [1, in]
            moments.second = Some(rows.clone());
            moments.columns = Some(columns.clone());
            let row_factor = (rows.clone() / rows.mean_dim(0)).sqrt().recip();
            gradient * row_factor * columns.sqrt().recip()
        }
    };
    let count = update.shape().num_elements() as f64;
    let root_mean_square = update.clone().square().sum().div_scalar(count).sqrt().clamp_min(1.0);
    let update = update / root_mean_square.unsqueeze();
    value.mul_scalar(1.0 - rate * decay) - update.mul_scalar(rate)
}

/// Added to squared gradients, as Shazeer & Stern's epsilon 1.
const ADAFACTOR_EPS: f64 = 1e-30;

/// `p = p (1 - lr wd) - lr sign(b1 m + (1 - b1) g)`, then `m = b2 m + (1 - b2) g` (Algorithm 2 of Chen et al.).
fn lion(
    config: &OptimizerConfig,
    moments: &mut Moments,
    value: Tensor<2>,
    gradient: Tensor<2>,
    rate: f64,
    decay: f64,
) -> Tensor<2> {
    let held = moments.first.take();
    let direction = blend(held.clone(), gradient.clone(), config.beta1, 1.0 - config.beta1).sign();
    moments.first = Some(blend(held, gradient, config.beta2, 1.0 - config.beta2));
    value.mul_scalar(1.0 - rate * decay) - direction.mul_scalar(rate)
}

/// `g = g + wd p`, `m = b1 m + g` (the first `m` is `g`), `p = p - lr m` (`torch.optim.SGD`).
fn sgd(
    config: &OptimizerConfig,
    moments: &mut Moments,
    value: Tensor<2>,
    gradient: Tensor<2>,
    rate: f64,
    decay: f64,
) -> Tensor<2> {
    let gradient = if decay > 0.0 { gradient + value.clone().mul_scalar(decay) } else { gradient };
    if config.beta1 == 0.0 {
        return value - gradient.mul_scalar(rate);
    }
    let momentum = blend(moments.first.take(), gradient, config.beta1, 1.0);
    moments.first = Some(momentum.clone());
    value - momentum.mul_scalar(rate)
}

/// `keep * held + take * new`; nothing held is 0.
fn blend(held: Option<Tensor<2>>, new: Tensor<2>, keep: f64, take: f64) -> Tensor<2> {
    match held {
        Some(held) => held.mul_scalar(keep) + new.mul_scalar(take),
        None => new.mul_scalar(take),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rankine_models::weights::TensorFile;
    use serde_json::Value;

    use super::*;

    /// Six steps on a matrix and a vector, against torch, transformers and lion-pytorch.
    #[test]
    fn trajectories_equal_the_references() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/optimizers");
        let json: Value = serde_json::from_slice(&std::fs::read(folder.join("optimizers.json")).unwrap()).unwrap();
        let file = TensorFile::open(&folder.join("trajectories.safetensors")).unwrap();
        let device = Device::flex();
        let tensor = |name: &str| {
            let stored = file.get(name).unwrap();
            let columns = *stored.shape.last().unwrap();
            let values = stored.to_f32();
            let rows = values.len() / columns;
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device)
        };
        for (case, settings) in json["cases"].as_object().unwrap() {
            let number = |key: &str| settings[key].as_f64();
            let beta = |index: usize| settings["betas"][index].as_f64();
            let kind = match case.split('-').next().unwrap() {
                "adamw" => OptimizerKind::Adamw,
                "sgd" => OptimizerKind::Sgd,
                "adafactor" => OptimizerKind::Adafactor,
                "lion" => OptimizerKind::Lion,
                other => panic!("{other}"),
            };
            let mut optimizer = Optimizer::new(OptimizerConfig {
                kind,
                beta1: beta(0).or(number("momentum")).unwrap_or(0.0),
                beta2: beta(1).unwrap_or(0.0),
                eps: number("eps").unwrap_or(0.0),
                weight_decay: number("weight_decay").unwrap(),
                loraplus_lr_ratio: None,
            });
            // A name of an adapter's: its vectors decay, as in the references.
            for (name, rank) in [("matrix", Rank::Matrix), ("vector", Rank::Vector)] {
                let mut value = tensor(&format!("start.{name}"));
                for step in 1..=6 {
                    optimizer.steps = step;
                    let gradient = tensor(&format!("grad.{step}.{name}"));
                    let rate = number("lr").unwrap();
                    value = optimizer.update(&format!("lora_{name}"), value, gradient, rate, rank);
                    let (found, expected) = (to_host(value.clone()), to_host(tensor(&format!("{case}.{step}.{name}"))));
                    for (found, expected) in found.iter().zip(expected) {
                        assert!(
                            (found - expected).abs() < 2e-6,
                            "{case} {name} step {step}: {found}, {expected} expected"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn norms_and_biases_of_the_base_do_not_decay() {
        let config = OptimizerConfig {
            kind: OptimizerKind::Sgd,
            beta1: 0.0,
            beta2: 0.0,
            eps: 0.0,
            weight_decay: 0.5,
            loraplus_lr_ratio: None,
        };
        let mut optimizer = Optimizer::new(config);
        let device = Device::flex();
        let (ones, zeros) = (Tensor::ones([1, 3], &device), Tensor::zeros([1, 3], &device));
        let mut moved = |name, rank| to_host(optimizer.update(name, ones.clone(), zeros.clone(), 0.1, rank))[0];
        assert_eq!(moved("model.norm.weight", Rank::Vector), 1.0);
        assert!(moved("model.embed_tokens.weight", Rank::Matrix) < 1.0);
        assert!(moved("q_proj.lora_magnitude_vector", Rank::Vector) < 1.0);
    }

    #[test]
    fn a_restored_state_goes_on_to_the_bit() {
        let device = Device::flex();
        let tensor = |start: f32| {
            let values: Vec<f32> = (0..12).map(|i| (start + i as f32).sin()).collect();
            Tensor::<2>::from_data(TensorData::new(values, [3, 4]), &device)
        };
        for kind in [OptimizerKind::Adamw, OptimizerKind::Adafactor, OptimizerKind::Lion, OptimizerKind::Sgd] {
            let config = OptimizerConfig {
                kind,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                weight_decay: 0.1,
                loraplus_lr_ratio: None,
            };
            let mut whole = Optimizer::new(config.clone());
            let mut value = tensor(0.0);
            let mut resumed: Option<(Optimizer, Tensor<2>)> = None;
            for step in 1..=6 {
                if step == 4 {
                    let (steps, state) = whole.state();
                    let mut fresh = Optimizer::new(config.clone());
                    fresh.restore(steps, state, &device).unwrap();
                    resumed = Some((fresh, value.clone()));
                }
                whole.steps = step;
                value = whole.update("a.lora_B.weight", value, tensor(step as f32), 0.01, Rank::Matrix);
                if let Some((optimizer, value)) = &mut resumed {
                    optimizer.steps = step;
                    *value =
                        optimizer.update("a.lora_B.weight", value.clone(), tensor(step as f32), 0.01, Rank::Matrix);
                }
            }
            let (_, other) = resumed.unwrap();
            assert_eq!(to_host(value), to_host(other), "{kind:?}");
        }
    }
}
