//! Transfers that go well, break off, stall, and arrive damaged: the files are the same, or there are none.

use std::time::Duration;

use rankine_hub::{Event, HubError, Kind, dataset_files};

use super::server::{Server, TOKEN, What, sha256};
use super::{Client, PATIENCE, commit, contents, expected, model, noise};

#[test]
fn a_model_comes_whole_and_without_its_pickles() {
    let server = Server::start();
    let hash = commit(&server, "models/org/m", &model());
    let client = Client::new(&server).with_token(TOKEN);
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(contents(&folder), expected(&model()));
    assert_eq!(folder, client.repository("models--org--m").join("snapshots").join(&hash));
    // Python's layout.
    let repository = client.repository("models--org--m");
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), hash);
    let blob = repository.join("blobs").join(sha256(&model()[4].1));
    assert_eq!(std::fs::read(&blob).unwrap(), model()[4].1);
    #[cfg(unix)]
    assert_eq!(std::fs::read_link(folder.join("config.json")).unwrap().parent(), Some("../../blobs".as_ref()));
    // The content's host never saw the token, the Hub did.
    assert!(server.requests("/lfs/").iter().all(|seen| seen.token.is_none()));
    assert!(server.requests("/api/").iter().all(|seen| seen.token.as_deref() == Some(TOKEN)));
    // The second time: one question, what `main` is now.
    server.forget_requests();
    client.pull(&client.hub(), "org/m", "main").unwrap();
    let asked: Vec<String> = server.requests("/").into_iter().map(|seen| seen.path).collect();
    assert_eq!(asked, ["/api/models/org/m/revision/main"]);
    // And none at all for a commit.
    server.forget_requests();
    client.pull(&client.hub(), "org/m", &hash).unwrap();
    assert_eq!(server.requests("/").len(), 0);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_ended() {
    let server = Server::start();
    commit(&server, "models/org/m", &model());
    server.state().cut_every = Some(500_000);
    let client = Client::new(&server);
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(contents(&folder), expected(&model()));
    let first = sha256(&model()[4].1);
    let mut ranges: Vec<_> = server.requests(&first).into_iter().map(|seen| seen.range).collect();
    ranges.remove(0);
    let expected: Vec<_> = (1..6).map(|part| Some(format!("bytes={}-", part * 500_000))).collect();
    assert_eq!(ranges, expected, "nothing is asked for twice");
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let server = Server::start();
    let file = noise(900_000, 9);
    commit(&server, "models/org/m", &[("config.json", b"{}".to_vec()), ("model.safetensors", file.clone())]);
    server.fault("/lfs/", 1, What::Cut(400_000));
    server.fault("/lfs/", 1, What::NoRange);
    let client = Client::new(&server);
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), file);
    assert!(client.told.lock().unwrap().contains(&format!("{:?}", Event::Again(400_000))));
}

#[test]
fn a_damaged_file_never_gets_its_name() {
    let server = Server::start();
    let file = noise(700_000, 5);
    commit(&server, "models/org/m", &[("config.json", b"{}".to_vec()), ("model.safetensors", file.clone())]);
    // Small files are checked as well, by git's hash.
    for path in ["/lfs/", "/config.json"] {
        server.fault(path, 1, What::Corrupt);
        let client = Client::new(&server);
        let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), file, "fetched again");
        assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{}");
        server.fault(path, 2, What::Corrupt);
        let client = Client::new(&server);
        let error = client.pull(&client.hub(), "org/m", "main").unwrap_err();
        assert!(matches!(error, HubError::Damaged { .. }), "{error}");
        let left = contents(&client.repository("models--org--m"));
        let damaged: Vec<_> = left.keys().filter(|name| name.ends_with(".incomplete")).collect();
        assert!(damaged.is_empty(), "{damaged:?}");
        for (name, bytes) in left.iter().filter(|(name, _)| name.starts_with("blobs/") && name.len() > 60) {
            assert_eq!(name, &format!("blobs/{}", sha256(bytes)));
        }
    }
}

#[test]
fn what_an_earlier_run_left_is_used_only_if_it_is_right() {
    let server = Server::start();
    let file = noise(600_000, 6);
    commit(&server, "models/org/m", &[("config.json", b"{}".to_vec()), ("model.safetensors", file.clone())]);
    let hash = sha256(&file);
    for (left, first_range) in [
        (file[..250_000].to_vec(), Some("bytes=250000-")),
        // Whole, but not renamed.
        (file.clone(), None),
        // Of another file: only the hash tells.
        (noise(250_000, 7), Some("bytes=250000-")),
        // Longer than the file.
        (noise(700_000, 8), None),
    ] {
        let client = Client::new(&server);
        let blobs = client.repository("models--org--m/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{hash}.incomplete")), &left).unwrap();
        server.forget_requests();
        let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), file);
        let asked = server.requests("/lfs/");
        assert_eq!(asked.first().and_then(|seen| seen.range.as_deref()), first_range);
        assert_eq!(asked.is_empty(), left == file);
    }
}

