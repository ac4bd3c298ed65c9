//! The one loop: objective, optimizer, schedule, checkpoints, evaluation, metrics.

pub mod config;
