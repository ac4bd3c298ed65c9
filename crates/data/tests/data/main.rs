//! The crate from the outside: goldens of transformers, labels, files, loading and bad input.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod bad_input;
mod fixtures;
mod hostile;
mod labels;
mod loading;
mod masks;
mod platforms;
mod prefix_spaces;
mod proof;
mod properties;
mod reading;
mod stored;
mod streaming;
mod templates;
mod tokenizers;
mod trl;
