//! Numbers against transformers and peft: the goldens under `tests/golden/`.

mod export;
pub(crate) mod golden;
mod models;
mod quantised;
pub(crate) mod training;
