//! GGUF files, as llama.cpp writes them: one file with the weights, the model's shape, its tokenizer and its template.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing here computes with a model: a file is
//! read as what a folder with `config.json`, `tokenizer.json` and safetensors would hold, and everything above reads
//! that. Weights are dequantised when they are asked for, a block of rows at a time. `describe`, `vocabulary`, `quantize` and
//! `write` go the other way, each beside what reads it.

mod adapter;
mod config;
mod cursor;
mod dequantize;
mod describe;
mod fault;
mod find;
mod ggml_type;
mod header;
mod merges;
mod metadata;
mod names;
mod pieces;
mod pre_tokenizer;
mod quantize;
mod small_files;
mod spaces;
mod tensors;
mod tokenizer;
mod vocabulary;
mod write;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod test_file;

pub use adapter::{GgufAdapter, GgufUpdate, LORA_A, LORA_B, read_adapter};
pub use describe::{describe, rope_factors};
pub use fault::{GgufError, GgufProblem};
pub use find::{GgufFiles, find};
pub use ggml_type::GgmlType;
pub use names::gguf_name;
pub use quantize::quantize;
pub use small_files::SmallFiles;
pub use spaces::SpacePrefix;
pub use tensors::interleave_rows;
pub use vocabulary::{VocabularyFiles, vocabulary};
pub use write::{GgufMetadata, GgufTensor, GgufValue, write_gguf};

pub(crate) use header::Header;
pub(crate) use tensors::{Layout, Packed, Packing, TensorPlace, places};
