//! From config.json and safetensors to a model with adapters, and text out of it.

pub mod adapter_file;
pub mod attach;
pub mod companions;
pub mod config;
pub mod drift;
pub mod families;
pub mod generate;
pub mod model;
pub mod sampling;
pub mod text_stream;
pub mod weights;
