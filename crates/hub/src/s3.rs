//! A folder becomes the objects under one prefix of a bucket.
//!
//! Files go up in parts, several at a time. Before the first and after the last of them a small object says so
//! ([`MARKER`]), so that half an upload is never taken for a whole one, and the next try goes on where it ended.

mod address;
#[cfg(feature = "s3")]
mod local;
#[cfg(feature = "s3")]
mod marker;
#[cfg(feature = "s3")]
mod store;
#[cfg(feature = "s3")]
mod upload;

pub use address::{BadAddress, S3Address};
#[cfg(feature = "s3")]
pub use marker::MARKER;
#[cfg(feature = "s3")]
pub use upload::{Existing, PART_SIZE, S3Upload, S3Uploaded, UploadState};
