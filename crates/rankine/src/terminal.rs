//! Words on the terminal: data on stdout, progress on stderr.

pub(crate) mod numbers;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod training;
pub(crate) mod transfer;

use std::io::{self, Write};

use crate::fault::{Failure, Fault};

/// Writes data to stdout. A reader that closed the pipe has seen enough: that is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(Fault::new(format!("stdout cannot be written: {error}"))))
        }
        _ => Ok(()),
    }
}

/// Writes one line to stderr; there is nobody to tell where that fails.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
