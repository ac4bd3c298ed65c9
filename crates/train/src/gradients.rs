//! Gradients of a global batch, summed over its micro-batches.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Tensor};
use rankine_models::model::{Model, to_host};
use rankine_nn::parameter::{Parameter, ParameterMut, Parameters};

/// The summed gradient of every trained tensor, by name; a vector is held as one row.
#[derive(Debug, Default)]
pub struct GradientSum {
    sums: BTreeMap<String, Tensor<2>>,
}

impl GradientSum {
    /// Adds what one backward pass left.
    pub fn add(&mut self, model: &mut Model, gradients: &mut Gradients) {
        model.visit("", &mut |name, parameter| {
            let gradient = match parameter {
                ParameterMut::Matrix(Parameter::Trained(tensor)) => tensor.grad_remove(gradients),
                ParameterMut::Vector(Parameter::Trained(tensor)) => {
                    tensor.grad_remove(gradients).map(|gradient| gradient.unsqueeze_dim(0))
                }
                _ => None,
            };
            if let Some(gradient) = gradient {
                let sum = match self.sums.remove(name) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                self.sums.insert(name.to_owned(), sum);
            }
        });
    }

    /// The gradient of one tensor.
    pub fn get(&self, name: &str) -> Option<Tensor<2>> {
        self.sums.get(name).cloned()
    }

    /// Every gradient with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<2>)> {
        self.sums.iter().map(|(name, sum)| (name.as_str(), sum))
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f64) {
        for sum in self.sums.values_mut() {
            *sum = sum.clone().mul_scalar(factor);
        }
    }

    /// The norm over all tensors together.
    pub fn norm(&self) -> f64 {
        let squares: Vec<Tensor<1>> = self.sums.values().map(|sum| sum.clone().square().sum()).collect();
        if squares.is_empty() {
            return 0.0;
        }
        to_host(Tensor::cat(squares, 0)).iter().map(|square| f64::from(*square)).sum::<f64>().sqrt()
    }

    /// Scales all gradients together so that their norm is at most `max_norm`, and returns the norm before
    /// (`clip_grad_norm_` in torch).
    pub fn clip(&mut self, max_norm: Option<f64>) -> f64 {
        let norm = self.norm();
        if let Some(max_norm) = max_norm {
            let factor = max_norm / (norm + 1e-6);
            if factor < 1.0 {
                self.scale(factor);
            }
        }
        norm
    }

    /// The names of tensors whose gradient holds NaN or infinity.
    pub fn not_finite(&self) -> Vec<String> {
        let broken = |sum: &Tensor<2>| {
            let sum: f32 = sum.clone().abs().sum().into_scalar();
            !sum.is_finite()
        };
        self.sums.iter().filter(|(_, sum)| broken(sum)).map(|(name, _)| name.clone()).collect()
    }
}
