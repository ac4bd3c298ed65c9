//! What the cache answers: offline, when the Hub is down, and after Python was there.

use rankine_hub::{Event, Hub, HubConfig, HubError, NoConnection, list_cache};

use super::server::{Server, What};
use super::{Client, commit, contents, expected, model};

#[test]
fn offline_works_from_the_cache_and_says_what_is_missing() {
    let server = Server::start();
    let hash = commit(&server, "models/org/m", &model());
    let client = Client::new(&server);
    let error = client.pull(&client.offline(), "org/m", "main").unwrap_err();
    assert!(matches!(error, HubError::NotCached { why: NoConnection::Offline, .. }), "{error}");
    assert!(error.help().contains("rankine pull org/m"), "{}", error.help());
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    server.forget_requests();
    for revision in ["main", &hash] {
        assert_eq!(client.pull(&client.offline(), "org/m", revision).unwrap(), folder);
    }
    std::fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    let error = client.pull(&client.offline(), "org/m", "main").unwrap_err();
    let missing = ["model-00002-of-00002.safetensors".to_owned()];
    assert!(matches!(&error, HubError::Incomplete { missing: found, .. } if *found == missing), "{error}");
    let error = client.pull(&client.offline(), "org/m", "v2").unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
    assert_eq!(server.requests("/").len(), 0, "offline asks nothing");
    // With a connection the file is linked again: its content is still there.
    assert_eq!(contents(&client.pull(&client.hub(), "org/m", "main").unwrap()), expected(&model()));
    assert_eq!(server.requests("/lfs/").len(), 0);
}

#[test]
fn a_hub_that_is_down_is_answered_for_by_the_cache_and_a_refusal_is_not() {
    let server = Server::start();
    let hash = commit(&server, "models/org/m", &model());
    let client = Client::new(&server);
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    server.fault("/revision/", 100, What::Status(503, vec![]));
    assert_eq!(client.pull(&client.hub(), "org/m", "main").unwrap(), folder);
    let told = client.told.lock().unwrap().iter().any(|told| told.starts_with("FromCache") && told.contains(&hash));
    assert!(told, "the person is told");
    // Nobody listens there at all.
    let unplugged = Hub::new(HubConfig { endpoint: "http://127.0.0.1:9".into(), ..client.config.clone() }).unwrap();
    assert_eq!(client.pull(&unplugged, "org/m", "main").unwrap(), folder);
    let error = client.pull(&unplugged, "org/other", "main").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    server.state().faults.clear();
    server.state().repositories.clear();
    let error = client.pull(&client.hub(), "org/m", "main").unwrap_err();
    assert!(matches!(error, HubError::NoRepository { .. }), "{error}");
}

#[test]
fn a_branch_that_moved_is_followed_and_shares_what_stayed() {
    let server = Server::start();
    let mut files = model();
    let old = commit(&server, "models/org/m", &files);
    let client = Client::new(&server);
    let old_folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    files[3].1 = b"{\"model_type\": \"qwen2\"}".to_vec();
    let new = commit(&server, "models/org/m", &files);
    server.forget_requests();
    let new_folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(contents(&new_folder), expected(&files));
    assert_eq!(contents(&old_folder), expected(&model()), "the old commit stays");
    let fetched: Vec<String> = server.requests("/resolve/").into_iter().map(|seen| seen.path).collect();
    assert_eq!(fetched, [format!("/org/m/resolve/{new}/config.json")]);
    let listed = list_cache(client.config.cache.as_ref().unwrap()).unwrap();
    let bytes: usize = expected(&files).values().map(Vec::len).sum();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].bytes as usize, bytes + model()[3].1.len());
    let revisions: Vec<_> = listed[0].commits.iter().map(|at| (at.commit.clone(), at.revisions.len())).collect();
    let mut wanted = vec![(old, 0), (new, 1)];
    wanted.sort();
    assert_eq!(revisions, wanted);
}

#[test]
fn a_cache_that_python_filled_needs_no_listing() {
    let server = Server::start();
    let client = Client::new(&server);
    let hash = "8".repeat(40);
    let repository = client.repository("models--org--m");
    let snapshot = repository.join("snapshots").join(&hash);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), &hash).unwrap();
    for (path, bytes) in expected(&model()) {
        std::fs::create_dir_all(snapshot.join(&path).parent().unwrap()).unwrap();
        std::fs::write(snapshot.join(path), bytes).unwrap();
    }
    assert_eq!(client.pull(&client.offline(), "org/m", "main").unwrap(), snapshot);
    assert_eq!(client.pull(&client.offline(), "org/m", &hash).unwrap(), snapshot);
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let server = Server::start();
    commit(&server, "models/org/m", &model());
    server.state().speed = Some(6_000_000);
    let client = Client::new(&server);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
                assert_eq!(contents(&folder), expected(&model()));
            });
        }
    });
    assert_eq!(server.requests("/lfs/").len(), 2, "two shards");
    let waited = client.told.lock().unwrap().iter().any(|told| told.starts_with("Locked"));
    assert!(waited, "the others waited");
    let _ = Event::End;
}
