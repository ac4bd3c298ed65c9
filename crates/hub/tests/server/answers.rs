//! What is answered to what: descriptions, listings, files.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::uploads;
use super::wire::{Body, Request, Response, read_request, unescaped};
use super::{Repository, STRANGER, Seen, Shared, State, TOKEN, What, git_hash, is_large, sha256};

/// A connection, until it ends.
pub(super) fn serve(stream: TcpStream, shared: &Shared) {
    // Small answers at once.
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Ok(Some(request)) = read_request(&mut reader) {
        let goes_on = respond(&request, shared, &mut writer);
        if !matches!(goes_on, Ok(true)) {
            let _ = writer.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Whether the connection goes on.
fn respond(request: &Request, shared: &Shared, writer: &mut TcpStream) -> io::Result<bool> {
    let (fault, cut_every, speed) = {
        let mut state = shared.lock();
        let header = |name: &str| request.headers.get(name).cloned();
        state.requests.push(Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            range: header("range"),
            token: header("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned()),
        });
        let fault = state.faults.iter_mut().find(|fault| fault.times > 0 && request.path.contains(&fault.path));
        let fault = fault.map(|fault| {
            fault.times -= 1;
            fault.what.clone()
        });
        (fault, state.cut_every, state.speed)
    };
    let answer = match &fault {
        Some(What::Hang) => return Ok(false),
        Some(What::Status(status, headers)) => {
            headers.iter().fold(Response::new(*status, "{\"error\": \"as asked for\"}"), |answer, (name, value)| {
                answer.with(name, value)
            })
        }
        _ => answer(request, shared, matches!(fault, Some(What::NoRange))),
    };
    writer.write_all(answer.head().as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let (bytes, range) = match answer.body {
        Body::Text(text) => (Arc::new(text.clone().into_bytes()), 0..text.len()),
        Body::Bytes(bytes, range) => (bytes, range),
    };
    let mut body = bytes[range].to_vec();
    let mut end = body.len();
    let mut silent = None;
    match fault {
        Some(What::Cut(after)) => end = end.min(after),
        Some(What::Silent(after, wait)) => silent = Some((after.min(end), wait)),
        Some(What::Corrupt) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        _ => {}
    }
    if let Some(most) = cut_every.filter(|_| request.path.contains("/lfs/") || request.path.contains("/resolve/")) {
        end = end.min(most);
    }
    let mut sent = 0;
    while sent < end {
        if let Some((after, wait)) = silent.filter(|(after, _)| sent >= *after) {
            std::thread::sleep(wait);
            silent = None;
            sent = sent.max(after);
            continue;
        }
        let piece = silent.map_or(end, |(after, _)| after.min(end)).min(sent + (16 << 10));
        writer.write_all(&body[sent..piece])?;
        if let Some(speed) = speed {
            std::thread::sleep(Duration::from_secs_f64((piece - sent) as f64 / speed as f64));
        }
        sent = piece;
    }
    Ok(end == body.len())
}

fn answer(request: &Request, shared: &Shared, no_range: bool) -> Response {
    let mut state = shared.lock();
    let token = request.headers.get("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned());
    let path = request.path.trim_start_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    if let ["lfs", hash] = parts[..] {
        return large_file(request, &state, hash, token.as_deref(), no_range);
    }
    if let ["upload", ..] = parts[..] {
        return uploads::store(request, &mut state, &parts);
    }
    if token.as_deref().is_some_and(|token| token != TOKEN && token != STRANGER) {
        return Response::error(401, "", "Invalid credentials in Authorization header");
    }
    let account = token.as_deref();
    match parts[..] {
        ["api", "whoami-v2"] => match account {
            Some(_) => {
                Response::json(&json!({"type": "user", "name": "tester", "orgs": [], "auth": {"type": "access_token"}}))
            }
            None => Response::error(401, "", "Invalid username or password."),
        },
        // A card's front matter, which Python has checked before it uploads.
        ["api", "validate-yaml"] => Response::json(&json!({"errors": [], "warnings": []})),
        ["api", "repos", "create"] => uploads::create(request, &mut state, shared.port, account),
        ["verify", hash] => uploads::verify(&state, hash),
        ["api", kind @ ("models" | "datasets"), ref rest @ ..] => {
            let (name, rest) = name_of(&state, kind, rest);
            api(request, &mut state, shared.port, &name, rest, account)
        }
        ref all if path.contains(".git/info/lfs/objects/batch") => {
            let name = all.join("/").replace(".git/info/lfs/objects/batch", "");
            uploads::batch(request, &mut state, shared.port, &prefixed(&name), account)
        }
        ref all if all.contains(&"resolve") => resolve(request, &state, shared.port, all, account, no_range),
        _ => Response::error(404, "", "Sorry, we can't find the page you are looking for."),
    }
}

/// `models/org/name`, and what follows it. Names of one part are known ones.
fn name_of<'a>(state: &State, kind: &str, rest: &'a [&'a str]) -> (String, &'a [&'a str]) {
    let one = format!("{kind}/{}", rest.first().unwrap_or(&""));
    if state.repositories.contains_key(&one) || rest.len() < 2 {
        return (one, rest.get(1..).unwrap_or_default());
    }
    (format!("{one}/{}", rest[1]), &rest[2..])
}

/// The name of a page as that of the API.
fn prefixed(name: &str) -> String {
    if name.starts_with("datasets/") { name.to_owned() } else { format!("models/{name}") }
}

fn api(request: &Request, state: &mut State, port: u16, name: &str, rest: &[&str], account: Option<&str>) -> Response {
    let page = state.page;
    let large = state.large;
    match rest {
        ["preupload", revision] => return uploads::preupload(request, state, name, &unescaped(revision), account),
        ["commit", revision] => return uploads::commit(request, state, port, name, &unescaped(revision), account),
        _ => {}
    }
    let repository = match visible(state, name, account) {
        Ok(repository) => repository,
        Err(refusal) => return refusal,
    };
    let id = name.split_once('/').map_or(name, |(_, id)| id);
    match rest {
        [] | ["revision", _] => {
            let revision = rest.get(1).map_or("main".to_owned(), |revision| unescaped(revision));
            let Some((commit, files)) = repository.at(&revision) else { return no_revision(&revision) };
            let siblings: Vec<Value> = files.keys().map(|path| json!({"rfilename": path})).collect();
            Response::json(&json!({
                "_id": "0", "id": id, "modelId": id, "sha": commit, "private": repository.private,
                "gated": repository.gated, "disabled": false, "tags": [], "downloads": 0, "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z", "siblings": siblings,
            }))
        }
        ["refs"] => {
            let of = |wanted: fn(&str) -> Option<&str>| -> Vec<Value> {
                let entries = repository.refs.iter().filter_map(|(name, commit)| {
                    let short = wanted(name)?;
                    Some(json!({"name": short, "ref": format!("refs/heads/{short}"), "targetCommit": commit}))
                });
                entries.collect()
            };
            Response::json(&json!({
                "branches": of(|name| (!name.starts_with("refs/") && !name.starts_with('v')).then_some(name)),
                "tags": of(|name| name.starts_with('v').then_some(name)),
                "converts": of(|name| name.strip_prefix("refs/convert/")),
            }))
        }
        ["tree", revision, folder @ ..] => {
            let Some((_, files)) = repository.at(&unescaped(revision)) else { return no_revision(revision) };
            let folder = unescaped(&folder.join("/"));
            let inside = |path: &&String| folder.is_empty() || path.starts_with(&format!("{folder}/"));
            let begin: usize = request.query.get("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
            let entries = files.iter().filter(|(path, _)| inside(path)).map(|(path, bytes)| entry(path, bytes, large));
            let entries: Vec<Value> = entries.collect();
            let end = entries.len().min(begin + page);
            let answer = Response::json(&json!(entries[begin..end]));
            if end == entries.len() {
                return answer;
            }
            let next = format!("http://127.0.0.1:{port}{}?recursive=true&cursor={end}", request.path);
            answer.with("Link", format!("<{next}>; rel=\"next\""))
        }
        _ => Response::error(404, "", "no such endpoint"),
    }
}

fn entry(path: &str, bytes: &[u8], large: usize) -> Value {
    let mut entry = json!({"type": "file", "path": path, "size": bytes.len(), "oid": git_hash(bytes)});
    if is_large(path, bytes, large) {
        entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
    }
    entry
}

/// `/[datasets/]org/name/resolve/revision/path`: the file itself, or where a large one is.
fn resolve(
    request: &Request,
    state: &State,
    port: u16,
    parts: &[&str],
    account: Option<&str>,
    no_range: bool,
) -> Response {
    let at = parts.iter().position(|part| *part == "resolve").unwrap_or(0);
    let name = prefixed(&parts[..at].join("/"));
    let repository = match visible(state, &name, account) {
        Ok(repository) => repository,
        Err(refusal) => return refusal,
    };
    let revision = unescaped(parts.get(at + 1).unwrap_or(&"main"));
    let path = unescaped(&parts.get(at + 2..).unwrap_or_default().join("/"));
    let Some((commit, files)) = repository.at(&revision) else { return no_revision(&revision) };
    if repository.gated && account != Some(TOKEN) {
        let status = if account.is_none() { 401 } else { 403 };
        return Response::error(status, "GatedRepo", "Access to it is restricted. Please ask for access.");
    }
    let Some(bytes) = files.get(&path) else {
        return Response::error(404, "EntryNotFound", "Entry not found").with("X-Repo-Commit", commit);
    };
    if is_large(&path, bytes, state.large) {
        let hash = sha256(bytes);
        // Another host, as the Hub's content is on another one: clients must keep the token to themselves.
        return Response::new(302, "")
            .with("Location", format!("http://localhost:{port}/lfs/{hash}"))
            .with("X-Repo-Commit", commit)
            .with("X-Linked-Size", bytes.len().to_string())
            .with("X-Linked-ETag", format!("\"{hash}\""))
            .with("ETag", "\"not the one\"");
    }
    part(request, bytes, no_range).with("X-Repo-Commit", commit).with("ETag", format!("\"{}\"", git_hash(bytes)))
}

fn large_file(request: &Request, state: &State, hash: &str, token: Option<&str>, no_range: bool) -> Response {
    if token.is_some() {
        return Response::new(400, "only one auth mechanism allowed");
    }
    match state.objects.get(hash) {
        Some(bytes) => part(request, bytes, no_range).with("ETag", "\"of the store\""),
        None => Response::new(404, "no such object"),
    }
}

/// The bytes that the range asks for.
fn part(request: &Request, bytes: &Arc<Vec<u8>>, no_range: bool) -> Response {
    let all = |status, range: std::ops::Range<usize>| Response {
        status,
        headers: vec![("Accept-Ranges".into(), "bytes".into())],
        body: Body::Bytes(Arc::clone(bytes), range),
    };
    let size = bytes.len();
    let asked = request.headers.get("range").filter(|_| !no_range).and_then(|range| range.strip_prefix("bytes="));
    let Some((start, end)) = asked.and_then(|range| range.split_once('-')) else { return all(200, 0..size) };
    let start: usize = start.parse().unwrap_or(0);
    let end: usize = end.parse().map_or(size, |end: usize| (end + 1).min(size));
    if start >= size {
        return Response::new(416, "").with("Content-Range", format!("bytes */{size}"));
    }
    all(206, start..end).with("Content-Range", format!("bytes {start}-{}/{size}", end - 1))
}

/// The repository, if this account may know of it.
pub(super) fn visible<'a>(state: &'a State, name: &str, account: Option<&str>) -> Result<&'a Repository, Response> {
    let found = state.repositories.get(name).filter(|repository| !repository.private || account == Some(TOKEN));
    found.ok_or_else(|| match account {
        Some(_) => Response::error(404, "RepoNotFound", "Repository not found"),
        // The Hub does not tell strangers which of its repositories are private.
        None => Response::error(401, "RepoNotFound", "Repository not found"),
    })
}

fn no_revision(revision: &str) -> Response {
    Response::error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"))
}

impl Repository {
    #[allow(clippy::type_complexity, reason = "a commit and its files")]
    pub(super) fn at(&self, revision: &str) -> Option<(&str, &std::collections::BTreeMap<String, Arc<Vec<u8>>>)> {
        let commit = self.refs.get(revision).map_or(revision, String::as_str);
        self.commits.get_key_value(commit).map(|(commit, files)| (commit.as_str(), files))
    }
}
