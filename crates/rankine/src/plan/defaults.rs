//! What runs where a recipe says nothing. The recipe's schema shows these same values.

use rankine_nn::lora::AdapterKind;
use rankine_train::config::OptimizerKind;

/// Records stay in sequences of their own.
pub const PACKING: bool = false;
/// One answer in a hundred may be cut.
pub const MAX_TRUNCATED_SHARE: f64 = 0.01;
/// A new order each epoch.
pub const SHUFFLE: bool = true;
/// Each record is seen once.
pub const EPOCHS: f64 = 1.0;
/// Sequences a pass: small enough for a billion parameters on a common GPU.
pub const MICRO_BATCH_SIZE: usize = 2;
/// Passes a step: 16 sequences with [`MICRO_BATCH_SIZE`].
pub const GRADIENT_ACCUMULATION_STEPS: usize = 8;
/// Longest sequence where the model allows it.
pub const MAX_SEQ_LEN: usize = 2048;
/// Share of warm-up.
pub const WARMUP_RATIO: f64 = 0.03;
/// Decoupled weight decay.
pub const WEIGHT_DECAY: f64 = 0.01;
/// Norm to which gradients are scaled down.
pub const MAX_GRAD_NORM: f64 = 1.0;
/// Decides every random choice.
pub const SEED: u64 = 42;
/// Checkpoints that are kept.
pub const SAVE_TOTAL_LIMIT: usize = 3;
/// A run starts anew.
pub const RESUME: bool = false;

/// Peak learning rate: adapters start at 0 and bear more than a whole model.
pub fn learning_rate(adapter: AdapterKind) -> f64 {
    match adapter {
        AdapterKind::Lora | AdapterKind::Dora => 2e-4,
        AdapterKind::Full => 2e-5,
    }
}

/// Decay of the two moments.
pub fn betas(optimizer: OptimizerKind) -> [f64; 2] {
    match optimizer {
        OptimizerKind::Lion => [0.9, 0.99],
        OptimizerKind::Adafactor => [0.0, 0.999],
        OptimizerKind::Adamw | OptimizerKind::Sgd => [0.9, 0.999],
    }
}

/// What AdamW adds to its denominator.
pub const EPS: f64 = 1e-8;
/// `streaming`.
pub const STREAMING: bool = false;
/// `shuffle_buffer`.
pub const SHUFFLE_BUFFER: usize = 10_000;
