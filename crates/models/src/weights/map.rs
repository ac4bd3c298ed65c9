//! The one place where a file is mapped.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use memmap2::Mmap;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(crate) struct FileMap(Mmap);

impl FileMap {
    #[allow(unsafe_code)]
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes are only ever read, and as plain integers. The file must not be cut short by someone else
        // while it is mapped: reading past its new end would raise SIGBUS. Model files are not edited in place (ours
        // are written aside and renamed), and no other way of reading them spares the copy.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// Tells the system that `range` has been read, so that it no longer counts as this process's memory.
    #[allow(unsafe_code)]
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is read-only and backed by the file, so a dropped page holds nothing of its own: the
            // next read brings the same bytes back.
            let advice =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            // Advice that the system does not take changes nothing.
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
