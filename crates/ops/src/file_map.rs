//! The one place where a file is mapped.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub struct FileMap(Mmap);

impl FileMap {
    /// Maps `file`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes are only ever read, and as plain numbers. The file must not be cut short by someone else
        // while it is mapped: reading past its new end would raise SIGBUS. Model files are not edited in place (ours
        // are written aside and renamed), and no other way of reading them spares the copy.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// Tells the system that `range` will be read soon, so that it is brought from the disk while something else is
    /// computed. Nothing counts as this process's memory before it is read.
    pub fn prefetch(&self, range: Range<usize>) {
        // Advice that the system does not take changes nothing.
        #[cfg(unix)]
        let _ = self.0.advise_range(Advice::WillNeed, range.start, range.len());
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Tells the system that `range` has been read, so that it no longer counts as this process's memory.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is read-only and backed by the file, so a dropped page holds nothing of its own: the
            // next read brings the same bytes back.
            let advice = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // As above.
            let _ = advice;
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
