//! The hub against a server of its own: what arrives, what is kept, what is said when it does not arrive.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../server/noise.rs"]
mod noise;
#[path = "../server/mod.rs"]
mod server;

mod cached;
mod refused;
mod transfers;
mod uploads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use noise::noise;
use rankine_hub::{Event, Hub, HubConfig, HubError, Kind, ModelPart, Patience, Repository, Token, Tree, model_files};
use server::Server;

/// Waits of tests.
const PATIENCE: Patience = Patience {
    tries: 4,
    first: Duration::from_millis(5),
    longest: Duration::from_secs(5),
    silence: Duration::from_secs(5),
    workers: 4,
};

/// A cache of its own, and the server.
struct Client {
    folder: tempfile::TempDir,
    config: HubConfig,
    told: Mutex<Vec<String>>,
}

impl Client {
    fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = HubConfig {
            cache: Some(folder.path().join("hub")),
            endpoint: server.endpoint(),
            patience: PATIENCE,
            ..HubConfig::default()
        };
        Self { folder, config, told: Mutex::default() }
    }

    fn with_token(mut self, token: &str) -> Self {
        self.config.token = Token::new(token, "HF_TOKEN");
        self
    }

    fn offline(&self) -> Hub {
        Hub::new(HubConfig { offline: true, ..self.config.clone() }).unwrap()
    }

    fn hub(&self) -> Hub {
        Hub::new(self.config.clone()).unwrap()
    }

    fn tell(&self, event: Event<'_>) {
        let text = match event {
            Event::Bytes { count, kept } => format!("bytes {count}{}", if kept { " kept" } else { "" }),
            event => format!("{event:?}"),
        };
        self.told.lock().unwrap().push(text);
    }

    /// The folder of a model at a revision.
    fn pull(&self, hub: &Hub, name: &str, revision: &str) -> Result<PathBuf, HubError> {
        let tree = self.tree(hub, Kind::Model, name, revision)?;
        let files = model_files(&tree, ModelPart::Whole)?;
        hub.fetch(&tree, &files, &|event| self.tell(event))
    }

    fn tree(&self, hub: &Hub, kind: Kind, name: &str, revision: &str) -> Result<Tree, HubError> {
        hub.tree(&Repository::new(kind, name).unwrap(), revision, &|event| self.tell(event))
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.folder.path().join("hub").join(name)
    }
}

/// A model of two shards and what lies beside them.
fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (".gitattributes", b"x".to_vec()),
        ("README.md", b"---\nlicense: mit\n---\n".to_vec()),
        ("additional_chat_templates/tool_use.jinja", b"{{ tools }}".to_vec()),
        ("config.json", b"{\"model_type\": \"llama\"}".to_vec()),
        ("model-00001-of-00002.safetensors", noise(3_000_000, 1)),
        ("model-00002-of-00002.safetensors", noise(1_234_567, 2)),
        ("model.safetensors.index.json", b"{}".to_vec()),
        ("pytorch_model.bin", noise(100, 3)),
        ("tokenizer.json", noise(300_000, 4)),
    ]
}

fn commit(server: &Server, name: &str, files: &[(&str, Vec<u8>)]) -> String {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
    server.commit(name, &files)
}

/// Every file of a folder with its content.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// What should be in the folder: everything but the pickle and git's own file.
fn expected(files: &[(&'static str, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    let wanted = files.iter().filter(|(path, _)| !path.ends_with(".bin") && !path.starts_with('.'));
    wanted.map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect()
}
