//! One file a command: from arguments to the crates that do the work, and back to the terminal.

pub mod bedrock;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod check;
pub mod data;
pub mod devices;
pub mod eval;
pub mod export;
pub mod generate;
pub mod init;
pub mod merge;
mod open;
pub mod plan;
pub mod pull;
pub mod push;
pub mod schema;
mod tokenizer;
pub mod train;
