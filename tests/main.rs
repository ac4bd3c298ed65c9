//! The one test binary of the program: its numbers, its runs, its words, and the house's rules.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[cfg(all(feature = "s3", feature = "aws"))]
#[allow(dead_code, reason = "the hub's own tests use the rest")]
#[path = "../crates/hub/tests/server/amazon.rs"]
mod amazon;
mod bad_input;
#[cfg(all(feature = "s3", feature = "aws"))]
#[allow(dead_code, reason = "the hub's own tests use the rest")]
#[path = "../crates/hub/tests/server/bedrock.rs"]
mod bedrock;
mod cli;
mod export;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
mod gpu;
mod house;
mod hub;
#[path = "../crates/hub/tests/server/mod.rs"]
mod hub_server;
mod numerics;
mod quickstart;
mod remote;
mod resume;
mod runs;
#[cfg(all(feature = "s3", feature = "aws"))]
#[allow(dead_code, reason = "the hub's own tests use the rest")]
#[path = "../crates/hub/tests/server/s3.rs"]
mod s3;

#[cfg(all(feature = "s3", feature = "aws"))]
use hub_server::wire;
