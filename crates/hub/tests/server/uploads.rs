//! What comes in: new repositories, large files, commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::answers::visible;
use super::wire::{Request, Response};
use super::{Repository, State, TOKEN, is_large, sha256};

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

/// Whether this account may write.
fn refused(account: Option<&str>) -> Option<Response> {
    match account {
        Some(TOKEN) => None,
        Some(_) => Some(Response::error(403, "", "You don't have the rights to write here")),
        None => Some(Response::error(401, "", "Invalid username or password.")),
    }
}

pub(super) fn create(request: &Request, state: &mut State, port: u16, account: Option<&str>) -> Response {
    if let Some(refusal) = refused(account) {
        return refusal;
    }
    let asked = body(request);
    let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
    let kind = if text("type") == "dataset" { "datasets" } else { "models" };
    let owner = Some(text("organization")).filter(|owner| !owner.is_empty()).unwrap_or_else(|| "tester".into());
    let id = format!("{owner}/{}", text("name"));
    let name = format!("{kind}/{id}");
    if state.repositories.contains_key(&name) {
        return Response::error(409, "", "You already created this model repo");
    }
    let private = asked["private"].as_bool().unwrap_or(false);
    state.repositories.insert(name.clone(), Repository { private, ..Repository::default() });
    state.commit(
        &name,
        "main",
        BTreeMap::from([(".gitattributes".to_owned(), Arc::new(b"*.safetensors filter=lfs\n".to_vec()))]),
    );
    Response::json(&json!({"url": format!("http://127.0.0.1:{port}/{id}"), "name": id, "id": "0"}))
}

pub(super) fn preupload(
    request: &Request,
    state: &State,
    name: &str,
    revision: &str,
    account: Option<&str>,
) -> Response {
    if let Some(refusal) = refused(account) {
        return refusal;
    }
    match visible(state, name, account) {
        Err(refusal) => return refusal,
        Ok(repository) if repository.at(revision).is_none() => {
            return Response::error(404, "RevisionNotFound", "Invalid rev id");
        }
        Ok(_) => {}
    }
    let files = body(request)["files"].as_array().cloned().unwrap_or_default();
    let files: Vec<Value> = files
        .iter()
        .map(|file| {
            let path = file["path"].as_str().unwrap_or_default();
            let size = file["size"].as_u64().unwrap_or(0) as usize;
            let large = is_large(path, &[], usize::MAX) || size >= state.large;
            json!({"path": path, "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false})
        })
        .collect();
    Response::json(&json!({"files": files}))
}

/// Where large files go: nowhere if they are there, in one piece, or in parts.
pub(super) fn batch(request: &Request, state: &mut State, port: u16, name: &str, account: Option<&str>) -> Response {
    if let Some(refusal) = refused(account) {
        return refusal;
    }
    if let Err(refusal) = visible(state, name, account) {
        return refusal;
    }
    let asked = body(request)["objects"].as_array().cloned().unwrap_or_default();
    let store = format!("http://localhost:{port}/upload");
    let objects: Vec<Value> = asked
        .iter()
        .map(|object| {
            let (oid, size) = (object["oid"].as_str().unwrap_or_default(), object["size"].as_u64().unwrap_or(0));
            let mut answer = json!({"oid": oid, "size": size});
            if state.objects.contains_key(oid) {
                return answer;
            }
            let upload = match state.part {
                Some(part) => {
                    let mut header = json!({"chunk_size": part.to_string()});
                    for number in 1..=size.div_ceil(part as u64) {
                        header[number.to_string()] = json!(format!("{store}/{oid}/{number}"));
                    }
                    json!({"href": format!("{store}/{oid}/complete"), "header": header})
                }
                None => json!({"href": format!("{store}/{oid}"), "header": {}}),
            };
            let verify = json!({"href": format!("http://127.0.0.1:{port}/verify/{oid}"), "header": {}});
            answer["actions"] = json!({"upload": upload, "verify": verify});
            answer
        })
        .collect();
    let transfer = if state.part.is_some() { "multipart" } else { "basic" };
    Response::json(&json!({"transfer": transfer, "objects": objects}))
}

/// `upload/<oid>`, `upload/<oid>/<part>` and `upload/<oid>/complete`.
pub(super) fn store(request: &Request, state: &mut State, parts: &[&str]) -> Response {
    if request.headers.contains_key("authorization") {
        return Response::new(400, "only one auth mechanism allowed");
    }
    let whole = |state: &mut State, oid: &str, bytes: Vec<u8>| {
        if sha256(&bytes) != oid {
            return Response::new(400, "the content has another hash");
        }
        state.objects.insert(oid.to_owned(), Arc::new(bytes));
        Response::new(200, "")
    };
    match (request.method.as_str(), parts) {
        ("PUT", ["upload", oid]) => whole(state, oid, request.body.clone()),
        ("PUT", ["upload", oid, number]) => {
            let number: usize = number.parse().unwrap_or(0);
            state.parts.entry((*oid).to_owned()).or_default().insert(number, request.body.clone());
            Response::new(200, "").with("ETag", format!("\"part {number}\""))
        }
        ("POST", ["upload", oid, "complete"]) => {
            let received = state.parts.remove(*oid).unwrap_or_default();
            let listed = body(request)["parts"].as_array().cloned().unwrap_or_default();
            let right = listed.len() == received.len()
                && listed.iter().all(|part| part["etag"] == json!(format!("\"part {}\"", part["partNumber"])));
            if !right {
                return Response::new(400, "not the parts that came");
            }
            whole(state, oid, received.into_values().flatten().collect())
        }
        _ => Response::new(404, ""),
    }
}

pub(super) fn verify(state: &State, hash: &str) -> Response {
    match state.objects.contains_key(hash) {
        true => Response::new(200, ""),
        false => Response::new(404, "no such object"),
    }
}

/// A header, files and large files, a line of JSON each.
pub(super) fn commit(
    request: &Request,
    state: &mut State,
    port: u16,
    name: &str,
    revision: &str,
    account: Option<&str>,
) -> Response {
    if let Some(refusal) = refused(account) {
        return refusal;
    }
    let mut files = match visible(state, name, account).map(|repository| repository.at(revision)) {
        Err(refusal) => return refusal,
        Ok(None) => return Response::error(404, "RevisionNotFound", "Invalid rev id"),
        Ok(Some((_, files))) => files.clone(),
    };
    for line in String::from_utf8_lossy(&request.body).lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let value = &line["value"];
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let content = match line["key"].as_str() {
            Some("header") => continue,
            Some("file") => BASE64.decode(text("content")).map(Arc::new).map_err(|error| error.to_string()),
            Some("lfsFile") => state.objects.get(&text("oid")).cloned().ok_or_else(|| "no such object".to_owned()),
            other => Err(format!("{other:?} is not known")),
        };
        match content {
            Ok(content) => files.insert(text("path"), content),
            Err(error) => return Response::error(400, "", &error),
        };
    }
    let commit = state.commit(name, revision, files);
    let url = format!("http://127.0.0.1:{port}/{name}/commit/{commit}");
    Response::json(&json!({"success": true, "commitOid": commit, "commitUrl": url, "hookOutput": ""}))
}
