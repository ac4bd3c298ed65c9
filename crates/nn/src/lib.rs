//! Layers, and a Linear whose adapter is a field.

pub mod lora;
