//! Records, chat templates, tokenising, masks, packing and batches on the host.
//!
//! ```text
//! DatasetConfig --Records--> Record --tokenize_stored--> Examples --Loader--> GlobalBatch
//! ```
//!
//! Files become [`Record`]s that know their file and line; [`TextTokenizer`] and its [`ChatTemplate`] make
//! [`Example`]s of them, token ids with labels; [`Loader`] gives these in a seeded order, packed or padded, and
//! goes on from any [`Cursor`]. There are no tensors here. Whatever the size of the data, a few thousand records of
//! it are in memory at a time; [`read_dataset`] and [`tokenize`] are for data that is known to be small.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail"))]

mod arrow_rows;
mod batch;
mod byte_bpe;
mod card;
mod convert;
mod dataset;
mod error;
mod example;
mod examples;
mod files;
mod glob;
mod labels;
mod loader;
mod messages;
mod model_files;
mod order;
mod output;
mod packing;
mod parquet_file;
mod part;
pub mod platform;
pub mod proof;
mod reader;
mod record;
mod records;
mod remark;
mod repository;
mod slice;
mod spans;
mod special;
mod split;
mod store;
mod stream;
mod template;
mod tokenizer;
mod words;

pub use batch::Batch;
pub use dataset::{DatasetConfig, FieldNames, RecordType, read_dataset};
pub use error::{DataError, Fault, Faults};
pub use example::{Example, IGNORED, TokenizeConfig, TokenizeReport, Tokenized, TrainOn, tokenize};
pub use examples::Examples;
pub use loader::{Cursor, EpochPlan, GlobalBatch, Loader, LoaderConfig, StreamPlace};
pub use model_files::TokenizerFiles;
pub use output::{write_new, write_over};
pub use part::{Part, PartCounts, PartTokens};
pub use record::{Content, Dataset, Record, RecordSource};
pub use records::{RecordReader, Records};
pub use remark::{Remark, RemarkKind};
pub use repository::{CONVERTED_REVISION, RepositoryData, repository_data};
pub use split::{ValSize, split_validation};
pub use store::{StoredExamples, tokenize_records, tokenize_stored};
pub use stream::StreamSource;
pub use template::{ChatTemplate, Rendered, TemplateError};
pub use tokenizer::{Encoded, SpecialTokens, TextTokenizer};
