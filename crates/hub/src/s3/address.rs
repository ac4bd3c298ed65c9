//! `s3://bucket/prefix`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A folder in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Address {
    /// The bucket.
    pub bucket: String,
    /// The folder, without a slash at either end; empty for the bucket itself.
    pub prefix: String,
}

/// A text that is no address on S3.
#[derive(Debug, Error)]
#[error("`{given}` is no address on S3: {reason}")]
pub struct BadAddress {
    /// As it was given.
    pub given: String,
    /// Why not.
    pub reason: &'static str,
}

impl BadAddress {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        "give `s3://bucket/folder`"
    }
}

impl S3Address {
    /// Whether an address on S3 is meant, right or wrong.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("s3:")
    }

    /// The key of a file in the folder.
    pub fn key(&self, file: &str) -> String {
        if self.prefix.is_empty() { file.to_owned() } else { format!("{}/{file}", self.prefix) }
    }

    /// The folder as Bedrock and SageMaker want it: with a slash at the end.
    pub fn folder(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key(""))
    }
}

impl FromStr for S3Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |reason| BadAddress { given: text.to_owned(), reason };
        let rest = text.strip_prefix("s3://").ok_or_else(|| bad("it begins with `s3://`"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = |bytes: &[u8]| bytes.first().is_some_and(|b| plain(*b)) && bytes.last().is_some_and(|b| plain(*b));
        if !(3..=63).contains(&bucket.len()) {
            return Err(bad("the name of a bucket has 3 to 63 characters"));
        }
        if !bucket.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'.') || !ends(bucket.as_bytes()) {
            return Err(bad("the name of a bucket has small letters, digits, hyphens and dots"));
        }
        let prefix = prefix.trim_matches('/');
        let part = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !prefix.is_empty() && !prefix.split('/').all(part) {
            return Err(bad("a part of the folder is empty, `.` or `..`"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "s3://{}{slash}{}", self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let address: S3Address = "s3://my-bucket/models/tuned/".parse().unwrap();
        assert_eq!(address, S3Address { bucket: "my-bucket".into(), prefix: "models/tuned".into() });
        assert_eq!(address.to_string(), "s3://my-bucket/models/tuned");
        assert_eq!(address.folder(), "s3://my-bucket/models/tuned/");
        assert_eq!(address.key("config.json"), "models/tuned/config.json");
        let bare: S3Address = "s3://my.bucket".parse().unwrap();
        assert_eq!((bare.key("a"), bare.folder()), ("a".to_owned(), "s3://my.bucket/".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (text, reason) in [
            ("s3:/bucket/a", "begins with"),
            ("s3://", "3 to 63"),
            ("s3://My-Bucket/a", "small letters"),
            ("s3://bucket-/a", "small letters"),
            ("s3://bucket/a//b", "is empty"),
            ("s3://bucket/../b", "`..`"),
        ] {
            assert!(S3Address::is_meant(text));
            let error = text.parse::<S3Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
