//! The one loop: objective, optimizer, schedule, checkpoints, evaluation, metrics.

pub mod artifact;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod evaluate;
pub mod event;
pub mod gradients;
pub mod memory;
mod metrics;
pub mod objective;
pub mod optimizer;
pub mod pace;
pub mod run;
pub mod self_test;
