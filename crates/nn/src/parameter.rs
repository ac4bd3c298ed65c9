//! Tensors with a checkpoint name: frozen on the plain device, or trained as leaves of the graph.

use burn::tensor::Tensor;

/// A weight. The frozen base stays on the plain device, outside the graph, and so costs no graph and no gradient.
#[derive(Debug, Clone)]
pub enum Parameter<const D: usize> {
    /// Never changes.
    Frozen(Tensor<D>),
    /// A leaf of the graph, in f32.
    Trained(Tensor<D>),
}

impl<const D: usize> Parameter<D> {
    /// A leaf of the graph that starts from `value`.
    pub fn trained(value: Tensor<D>) -> Self {
        Self::Trained(value.inner().autodiff().require_grad())
    }

    /// The tensor as the pass needs it: in training a trained weight is a leaf, in inference nothing is tracked.
    pub fn value(&self, pass: &Pass) -> Tensor<D> {
        match (self, pass) {
            (Self::Trained(tensor), Pass::Train(_)) | (Self::Frozen(tensor), _) => tensor.clone(),
            (Self::Trained(tensor), Pass::Infer) => tensor.clone().inner(),
        }
    }

    /// The tensor outside the graph.
    pub fn plain(&self) -> Tensor<D> {
        match self {
            Self::Frozen(tensor) => tensor.clone(),
            Self::Trained(tensor) => tensor.clone().inner(),
        }
    }

    /// Whether the optimizer moves it.
    pub fn is_trained(&self) -> bool {
        matches!(self, Self::Trained(_))
    }
}

/// A parameter of either rank, as a walk over a model's parameters meets it.
#[derive(Debug)]
pub enum ParameterMut<'a> {
    /// A norm's weight, a bias, a magnitude.
    Vector(&'a mut Parameter<1>),
    /// A matrix.
    Matrix(&'a mut Parameter<2>),
}

impl ParameterMut<'_> {
    /// Whether the optimizer moves it.
    pub fn is_trained(&self) -> bool {
        match self {
            Self::Vector(parameter) => parameter.is_trained(),
            Self::Matrix(parameter) => parameter.is_trained(),
        }
    }
}

/// What a forward pass is for.
#[derive(Debug)]
pub enum Pass {
    /// No graph, no dropout.
    Infer,
    /// Gradients, with dropout and embedding noise drawn from here.
    Train(Noise),
}

/// The random numbers of one micro-batch, drawn in the order of the forward pass.
///
/// They are made on the host from (seed, step, micro-batch), so that a resumed run draws the same ones, and every
/// device draws the same ones.
#[derive(Debug)]
pub struct Noise {
    rng: Box<rand_chacha::ChaCha8Rng>,
}

impl Noise {
    /// The stream of one micro-batch of one step.
    pub fn new(seed: u64, step: usize, micro_batch: usize) -> Self {
        use rand::SeedableRng;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(((step as u64) << 20) | micro_batch as u64);
        Self { rng: Box::new(rng) }
    }

    /// `x` with a share of its elements zeroed and the rest scaled by `1 / (1 - share)`.
    pub fn dropout<const D: usize>(&mut self, x: Tensor<D>, share: f64) -> Tensor<D> {
        use rand::RngCore;
        if share <= 0.0 {
            return x;
        }
        let mut bytes = vec![0u8; 2 * x.shape().num_elements()];
        self.rng.fill_bytes(&mut bytes);
        let threshold = (share * 65536.0).round() as u32;
        let kept = (1.0 / (1.0 - share)) as f32;
        let mask: Vec<f32> = bytes
            .chunks_exact(2)
            .map(|pair| if u32::from(u16::from_le_bytes([pair[0], pair[1]])) < threshold { 0.0 } else { kept })
            .collect();
        let mask = burn::tensor::TensorData::new(mask, x.dims());
        let device = x.device().inner();
        x * Tensor::from_data(mask, &device)
    }

    /// Numbers drawn evenly from `-bound..bound`.
    pub fn uniform(&mut self, count: usize, bound: f32) -> Vec<f32> {
        use rand::Rng;
        (0..count).map(|_| self.rng.random_range(-bound..bound)).collect()
    }
}

/// Calls `f` on each parameter under its checkpoint name.
pub trait Parameters {
    /// Walks in a fixed order; `prefix` ends without a dot.
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>));
}
