//! A model or dataset reference becomes local files at one revision.
