//! Every refusal has its own words and its own next step.

use std::time::Duration;

use rankine_hub::{HubError, Kind};

use super::server::{STRANGER, Server, TOKEN, What};
use super::{Client, commit, model};

/// The error of a pull, and what to do about it.
fn refusal(server: &Server, token: Option<&str>, name: &str, revision: &str) -> (HubError, String, String) {
    let client = Client::new(server);
    let client = token.into_iter().fold(client, Client::with_token);
    let error = client.pull(&client.hub(), name, revision).unwrap_err();
    let (text, help) = (error.to_string(), error.help());
    (error, text, help)
}

fn server() -> Server {
    let server = Server::start();
    for name in ["models/org/m", "models/org/gated", "models/org/private", "datasets/org/d"] {
        commit(&server, name, &model());
    }
    server.state().repositories.get_mut("models/org/gated").unwrap().gated = true;
    server.state().repositories.get_mut("models/org/private").unwrap().private = true;
    server
}

#[test]
fn a_gated_repository_names_its_page() {
    let server = server();
    let page = format!("{}/org/gated", server.endpoint());
    let (error, _, help) = refusal(&server, None, "org/gated", "main");
    assert!(matches!(error, HubError::Gated { has_token: false, .. }), "{error}");
    assert!(help.contains(&page) && help.contains("export HF_TOKEN"), "{help}");
    let (error, _, help) = refusal(&server, Some(STRANGER), "org/gated", "main");
    assert!(matches!(error, HubError::Gated { has_token: true, .. }), "{error}");
    assert!(help.contains(&page) && help.contains("account of your token"), "{help}");
    let client = Client::new(&server).with_token(TOKEN);
    client.pull(&client.hub(), "org/gated", "main").unwrap();
}

#[test]
fn a_repository_that_is_missing_or_private() {
    let server = server();
    let (error, text, help) = refusal(&server, None, "org/private", "main");
    assert!(matches!(error, HubError::NoRepository { has_token: false, .. }), "{error}");
    assert!(text.contains("or it is private") && help.contains("needs a token"), "{text} {help}");
    let (error, text, _) = refusal(&server, Some(STRANGER), "org/nothing", "main");
    assert!(matches!(error, HubError::NoRepository { has_token: true, other_kind: None, .. }), "{error}");
    assert!(text.contains("your token may not see it"), "{text}");
    let (_, _, help) = refusal(&server, Some(TOKEN), "org/d", "main");
    assert!(help.contains("there is a dataset of that name"), "{help}");
    let client = Client::new(&server).with_token(TOKEN);
    client.pull(&client.hub(), "org/private", "main").unwrap();
}

#[test]
fn a_token_that_is_refused() {
    let server = server();
    let (error, text, _) = refusal(&server, Some("hf_wrong"), "org/m", "main");
    assert!(matches!(error, HubError::Unauthorised { .. }), "{error}");
    assert!(text.contains("refuses the token from HF_TOKEN: Invalid credentials"), "{text}");
    assert!(!text.contains("hf_wrong") && !format!("{error:?}").contains("hf_wrong"), "{text}");
}

#[test]
fn a_revision_that_is_missing_lists_those_that_are_there() {
    let server = server();
    server.commit_on("models/org/m", "v1.0", &[("config.json", b"{}")]);
    server.commit_on("models/org/m", "refs/convert/parquet", &[("config.json", b"{ }")]);
    let (error, text, help) = refusal(&server, None, "org/m", "v2");
    let all = ["main", "v1.0", "refs/convert/parquet"].map(str::to_owned);
    assert!(matches!(&error, HubError::NoRevision { available, .. } if *available == all), "{error}");
    assert!(text.contains("has no revision `v2`; it has `main`, `v1.0`") && help.contains("`main`"), "{text} {help}");
    let (error, _, _) = refusal(&server, None, "org/m", &"9".repeat(40));
    assert!(matches!(error, HubError::NoRevision { .. }), "{error}");
}

#[test]
fn too_many_requests_after_waiting() {
    let server = server();
    server.fault("/api/", 100, What::Status(429, vec![("RateLimit", "\"api\";r=0;t=120".into())]));
    let begun = std::time::Instant::now();
    let (error, text, help) = refusal(&server, None, "org/m", "main");
    let wait = Some(Duration::from_secs(120));
    assert!(matches!(error, HubError::RateLimited { wait: found, .. } if found == wait), "{error}");
    assert!(text.contains("wait 120 s") && help.contains("set a token"), "{text} {help}");
    assert!(begun.elapsed() < Duration::from_secs(5), "longer than anyone waits: told at once");
    server.state().faults.clear();
    server.fault("/resolve/", 100, What::Status(429, vec![]));
    let (error, _, help) = refusal(&server, Some(TOKEN), "org/m", "main");
    assert!(matches!(error, HubError::RateLimited { has_token: true, .. }), "{error}");
    assert!(help.contains("what is there already is kept"), "{help}");
}

#[test]
fn answers_that_are_none() {
    let server = server();
    server.fault("/tree/", 1, What::Cut(10));
    server.fault("/tree/", 100, What::Status(200, vec![]));
    let (error, text, _) = refusal(&server, None, "org/m", "main");
    assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
    assert!(text.contains("the list of its files"), "{text}");
    server.state().faults.clear();
    let client = Client::new(&server);
    let hub = client.hub();
    let tree = client.tree(&hub, Kind::Dataset, "org/d", "main").unwrap();
    server.fault("/resolve/", 100, What::Status(403, vec![("X-Error-Message", "blocked in your country".into())]));
    let error = hub.fetch(&tree, &["config.json".to_owned()], &|_| {}).unwrap_err();
    assert!(matches!(error, HubError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("blocked in your country"), "{error}");
}
