//! A folder becomes a commit, and the commit becomes the folder again.

use rankine_hub::{HubError, Kind, Repository, Upload, Visibility};

use super::server::{STRANGER, Server, TOKEN, What};
use super::{Client, contents, noise};

fn adapter() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in [
        ("README.md", b"---\nlicense: mit\n---\n# card\n".to_vec()),
        ("adapter_config.json", b"{\"r\": 8}".to_vec()),
        ("adapter_model.safetensors", noise(1_300_000, 11)),
        ("tokenizer.json", noise(200_000, 12)),
    ] {
        std::fs::write(folder.path().join(path), bytes).unwrap();
    }
    folder
}

fn upload<'a>(folder: &'a tempfile::TempDir, files: &'a [String], visibility: Visibility) -> Upload<'a> {
    Upload { folder: folder.path(), files, message: "an adapter", visibility }
}

#[test]
fn what_is_pushed_is_pulled() {
    for part in [None, Some(500_000)] {
        let server = Server::start();
        server.state().part = part;
        let client = Client::new(&server).with_token(TOKEN);
        let hub = client.hub();
        let folder = adapter();
        let files: Vec<String> = contents(folder.path()).into_keys().collect();
        let repository = Repository::new(Kind::Model, "tester/adapter").unwrap();
        server.fault("/upload/", 1, What::Status(503, vec![]));
        server.fault("/commit/", 1, What::Status(500, vec![]));
        let pushed = hub.push(&repository, &upload(&folder, &files, Visibility::Private), &|event| client.tell(event));
        let pushed = pushed.unwrap();
        assert!(pushed.created);
        assert_eq!(pushed.page, format!("{}/tester/adapter", server.endpoint()));
        assert!(server.state().repositories["models/tester/adapter"].private);
        assert!(server.requests("/upload/").iter().all(|seen| seen.token.is_none()), "signed addresses carry no token");
        let parts = if part.is_some() { 3 + 1 + 1 } else { 1 + 1 };
        assert_eq!(server.requests("/upload/").len(), parts);
        let pulled = client.pull(&hub, "tester/adapter", &pushed.commit).unwrap();
        assert_eq!(contents(&pulled), contents(folder.path()));
        // Again: the repository is there, and so is the large file.
        server.forget_requests();
        let again = hub.push(&repository, &upload(&folder, &files, Visibility::Private), &|_| {}).unwrap();
        assert!(!again.created);
        assert_eq!(server.requests("/upload/").len(), 0);
    }
}

#[test]
fn who_may_not_push() {
    let server = Server::start();
    let folder = adapter();
    let files = ["README.md".to_owned()];
    let repository = Repository::new(Kind::Model, "org/adapter").unwrap();
    let push = |client: Client| {
        let upload = upload(&folder, &files, Visibility::Public);
        client.hub().push(&repository, &upload, &|_| {}).unwrap_err()
    };
    let error = push(Client::new(&server));
    assert!(matches!(error, HubError::NeedsToken { .. }), "{error}");
    assert_eq!(server.requests("/").len(), 0, "nothing is asked without a token");
    let error = push(Client::new(&server).with_token(STRANGER));
    assert!(matches!(error, HubError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("don't have the rights"), "{error}");
    let mut client = Client::new(&server).with_token(TOKEN);
    client.config.offline = true;
    let error = push(client);
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(server.state().repositories.is_empty());
    let client = Client::new(&server).with_token(TOKEN);
    let missing = ["gone.txt".to_owned()];
    let error = client.hub().push(&repository, &upload(&folder, &missing, Visibility::Public), &|_| {}).unwrap_err();
    assert!(matches!(error, HubError::Io { .. }), "{error}");
    assert!(server.state().repositories.is_empty(), "files are looked at first");
}
