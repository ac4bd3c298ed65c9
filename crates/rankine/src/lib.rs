//! rankine
