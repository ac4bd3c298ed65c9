//! Layers, and a Linear whose adapter is a field.
//!
//! Shapes use the letters of `rankine-ops`. Field names are those of Hugging Face checkpoints, so that a
//! parameter's path is its name in the file.

pub mod cache;
pub mod decoder_layer;
pub mod embedding;
pub mod linear;
pub mod lora;
pub mod norm;
pub mod parameter;
pub mod target;
