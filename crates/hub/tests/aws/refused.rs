//! Each refusal says what to do next.

use rankine_hub::{Aws, AwsConfig, AwsError, AwsKeys, Existing, Proxy};

use super::amazon::{Amazon, EXPIRED, KEY, STRANGER, What};
use super::s3::S3;
use super::{Folder, account, config};

fn server() -> Amazon<S3> {
    Amazon::start(S3::with("models", "us-east-1"))
}

/// The message and the next step of an upload that is refused, and that changes nothing.
#[track_caller]
fn refusal(server: &Amazon<S3>, aws: &Aws, to: &str) -> (AwsError, String) {
    let mut folder = Folder::new();
    folder.to = to.parse().unwrap();
    let error = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap_err();
    assert!(server.state().service.buckets.values().all(|bucket| bucket.objects.is_empty()));
    let text = format!("{error} / {}", error.help());
    (error, text)
}

#[test]
fn every_refusal_has_its_next_step() {
    let server = server();
    let ask = |key: &str, to: &str| refusal(&server, &account(key, server.endpoint()), to);
    let (error, text) = ask(KEY, "s3://nowhere/a");
    assert!(matches!(error, AwsError::NoBucket { .. }), "{text}");
    assert!(text.contains("no bucket `nowhere`") && text.contains("aws s3 mb s3://nowhere"), "{text}");
    let (error, text) = ask(STRANGER, "s3://models/a");
    assert!(matches!(error, AwsError::Denied { .. }), "{text}");
    assert!(text.contains("listing s3://models/a") && text.contains("is not authorized"), "{text}");
    assert!(text.contains("s3:PutObject"), "{text}");
    let (error, text) = ask(EXPIRED, "s3://models/a");
    assert!(matches!(error, AwsError::Expired { .. }), "{text}");
    assert!(text.contains("aws sso login"), "{text}");
    let (error, text) = ask("AKIAUNKNOWN", "s3://models/a");
    assert!(matches!(error, AwsError::BadKeys { .. }), "{text}");
    let mut elsewhere = config(KEY, server.endpoint());
    elsewhere.region = Some("eu-west-1".to_owned());
    let (error, text) = refusal(&server, &Aws::new(elsewhere).unwrap(), "s3://models/a");
    assert!(matches!(error, AwsError::WrongRegion { .. }), "{text}");
    assert!(text.contains("is in region `us-east-1`, and region `eu-west-1`"), "{text}");
    assert!(text.contains("AWS_REGION=us-east-1"), "{text}");
    // Who may list and not write is told before gigabytes are sent.
    server.fault("PUT", 1, What::Status(403, "AccessDenied"));
    let (error, text) = ask(KEY, "s3://models/a");
    assert!(matches!(error, AwsError::Denied { .. }), "{text}");
    server.fault("GET", 1, What::Status(301, "PermanentRedirect"));
    let (_, text) = ask(KEY, "s3://models/a");
    assert!(text.contains("in another region") && text.contains("get-bucket-location"), "{text}");
    server.fault("GET", 9, What::Hang);
    let (error, text) = ask(KEY, "s3://models/a");
    assert!(matches!(error, AwsError::Unreachable { .. }) && error.is_outside(), "{text}");
    assert!(text.contains(&server.endpoint()), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let server = server();
    let mut folder = Folder::new();
    folder.files.push("gone.safetensors".to_owned());
    let error = account(KEY, server.endpoint()).upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap_err();
    assert!(matches!(error, AwsError::Io { .. }), "{error}");
    assert!(error.to_string().contains("gone.safetensors"), "{error}");
    assert!(server.state().service.buckets["models"].objects.is_empty());
}

#[test]
fn keys_come_from_where_amazons_own_tools_find_them() {
    let server = server();
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let from_files = |profile: Option<&str>| AwsConfig {
        keys: None,
        region: None,
        profile: profile.map(str::to_owned),
        config_file: write(
            "config",
            "[default]\nregion = us-east-1\n[profile sso]\nregion = us-east-1\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n\
             [sso-session s]\nsso_start_url = https://s.example\nsso_region = us-east-1\n\
             [profile process]\nregion = us-east-1\ncredential_process = echo '{\"Version\": 1, \"AccessKeyId\": \"AKIATEST\", \"SecretAccessKey\": \"s\"}'\n",
        ),
        credentials_file: write(
            "credentials",
            "[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = secret\n[keyless]\nregion = us-east-1\n",
        ),
        ..config(KEY, server.endpoint())
    };
    let folder = Folder::new();
    for profile in [None, Some("default"), Some("process")] {
        let aws = Aws::new(from_files(profile)).unwrap();
        assert_eq!(aws.region(), "us-east-1");
        aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap();
    }
    // Keys that are given outright come first.
    let keys = Some(AwsKeys { id: "AKIAUNKNOWN".to_owned(), secret: "s".to_owned(), session: None });
    let aws = Aws::new(AwsConfig { keys, ..from_files(None) }).unwrap();
    let error = aws.upload(&folder.upload(Existing::Refuse), &|_| {}).unwrap_err();
    assert!(matches!(error, AwsError::BadKeys { .. }), "{error}");
    let refused = |config: AwsConfig| {
        let error = Aws::new(config).and_then(|aws| aws.upload(&folder.upload(Existing::Refuse), &|_| {})).unwrap_err();
        format!("{error} / {}", error.help())
    };
    let text = refused(from_files(Some("sso")));
    assert!(text.contains("single sign-on of profile `sso`") && text.contains("aws sso login --profile sso"), "{text}");
    let text = refused(AwsConfig { region: Some("us-east-1".to_owned()), ..from_files(Some("keyless")) });
    assert!(text.contains("profile `keyless`"), "{text}");
    let nothing = AwsConfig { keys: None, ..config(KEY, server.endpoint()) };
    let text = refused(nothing.clone());
    assert!(text.contains("no AWS credentials") && text.contains("aws configure"), "{text}");
    let text = refused(AwsConfig { region: None, ..nothing });
    assert!(text.contains("no AWS region") && text.contains("AWS_REGION"), "{text}");
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let mut wrong = config(KEY, "localhost:9000".to_owned());
    let error = Aws::new(wrong.clone()).unwrap_err();
    assert!(error.to_string().starts_with("AWS_ENDPOINT_URL_S3 is localhost:9000"), "{error}");
    wrong = config(KEY, "http://localhost:9000".to_owned());
    wrong.proxy = Some(Proxy { url: "::".to_owned(), except: None });
    let error = Aws::new(wrong.clone()).unwrap_err();
    assert!(error.to_string().starts_with("HTTPS_PROXY is ::"), "{error}");
    let shown = format!("{wrong:?}");
    assert!(shown.contains(KEY) && !shown.contains("secret\""), "{shown}");
}
