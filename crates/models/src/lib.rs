//! From config.json and safetensors to a model with adapters, and text out of it.
