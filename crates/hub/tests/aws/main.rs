//! S3 and Bedrock against servers of our own: what arrives, what is kept, what is said when it does not arrive.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../server/amazon.rs"]
mod amazon;
#[path = "../server/bedrock.rs"]
mod bedrock;
#[path = "../server/noise.rs"]
mod noise;
#[path = "../server/s3.rs"]
mod s3;
#[allow(dead_code, reason = "the Hub's tests use the rest")]
#[path = "../server/wire.rs"]
mod wire;

mod imports;
mod refused;
mod uploads;

use std::sync::Mutex;
use std::time::Duration;

use noise::noise;
use rankine_hub::{Aws, AwsConfig, AwsEndpoints, AwsKeys, Event, Existing, Patience, S3Address, S3Upload};

/// Waits of tests.
const PATIENCE: Patience = Patience {
    tries: 4,
    first: Duration::from_millis(5),
    longest: Duration::from_millis(50),
    silence: Duration::from_secs(5),
    workers: 3,
};

/// Bytes of a part.
const PART: u64 = 100_000;

/// An account with these keys, that asks these servers.
fn config(key: &str, endpoint: String) -> AwsConfig {
    let session = key.starts_with("ASIA").then(|| "session".to_owned());
    AwsConfig {
        keys: Some(AwsKeys { id: key.to_owned(), secret: "secret".to_owned(), session }),
        region: Some("us-east-1".to_owned()),
        endpoints: AwsEndpoints {
            s3: Some(endpoint.clone()),
            bedrock: Some(endpoint.clone()),
            bedrock_runtime: Some(endpoint),
        },
        patience: PATIENCE,
        ..AwsConfig::default()
    }
}

fn account(key: &str, endpoint: String) -> Aws {
    Aws::new(config(key, endpoint)).unwrap()
}

/// A folder to send.
struct Folder {
    folder: tempfile::TempDir,
    files: Vec<String>,
    to: S3Address,
}

impl Folder {
    /// An export: a file of four parts, one of three that ends with a part, and small ones.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("config.json", b"{\"architectures\": [\"LlamaForCausalLM\"]}".to_vec()),
            ("empty.txt", Vec::new()),
            ("model-00001-of-00002.safetensors", noise(345_678, 1)),
            ("model-00002-of-00002.safetensors", noise(300_000, 2)),
            ("tokenizer.json", noise(100_000, 3)),
        ];
        for (name, bytes) in &files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let files = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { folder, files, to: "s3://models/tuned/smol".parse().unwrap() }
    }

    fn upload(&self, existing: Existing) -> S3Upload<'_> {
        S3Upload { folder: self.folder.path(), files: &self.files, to: &self.to, existing, part_size: PART }
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|name| self.read(name).len() as u64).sum()
    }
}

/// What an upload told.
#[derive(Default)]
struct Told {
    sum: Mutex<i64>,
    retried: Mutex<Vec<String>>,
}

impl Told {
    fn hear(&self, event: Event<'_>) {
        match event {
            Event::Bytes { count, .. } => *self.sum.lock().unwrap() += i64::try_from(count).unwrap(),
            Event::Again(count) => *self.sum.lock().unwrap() -= i64::try_from(count).unwrap(),
            Event::Retrying { reason } => self.retried.lock().unwrap().push(reason.to_owned()),
            _ => {}
        }
    }
}
