//! Model weights on the host: safetensors and GGUF read by mapping, safetensors written tensor by tensor. No device, no
//! graph.
//!
//! What is read may come from anywhere, so nothing in a file is believed before it is checked against the file's
//! length; what is written appears under its final name only when it is whole.

mod dtype;
mod fault;
mod file;
mod folder;
mod part;
mod write;

pub(crate) use dtype::decode_chunk;
pub use dtype::{StoredDtype, decode_into, encode};
pub use fault::{FileFault, FileProblem, WeightsError};
pub use file::{StoredTensor, TensorFile};
pub use folder::{INDEX_FILE, SINGLE_FILE, WeightFiles};
pub use part::{sync_folder, write_aside};
pub use write::{DEFAULT_MAX_SHARD_BYTES, PlannedTensor, TensorSink, WeightWriter, write_safetensors, write_tensors};
pub(crate) use write::{Framed, write_framed};
