//! Numbers against transformers and peft: the goldens under `tests/golden/`.

mod export;
mod golden;
mod models;
mod quantised;
mod training;
