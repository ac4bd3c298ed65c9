//! With the features: an export that goes to a bucket, and a model that is imported and asked.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::amazon::{Amazon, Caller, EXPIRED, KEY, Service, State, What};
use crate::bedrock::{Bedrock, MODEL};
use crate::cli::{Run, command, ended, rankine};
use crate::resume::workplace;
use crate::s3::{Object, S3};
use crate::wire::{Request, Response};

/// The program with keys, and this server for all of Amazon.
fn with_keys(folder: &Path, arguments: &[&str], key: &str, endpoint: &str) -> Run {
    let mut command: Command = command(folder, arguments);
    command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", "secret").env("AWS_REGION", "us-east-1");
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", folder);
    for name in ["AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"] {
        command.env_remove(name);
    }
    if key == EXPIRED {
        command.env("AWS_SESSION_TOKEN", "session");
    }
    ended(command, "")
}

#[test]
fn an_export_goes_to_a_bucket_and_nothing_of_it_stays() {
    let place = workplace();
    let here = place.path();
    let train = ["train", "recipe.yaml", "--quiet", "--set", "max_steps=2", "--set", "output_dir=run"];
    rankine(here, &train).ends(0);
    let server = Amazon::start(S3::with("models", "us-east-1"));
    server.fault("PUT", 1, What::Status(503, "SlowDown"));
    let export = ["export", "--run", "run", "--target", "bedrock", "--out", "s3://models/tuned/tickets"];
    let run = with_keys(here, &export, KEY, &server.endpoint());
    run.ends(0).says("stay out of the bucket");
    assert!(run.stdout.starts_with("s3://models/tuned/tickets: "), "{}", run.stdout);
    rankine(here, &["export", "--run", "run", "--target", "bedrock", "--out", "out/tickets"]).ends(0);
    let mut sent = server.state().service.folder("models", "tuned/tickets/");
    assert!(sent.remove("rankine-upload.json").is_some());
    assert!(sent.contains_key("model.safetensors") && sent.contains_key("config.json"), "{:?}", sent.keys());
    for (name, bytes) in &sent {
        assert!(*bytes == std::fs::read(here.join("out/tickets").join(name)).unwrap(), "{name}");
    }
    let left = std::fs::read_dir(here.join(".cache/exports")).unwrap().count();
    assert_eq!(left, 0, "the local folder is removed");
    // Again, as JSON: all is there.
    let again = with_keys(here, &[&export[..], &["--json"]].concat(), KEY, &server.endpoint());
    let report: Value = serde_json::from_str(&again.ends(0).stdout).unwrap();
    assert_eq!(report["out"], "s3://models/tuned/tickets");
    assert_eq!(report["s3"]["kept"], report["s3"]["files"]);
    // Refused before anything is made.
    let expired = with_keys(here, &export, EXPIRED, &server.endpoint());
    expired.ends(2).says("the credentials have expired").says("aws sso login");
    let other =
        ["export", "--run", "run", "--target", "merged", "--dtype", "bf16", "--out", "s3://models/tuned/tickets"];
    let refused = with_keys(here, &other, KEY, &server.endpoint());
    refused.ends(2).says("holds other files of the same names").says("--force");
    with_keys(here, &[&other[..], &["--force"]].concat(), KEY, &server.endpoint()).ends(0);
}

