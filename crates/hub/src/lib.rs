//! A model or dataset reference becomes local files at one revision, and a local folder becomes a repository.
//!
//! A reference is a local folder or a repository on the Hugging Face Hub. What is fetched lies in the Hugging Face
//! cache, in Python's layout: what `hf download` fetched is found, and the reverse. Files are never looked into.
//!
//! Without the feature `hub` there is no connection to it, and the cache is all there is.
//!
//! With the feature `s3`, a local folder becomes objects in a bucket; with `aws`, Bedrock imports them as a model and
//! answers with it.

#[cfg(feature = "hub")]
mod api;
#[cfg(feature = "credentials")]
mod aws;
#[cfg(feature = "aws")]
mod bedrock;
mod cache;
mod config;
#[cfg(feature = "hub")]
mod download;
mod error;
#[cfg(feature = "hub")]
mod http;
mod hub;
mod progress;
mod reference;
mod s3;
mod select;
mod tree;
#[cfg(feature = "hub")]
mod upload;

#[cfg(feature = "credentials")]
pub use aws::{Aws, AwsError};
#[cfg(feature = "aws")]
pub use bedrock::{ImportJob, ImportRequest, ImportStatus, LikelyCause, Polling, job_name_of, likely_cause};
pub use cache::{CachedCommit, CachedRepository, list_cache};
pub use config::{AwsConfig, AwsEndpoints, AwsKeys, DEFAULT_ENDPOINT, HubConfig, Patience, Proxy, Token};
pub use error::{HubError, NoConnection};
pub use hub::Hub;
pub use progress::{Event, Telling};
pub use reference::{DEFAULT_REVISION, Kind, Reference, Repository, is_commit, split_revision};
pub use s3::{BadAddress, S3Address};
#[cfg(feature = "s3")]
pub use s3::{Existing, MARKER, PART_SIZE, S3Upload, S3Uploaded, UploadState};
pub use select::{ModelPart, dataset_files, has_data, matching_files, model_files};
pub use tree::{ContentHash, RemoteFile, Tree};
#[cfg(feature = "hub")]
pub use upload::{Pushed, Upload, Visibility};
