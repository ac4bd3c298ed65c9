//! A folder becomes objects, whatever happens on the way, and nothing else is touched.

use std::collections::BTreeMap;

use rankine_hub::{AwsError, Existing, MARKER, UploadState};

use super::amazon::{Amazon, KEY, What};
use super::s3::S3;
use super::{Folder, Told, account, noise};

fn server() -> Amazon<S3> {
    Amazon::start(S3::with("models", "us-east-1"))
}

/// The folder's objects but the marker, and what the marker says.
#[track_caller]
fn arrived(server: &Amazon<S3>) -> (BTreeMap<String, Vec<u8>>, serde_json::Value) {
    let mut objects = server.state().service.folder("models", "tuned/smol/");
    let marker = objects.remove(MARKER).expect("a marker");
    (objects, serde_json::from_slice(&marker).unwrap())
}

#[track_caller]
fn assert_whole(server: &Amazon<S3>, folder: &Folder) {
    let (objects, marker) = arrived(server);
    let expected: BTreeMap<String, Vec<u8>> =
        folder.files.iter().map(|name| (name.clone(), folder.read(name))).collect();
    assert_eq!(objects.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(objects == expected, "contents differ");
    assert_eq!(marker["state"], "whole");
    assert_eq!(marker["files"].as_object().unwrap().len(), folder.files.len());
    assert!(server.state().service.uploads.is_empty(), "parts are left");
}

#[test]
fn what_is_sent_arrives_once() {
    let (server, folder, told) = (server(), Folder::new(), Told::default());
    let aws = account(KEY, server.endpoint());
    let sent = aws.upload(&folder.upload(Existing::Refuse), &|event| told.hear(event)).unwrap();
    assert_eq!((sent.files, sent.bytes, sent.kept), (5, folder.bytes(), 0));
    assert_whole(&server, &folder);
    assert_eq!(*told.sum.lock().unwrap(), i64::try_from(folder.bytes()).unwrap());
    let parts = |name: &str| server.state().service.buckets["models"].objects[&format!("tuned/smol/{name}")].parts;
    assert_eq!(parts("model-00001-of-00002.safetensors"), 4);
    assert_eq!(parts("model-00002-of-00002.safetensors"), 3);
    assert_eq!(parts("tokenizer.json"), 1);
    // The marker is the first and the last thing that is written.
    let written: Vec<String> =
        server.requests("").into_iter().filter(|line| line.starts_with("PUT") || line.starts_with("POST")).collect();
    assert!(written[0].contains(MARKER) && written[written.len() - 1].contains(MARKER), "{written:?}");
    assert_eq!(aws.upload_state(&folder.to).unwrap(), UploadState::Whole { files: 5, bytes: folder.bytes() });
    // Again: nothing is sent.
    server.requests("");
    let again = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    assert_eq!(again.kept, 5);
    assert!(server.requests("").iter().all(|line| line.starts_with("GET")));
}

#[test]
fn an_upload_outlasts_a_bad_connection() {
    for (line, what) in [
        ("partNumber=2", What::Status(500, "InternalError")),
        ("partNumber=2", What::Status(503, "SlowDown")),
        ("partNumber=", What::Hang),
        ("partNumber=3", What::Lost),
        ("tokenizer.json", What::Lost),
        ("uploads=", What::Hang),
        ("?uploadId=", What::Hang),
        ("?uploadId=", What::Lost),
        ("?uploadId=", What::ErrorInside),
        ("GET /models", What::Status(503, "SlowDown")),
        (MARKER, What::Hang),
    ] {
        let (server, folder, told) = (server(), Folder::new(), Told::default());
        server.fault(line, 3, what);
        let aws = account(KEY, server.endpoint());
        let sent = aws.upload(&folder.upload(Existing::Refuse), &|event| told.hear(event));
        sent.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_whole(&server, &folder);
        assert_eq!(server.state().faults[0].times, 0, "{line} happened");
        assert_eq!(*told.sum.lock().unwrap(), i64::try_from(folder.bytes()).unwrap(), "{line}");
        if line.starts_with("partNumber") {
            assert_eq!(told.retried.lock().unwrap().len(), 3, "{line}");
        }
    }
}

#[test]
fn half_an_upload_is_seen_and_goes_on() {
    let (server, folder) = (server(), Folder::new());
    let aws = account(KEY, server.endpoint());
    server.fault("model-00002-of-00002.safetensors?partNumber=2", 4, What::Status(503, "SlowDown"));
    let error = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap_err();
    assert!(matches!(error, AwsError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("sending part 2 of s3://models/tuned/smol/model-00002"), "{error}");
    assert!(server.state().service.uploads.is_empty(), "parts are thrown away");
    let (objects, marker) = arrived(&server);
    assert_eq!(marker["state"], "sending");
    assert!(objects.len() < folder.files.len());
    let error = aws.upload_state(&folder.to).unwrap_err();
    assert!(matches!(error, AwsError::Unfinished { .. }), "{error}");
    assert!(error.to_string().contains("model-00002-of-00002.safetensors` is missing"), "{error}");
    // The export was made again, and differs in a file that had been sent: it is ours to replace.
    folder.write("config.json", b"{\"architectures\": []}");
    server.requests("");
    let sent = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    assert!(sent.kept > 0);
    assert_whole(&server, &folder);
}

#[test]
fn other_objects_are_not_written_over() {
    let (server, mut folder) = (server(), Folder::new());
    let aws = account(KEY, server.endpoint());
    aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    let before = server.state().service.folder("models", "");
    folder.write("config.json", b"{}");
    let mut weights = folder.read("model-00002-of-00002.safetensors");
    weights[150_000] ^= 1;
    folder.write("model-00002-of-00002.safetensors", &weights);
    server.requests("");
    let error = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap_err();
    let AwsError::Different { files, .. } = &error else { panic!("{error}") };
    assert_eq!(files, &["config.json", "model-00002-of-00002.safetensors"]);
    assert!(error.help().contains("--force"));
    assert!(server.requests("").iter().all(|line| line.starts_with("GET")), "nothing was written");
    assert!(server.state().service.folder("models", "") == before);
    // Asked to, it writes over these two alone, and leaves what is not part of it.
    folder.files.retain(|name| name != "empty.txt");
    let sent = aws.upload(&folder.upload(Existing::Replace), &|_| {}).unwrap();
    assert_eq!((sent.kept, sent.others), (2, vec!["empty.txt".to_owned()]));
    let (mut objects, _) = arrived(&server);
    objects.remove("empty.txt");
    assert!(objects.iter().all(|(name, bytes)| *bytes == folder.read(name)));
}

#[test]
fn what_arrives_is_compared() {
    // S3's hash is none that can be computed here: the bytes are read back.
    let (encrypted, folder) = (server(), Folder::new());
    encrypted.state().service.kms = true;
    let aws = account(KEY, encrypted.endpoint());
    let sent = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    assert_eq!(sent.read_back, folder.files);
    assert_whole(&encrypted, &folder);
    assert_eq!(aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap().kept, 5);
    // A byte that was changed where no checksum saw it.
    for kms in [false, true] {
        let server = server();
        server.state().service.kms = kms;
        server.fault("PUT /models/tuned/smol/tokenizer.json", 1, What::Damage);
        let aws = account(KEY, server.endpoint());
        let error = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap_err();
        assert!(matches!(error, AwsError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("tuned/smol/tokenizer.json"), "{error}");
        assert_eq!(arrived(&server).1["state"], "sending");
        // And the same command sends it again.
        server.state().faults.clear();
        aws.upload(&folder.upload(Existing::Replace), &|_| {}).unwrap();
        assert_whole(&server, &folder);
    }
}

#[test]
fn long_listings_and_the_whole_bucket() {
    let (server, mut folder) = (server(), Folder::new());
    server.state().service.page = 2;
    let aws = account(KEY, server.endpoint());
    aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    assert_eq!(aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap().kept, 5);
    folder.to = "s3://models".parse().unwrap();
    folder.write("config.json", &noise(10, 5));
    let sent = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    assert_eq!((sent.kept, sent.others.len()), (0, 0), "folders in it are not its files");
    assert_eq!(server.state().service.folder("models", "config.json")[""], noise(10, 5));
    // A folder of other tools, whole or not.
    server.state().service.buckets.get_mut("models").unwrap().objects.remove(MARKER);
    assert_eq!(aws.upload_state(&folder.to).unwrap(), UploadState::Unmarked);
}
