//! A model or dataset reference becomes local files at one revision, and a local folder becomes a repository.
//!
//! A reference is a local folder or a repository on the Hugging Face Hub. What is fetched lies in the Hugging Face
//! cache, in Python's layout: what `hf download` fetched is found, and the reverse. Files are never looked into.
//!
//! Without the feature `hub` there is no connection, and the cache is all there is.

#[cfg(feature = "hub")]
mod api;
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
mod select;
mod tree;
#[cfg(feature = "hub")]
mod upload;

pub use cache::{CachedCommit, CachedRepository, list_cache};
pub use config::{DEFAULT_ENDPOINT, HubConfig, Patience, Proxy, Token};
pub use error::{HubError, NoConnection};
pub use hub::Hub;
pub use progress::{Event, Telling};
pub use reference::{DEFAULT_REVISION, Kind, Reference, Repository, is_commit, split_revision};
pub use select::{ModelPart, dataset_files, has_data, matching_files, model_files};
pub use tree::{ContentHash, RemoteFile, Tree};
#[cfg(feature = "hub")]
pub use upload::{Pushed, Upload, Visibility};
