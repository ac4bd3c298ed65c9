//! What a transfer tells while it goes.

use std::time::Duration;

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// So many files with so many bytes in all are to be transferred.
    Begin {
        /// Files.
        files: usize,
        /// Bytes of these, what an earlier try left included.
        bytes: u64,
    },
    /// So many more bytes are there, from the network or from an earlier try.
    Bytes {
        /// How many.
        count: u64,
        /// Whether they were there already.
        kept: bool,
    },
    /// So many bytes are transferred anew: what was there was damaged.
    Again(u64),
    /// It goes on after a pause.
    Waiting {
        /// Why.
        reason: &'a str,
        /// How long.
        wait: Duration,
    },
    /// A request failed, and is made again after a pause.
    Retrying {
        /// Why.
        reason: &'a str,
    },
    /// The cache answers instead of the Hub.
    FromCache {
        /// Why.
        reason: &'a str,
        /// The commit in the cache.
        commit: &'a str,
    },
    /// Another program is at the same file, and is waited for.
    Locked {
        /// The file.
        file: &'a str,
    },
    /// All is there.
    End,
}

/// Told of every event, from several threads.
pub type Telling<'a> = dyn Fn(Event<'_>) + Sync + 'a;
