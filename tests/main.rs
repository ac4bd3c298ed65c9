//! The one test binary of the program: its numbers, its runs, its words, and the house's rules.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod bad_input;
mod cli;
mod export;
mod house;
mod hub;
#[path = "../crates/hub/tests/server/mod.rs"]
mod hub_server;
mod numerics;
mod quickstart;
mod resume;
mod runs;