#[test]
fn passing_faults_are_waited_for_and_lasting_ones_told() {
    let server = Server::start();
    commit(&server, "models/org/m", &model());
    let client = Client::new(&server);
    server.fault("/revision/", 1, What::Status(503, vec![]));
    server.fault("/revision/", 1, What::Hang);
    server.fault("/tree/", 1, What::Status(429, vec![("Retry-After", "1".into())]));
    server.fault("/tree/", 1, What::Status(502, vec![]));
    server.fault("/resolve/", 2, What::Status(500, vec![]));
    server.fault("/lfs/", 1, What::Cut(0));
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(contents(&folder), expected(&model()));
    let waits = client.told.lock().unwrap().iter().filter(|told| told.starts_with("Waiting")).count();
    assert_eq!(waits, 7);
    let asked_to_wait = "wait: 1s";
    assert!(client.told.lock().unwrap().iter().any(|told| told.contains(asked_to_wait)));
    // A server that stays down.
    server.fault("/revision/", 100, What::Status(503, vec![]));
    let client = Client::new(&server);
    let error = client.pull(&client.hub(), "org/m", "main").unwrap_err();
    assert!(matches!(error, HubError::Server { status: 503, .. }), "{error}");
}

#[test]
fn a_silent_connection_is_broken() {
    let server = Server::start();
    let file = noise(600_000, 6);
    commit(&server, "models/org/m", &[("config.json", b"{}".to_vec()), ("model.safetensors", file.clone())]);
    server.fault("/lfs/", 1, What::Silent(100_000, Duration::from_secs(20)));
    let mut client = Client::new(&server);
    client.config.patience.silence = Duration::from_millis(300);
    let begun = std::time::Instant::now();
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), file);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_slow_connection_is_not() {
    let server = Server::start();
    let file = noise(200_000, 6);
    commit(&server, "models/org/m", &[("config.json", b"{}".to_vec()), ("model.safetensors", file.clone())]);
    server.state().speed = Some(200_000);
    let mut client = Client::new(&server);
    client.config.patience.silence = Duration::from_millis(400);
    let begun = std::time::Instant::now();
    let folder = client.pull(&client.hub(), "org/m", "main").unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), file);
    assert!(begun.elapsed() > client.config.patience.silence, "longer than a silence may be");
}

#[test]
fn files_come_several_at_a_time() {
    let server = Server::start();
    let files: Vec<(&str, Vec<u8>)> = model().into_iter().filter(|(path, _)| path.starts_with("model-")).collect();
    commit(&server, "models/org/m", &[files, vec![("model.safetensors.index.json", b"{}".to_vec())]].concat());
    let time = |workers| {
        server.state().speed = Some(4_000_000);
        let mut client = Client::new(&server);
        client.config.patience.workers = workers;
        let begun = std::time::Instant::now();
        client.pull(&client.hub(), "org/m", "main").unwrap();
        begun.elapsed().as_secs_f64()
    };
    let (one, four) = (time(1), time(4));
    assert!(four < 0.9 * one, "{one:.2} s one after the other, {four:.2} s side by side");
}

#[test]
fn a_listing_of_many_pages_and_a_dataset_at_a_ref() {
    let server = Server::start();
    server.state().page = 2;
    let names: Vec<String> = (0..7).map(|n| format!("default/train/{n:04}.parquet")).collect();
    let bytes: Vec<Vec<u8>> = (0..7).map(|n| noise(1000 + n, n as u64)).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(bytes.iter().map(Vec::as_slice)).collect();
    server.commit("datasets/org/d", &[("README.md", b"card"), ("load.py", b"no")]);
    let hash = server.commit_on("datasets/org/d", "refs/convert/parquet", &files);
    let client = Client::new(&server);
    let hub = client.hub();
    let tree = client.tree(&hub, Kind::Dataset, "org/d", "refs/convert/parquet").unwrap();
    assert_eq!((tree.files.len(), tree.commit.as_str()), (7, hash.as_str()));
    // A chosen part.
    let folder = hub.fetch(&tree, &names[2..4], &|event| client.tell(event)).unwrap();
    assert_eq!(contents(&folder).into_keys().collect::<Vec<_>>(), names[2..4]);
    // Offline the rest is known to be missing, by name.
    let offline = client.offline();
    let tree = client.tree(&offline, Kind::Dataset, "org/d", "refs/convert/parquet").unwrap();
    offline.fetch(&tree, &names[2..4], &|_| {}).unwrap();
    let error = offline.fetch(&tree, &dataset_files(&tree), &|_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Incomplete { missing, .. } if missing.len() == 5), "{error}");
    let unknown = hub.fetch(&tree, &["nothing.parquet".to_owned()], &|_| {}).unwrap_err();
    assert!(matches!(unknown, HubError::NoFile { .. }), "{unknown}");
}

#[test]
fn what_is_told_adds_up() {
    let server = Server::start();
    commit(&server, "models/org/m", &model());
    server.state().cut_every = Some(1_000_000);
    let client = Client::new(&server);
    client.pull(&client.hub(), "org/m", "main").unwrap();
    let told = client.told.lock().unwrap().clone();
    let all: usize = expected(&model()).values().map(Vec::len).sum();
    let begin = format!("{:?}", Event::Begin { files: 7, bytes: all as u64 });
    assert!(told.contains(&begin), "{begin} is not in {told:?}");
    let counts = told.iter().filter_map(|told| told.strip_prefix("bytes ")?.split(' ').next()?.parse::<usize>().ok());
    assert_eq!(counts.sum::<usize>(), all);
    assert_eq!(PATIENCE.tries, 4);
}
