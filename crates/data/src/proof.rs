//! Data that is proven before it trains: checks that stop a run, statistics, and what the model sees of a record.
//!
//! The checks look at tokens and at what was [remarked](crate::Remark) while they were made, never at the records
//! again: they cost next to nothing where the tokens come from the cache.

mod check;
mod checks;
mod held_out;
mod statistics;
mod view;

pub use check::Check;
pub use checks::{Finding, Proof, ProofConfig, ProofInput, prove};
pub use held_out::HeldOut;
pub use statistics::{Bar, Duplicates, Fill, Lengths, SetStatistics, fill};
pub use view::{RecordView, TokenView, ViewedExample, view};