#[test]
fn an_export_that_loses_its_connection_is_seen_as_half_and_goes_on() {
    let place = workplace();
    let here = place.path();
    let train = ["train", "recipe.yaml", "--quiet", "--set", "max_steps=2", "--set", "output_dir=run"];
    rankine(here, &train).ends(0);
    let adapter = std::fs::read(here.join("run/adapter/adapter_model.safetensors")).unwrap();
    let server = Amazon::start(S3::with("models", "us-east-1"));
    let export = ["export", "--run", "run", "--target", "bedrock", "--out", "s3://models/tuned/tickets"];
    let import = ["bedrock", "import", "s3://models/tuned/tickets", "--role", "arn:aws:iam::111122223333:role/import"];
    server.fault("/model.safetensors", 100, What::Hang);
    with_keys(here, &export, KEY, &server.endpoint()).ends(1).says("model.safetensors");
    let state = |server: &Amazon<S3>| -> Value {
        let files = server.state().service.folder("models", "tuned/tickets/");
        serde_json::from_slice(&files["rankine-upload.json"]).unwrap()
    };
    assert_eq!(state(&server)["state"], "sending");
    assert!(!server.state().service.folder("models", "tuned/tickets/").contains_key("model.safetensors"));
    with_keys(here, &import, KEY, &server.endpoint()).ends(2).says("was not finished");
    assert_eq!(std::fs::read_dir(here.join(".cache/exports")).unwrap().count(), 0, "nothing stays here either");
    server.state().faults.clear();
    with_keys(here, &export, KEY, &server.endpoint()).ends(0);
    assert_eq!(state(&server)["state"], "whole");
    assert!(std::fs::read(here.join("run/adapter/adapter_model.safetensors")).unwrap() == adapter);
}

#[test]
fn a_model_is_imported_and_asked() {
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let role = "arn:aws:iam::111122223333:role/import";
    let server = Amazon::start(Both {
        s3: S3::with("models", "us-east-1"),
        bedrock: Bedrock { polls: 1, ..Bedrock::default() },
    });
    let ask = |arguments: &[&str]| with_keys(here, arguments, KEY, &server.endpoint());
    let import = ["bedrock", "import", "s3://models/tuned/smol.v2", "--role", role];
    ask(&import).ends(2).says("was not finished: there is nothing");
    let object = Object { bytes: std::sync::Arc::new(b"{}".to_vec()), etag: "e".into(), parts: 1 };
    let bucket = |state: &mut State<Both>| {
        let bucket = state.service.s3.buckets.get_mut("models").unwrap();
        bucket.objects.insert("tuned/smol.v2/config.json".to_owned(), object.clone());
    };
    bucket(&mut server.state());
    let run = ask(&import);
    run.ends(0).says("was not uploaded by rankine").says("in progress").says("completed");
    assert_eq!(run.stdout, format!("{MODEL}\n"));
    let job = server.state().service.bedrock.jobs[0].request.clone();
    assert_eq!(job["importedModelName"], "smol-v2");
    assert_eq!(job["roleArn"], role);
    let name = job["jobName"].as_str().unwrap().to_owned();
    let status = ask(&["bedrock", "status", &name, "--json"]);
    let status: Value = serde_json::from_str(&status.ends(0).stdout).unwrap();
    assert_eq!((&status["status"], &status["model"]), (&json!("Completed"), &json!(MODEL)));
    let answer =
        ask(&["bedrock", "invoke", MODEL, "--message", "Where?", "--system", "Be short.", "--temperature", "0"]);
    assert_eq!(answer.ends(0).stdout, " Paris.\n");
    let messages = json!([{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where?"}]);
    let asked = json!({"messages": messages, "max_tokens": 256, "temperature": 0.0});
    assert_eq!(server.state().service.bedrock.asked, [asked]);
    // The next one fails.
    server.state().service.bedrock.failure = Some("Model architecture GemmaForCausalLM is not supported");
    let failed = ask(&import);
    failed
        .ends(1)
        .says("GemmaForCausalLM is not supported")
        .says("likely: Bedrock has no server for this architecture");
    ask(&["bedrock", "status", "other"]).ends(2).says("there is no such thing in us-east-1");
    ask(&["bedrock", "import", "out/dir", "--role", role]).ends(2).says("is no folder on S3").says("rankine push");
}

/// One address for both services.
struct Both {
    s3: S3,
    bedrock: Bedrock,
}

impl Service for Both {
    const NAME: &'static str = "";

    fn answer(&mut self, request: &Request, caller: &Caller) -> Response {
        if request.path.starts_with("/model") && !request.path.starts_with("/models") {
            self.bedrock.answer(request, caller)
        } else {
            self.s3.answer(request, caller)
        }
    }

    fn error(status: u16, code: &str, message: &str) -> Response {
        S3::error(status, code, message)
    }
}
