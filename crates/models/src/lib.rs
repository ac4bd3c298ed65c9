//! From config.json and safetensors, or one GGUF file, to a model with adapters, and text out of it.

pub mod adapter_file;
pub mod attach;
pub mod companions;
pub mod config;
pub mod drift;
pub mod families;
pub mod generate;
pub mod gguf;
pub mod model;
pub mod sampling;
pub mod text_stream;
pub mod weights;
