//! The files of a folder, and what S3 will say of them once it has them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::aws::AwsError;

/// S3 takes at most 10,000 parts.
const MOST_PARTS: u64 = 9_000;

/// A file that is sent.
#[derive(Debug)]
pub(super) struct LocalFile {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) part_size: u64,
    pub(super) content: Content,
}

/// What is in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) sha256: String,
    /// The MD5 of the whole, or the MD5 of the parts' MD5s and their count; S3's own unless a key of KMS encrypts.
    pub(super) etag: String,
}

impl LocalFile {
    /// Reads it once.
    pub(super) fn read(folder: &Path, name: &str, part_size: u64) -> Result<Self, AwsError> {
        let path = folder.join(name);
        let mut file = File::open(&path).map_err(AwsError::io(&path, "open"))?;
        let size = file.metadata().map_err(AwsError::io(&path, "read"))?.len();
        let part_size = part_size.max(size.div_ceil(MOST_PARTS));
        let (mut whole, mut parts, mut count) = (Sha256::new(), Vec::new(), 0_u64);
        let mut buffer = vec![0; usize::try_from(part_size.min(size)).unwrap_or(usize::MAX)];
        let mut done = 0;
        while done < size {
            let length = part_size.min(size - done);
            let piece = &mut buffer[..usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact(piece).map_err(AwsError::io(&path, "read"))?;
            whole.update(&*piece);
            parts.extend_from_slice(&Md5::digest(&*piece));
            count += 1;
            done += length;
        }
        let etag = match count {
            0 => hex(&Md5::digest([])),
            1 => hex(&parts),
            _ => format!("{}-{count}", hex(&Md5::digest(&parts))),
        };
        let content = Content { size, sha256: hex(&whole.finalize()), etag };
        Ok(Self { name: name.to_owned(), path, part_size, content })
    }

    /// How many parts it has; 1 is sent as a whole.
    pub(super) fn parts(&self) -> u64 {
        self.content.size.div_ceil(self.part_size).max(1)
    }

    /// The bytes of a part.
    pub(super) fn part(&self, number: u64) -> Result<Vec<u8>, AwsError> {
        let Range { start, end } = number * self.part_size..((number + 1) * self.part_size).min(self.content.size);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        let mut file = File::open(&self.path).map_err(AwsError::io(&self.path, "open"))?;
        file.seek(SeekFrom::Start(start)).map_err(AwsError::io(&self.path, "read"))?;
        file.read_exact(&mut bytes).map_err(AwsError::io(&self.path, "read"))?;
        Ok(bytes)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_is_that_of_s3() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), b"abcdefghij").unwrap();
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        let whole = LocalFile::read(folder.path(), "a", 10).unwrap();
        // md5sum
        assert_eq!(whole.content.etag, "a925576942e94b2ef57a066101b48876");
        assert_eq!(whole.parts(), 1);
        let parts = LocalFile::read(folder.path(), "a", 4).unwrap();
        // (printf abcd | openssl md5 -binary; printf efgh | openssl md5 -binary; printf ij | openssl md5 -binary) | md5sum
        assert_eq!(parts.content.etag, "446feba4c1b5cc7ad93bf4d44a0e36ac-3");
        assert_eq!(parts.content.sha256, whole.content.sha256);
        assert_eq!((parts.parts(), parts.part(2).unwrap()), (3, b"ij".to_vec()));
        let empty = LocalFile::read(folder.path(), "empty", 4).unwrap();
        assert_eq!((empty.content.etag.as_str(), empty.parts()), ("d41d8cd98f00b204e9800998ecf8427e", 1));
        assert!(empty.part(0).unwrap().is_empty());
    }
}
