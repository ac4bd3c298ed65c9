//! A local folder becomes a commit of a repository: small files in the commit itself, large ones beside it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use ureq::SendBody;

use crate::error::{HubError, NoConnection};
use crate::http::{Asked, Trouble, escaped};
use crate::hub::Hub;
use crate::progress::{Event, Telling};
use crate::reference::{DEFAULT_REVISION, Repository};

/// Bytes of a file's beginning, from which the Hub decides how it is stored.
const SAMPLE: u64 = 512;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 18;

/// Who may see a new repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Its owner alone.
    Private,
    /// Everybody.
    Public,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Upload<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Paths in it.
    pub files: &'a [String],
    /// The first line of the commit.
    pub message: &'a str,
    /// Who may see the repository, if it is made.
    pub visibility: Visibility,
}

/// A commit that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its hash.
    pub commit: String,
    /// The repository's page.
    pub page: String,
    /// Whether the repository was made.
    pub created: bool,
}

struct Sent {
    path: String,
    place: PathBuf,
    size: u64,
    /// Only of large files.
    sha256: Option<String>,
}

#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Action,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

impl Hub {
    /// Makes the repository where there is none, and puts the files into one commit on `main`. Nothing is seen of
    /// them until all are there.
    ///
    /// # Errors
    /// No token, one that may not write, files that cannot be read or sent.
    pub fn push(
        &self,
        repository: &Repository,
        upload: &Upload<'_>,
        telling: &Telling<'_>,
    ) -> Result<Pushed, HubError> {
        if self.config.offline {
            return Err(HubError::Unreachable {
                endpoint: self.http.endpoint.clone(),
                cause: NoConnection::Offline.to_string(),
            });
        }
        let asked = Asked { repository, revision: DEFAULT_REVISION, what: "the upload" };
        if self.http.token.is_none() {
            let message = "uploads need a token that may write".to_owned();
            return Err(HubError::NeedsToken {
                repository: repository.clone(),
                endpoint: self.http.endpoint.clone(),
                message,
            });
        }
        let mut files = Vec::new();
        for path in upload.files {
            let place = upload.folder.join(path);
            let size = fs::metadata(&place).map_err(HubError::io(&place, "read"))?.len();
            files.push(Sent { path: path.clone(), place, size, sha256: None });
        }
        let created = self.create(&asked, upload.visibility, telling)?;
        let large = self.modes(&asked, &mut files, telling)?;
        for file in files.iter_mut().filter(|file| large.contains(&file.path)) {
            file.sha256 = Some(sha256(&file.place)?);
        }
        self.send_large(&asked, &files, telling)?;
        let commit = self.send_commit(&asked, &files, upload.message, telling)?;
        let page = format!("{}/{}{}", self.http.endpoint, repository.kind.prefix(), repository.name);
        Ok(Pushed { commit, page, created })
    }

    /// Whether the repository was made; false where it was there.
    fn create(&self, asked: &Asked<'_>, visibility: Visibility, telling: &Telling<'_>) -> Result<bool, HubError> {
        let name = &asked.repository.name;
        let (owner, short) = name.split_once('/').map_or((None, name.as_str()), |(owner, name)| (Some(owner), name));
        let body = json!({
            "type": asked.repository.kind.word(),
            "organization": owner,
            "name": short,
            "private": visibility == Visibility::Private,
        });
        let url = format!("{}/api/repos/create", self.http.endpoint);
        let made = self.http.patiently(telling, || self.post::<Json>(asked, &url, &body));
        match made {
            Ok(_) => Ok(true),
            Err(HubError::Server { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The paths of those files that are stored beside git; those that the repository ignores are taken out.
    fn modes(&self, asked: &Asked<'_>, files: &mut Vec<Sent>, telling: &Telling<'_>) -> Result<Vec<String>, HubError> {
        let mut described = Vec::new();
        for file in files.iter() {
            let mut sample = Vec::new();
            let open = File::open(&file.place).map_err(HubError::io(&file.place, "open"))?;
            open.take(SAMPLE).read_to_end(&mut sample).map_err(HubError::io(&file.place, "read"))?;
            described.push(json!({"path": file.path, "sample": BASE64.encode(sample), "size": file.size}));
        }
        let url = format!("{}/preupload/{}", self.api(asked.repository), DEFAULT_REVISION);
        let body = json!({"files": described});
        let modes: Modes = self.http.patiently(telling, || self.post(asked, &url, &body))?;
        files.retain(|file| !modes.files.iter().any(|mode| mode.should_ignore && mode.path == file.path));
        Ok(modes.files.into_iter().filter(|mode| mode.upload_mode == "lfs").map(|mode| mode.path).collect())
    }

    fn send_large(&self, asked: &Asked<'_>, files: &[Sent], telling: &Telling<'_>) -> Result<(), HubError> {
        let large: Vec<(&Sent, &str)> = files.iter().filter_map(|file| Some((file, file.sha256.as_deref()?))).collect();
        if large.is_empty() {
            return Ok(());
        }
        let objects: Vec<Json> = large.iter().map(|(file, oid)| json!({"oid": oid, "size": file.size})).collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": {"name": DEFAULT_REVISION},
        });
        let repository = asked.repository;
        let url = format!(
            "{}/{}{}.git/info/lfs/objects/batch",
            self.http.endpoint,
            repository.kind.prefix(),
            repository.name
        );
        let batch: Batch = self.http.patiently(telling, || self.post(asked, &url, &body))?;
        telling(Event::Begin { files: large.len(), bytes: large.iter().map(|(file, _)| file.size).sum() });
        for (file, oid) in large {
            let object = batch.objects.iter().find(|object| object.oid == oid);
            let refused = object.and_then(|object| object.error.as_ref()).map(|error| error.message.clone());
            let (Some(object), None) = (object, &refused) else {
                let found = refused.unwrap_or_else(|| "no word of it".to_owned());
                return Err(HubError::BadAnswer {
                    endpoint: self.http.endpoint.clone(),
                    what: format!("the upload of `{}`", file.path),
                    found,
                });
            };
            // The Hub has this content already.
            let Some(actions) = &object.actions else {
                telling(Event::Bytes { count: file.size, kept: true });
                continue;
            };
            self.send_file(asked, file, oid, actions, telling)?;
        }
        telling(Event::End);
        Ok(())
    }

    fn send_file(
        &self,
        asked: &Asked<'_>,
        file: &Sent,
        oid: &str,
        actions: &Actions,
        telling: &Telling<'_>,
    ) -> Result<(), HubError> {
        let upload = &actions.upload;
        let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let part_size = upload.header.get("chunk_size").and_then(|size| text(size).parse::<u64>().ok());
        match part_size.filter(|size| *size > 0) {
            None => {
                self.put(asked, &upload.href, file, 0..file.size, &upload.header, telling)?;
            }
            Some(part_size) => {
                let mut parts = Vec::new();
                for number in 1..=file.size.div_ceil(part_size) {
                    let Some(href) =
                        upload.header.get(&number.to_string()).or_else(|| upload.header.get(&format!("{number:05}")))
                    else {
                        return Err(HubError::BadAnswer {
                            endpoint: self.http.endpoint.clone(),
                            what: format!("the upload of `{}`", file.path),
                            found: format!("no address of part {number}"),
                        });
                    };
                    let range = (number - 1) * part_size..(number * part_size).min(file.size);
                    let etag = self.put(asked, &text(href), file, range, &BTreeMap::new(), telling)?;
                    parts.push(json!({"partNumber": number, "etag": etag}));
                }
                let body = json!({"oid": oid, "parts": parts});
                self.http.patiently(telling, || self.post_for_nothing(asked, &upload.href, &body))?;
            }
        }
        match &actions.verify {
            Some(verify) => {
                let body = json!({"oid": oid, "size": file.size});
                self.http.patiently(telling, || self.post_for_nothing(asked, &verify.href, &body))
            }
            None => Ok(()),
        }
    }

    /// Sends a range of a file; the answer's ETag.
    fn put(
        &self,
        asked: &Asked<'_>,
        href: &str,
        file: &Sent,
        range: std::ops::Range<u64>,
        headers: &BTreeMap<String, Json>,
        telling: &Telling<'_>,
    ) -> Result<String, HubError> {
        self.http.patiently(telling, || {
            let io = HubError::io(&file.place, "read");
            let mut opened = File::open(&file.place).map_err(io)?;
            opened.seek(SeekFrom::Start(range.start)).map_err(HubError::io(&file.place, "read"))?;
            let length = range.end - range.start;
            let mut body = Counted { inner: opened.take(length), telling, sent: 0 };
            let mut request = self.http.agent.put(href).header("content-length", length.to_string());
            for (name, value) in headers {
                if let Some(value) = value.as_str() {
                    request = request.header(name, value);
                }
            }
            let response = request.send(SendBody::from_reader(&mut body));
            match self.http.accepted(asked, response) {
                Ok(response) => {
                    let etag = response.headers().get("etag").and_then(|value| value.to_str().ok());
                    Ok(etag.unwrap_or_default().to_owned())
                }
                Err(trouble) => {
                    telling(Event::Again(body.sent));
                    Err(trouble)
                }
            }
        })
    }

    fn send_commit(
        &self,
        asked: &Asked<'_>,
        files: &[Sent],
        message: &str,
        telling: &Telling<'_>,
    ) -> Result<String, HubError> {
        let mut lines = vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        for file in files {
            lines.push(match &file.sha256 {
                Some(oid) => json!({
                    "key": "lfsFile",
                    "value": {"path": file.path, "algo": "sha256", "oid": oid, "size": file.size},
                }),
                None => {
                    let content = fs::read(&file.place).map_err(HubError::io(&file.place, "read"))?;
                    json!({
                        "key": "file",
                        "value": {"path": file.path, "content": BASE64.encode(content), "encoding": "base64"},
                    })
                }
            });
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = format!("{}/commit/{}", self.api(asked.repository), escaped(DEFAULT_REVISION));
        let committed: Committed = self.http.patiently(telling, || {
            let request = self.http.signed(self.http.agent.post(&url), &url);
            let response = request.header("content-type", "application/x-ndjson").send(body.as_bytes());
            let response = self.http.accepted(asked, response)?;
            self.http.json(asked, response)
        })?;
        Ok(committed.commit_oid)
    }

    fn post<T: serde::de::DeserializeOwned>(&self, asked: &Asked<'_>, url: &str, body: &Json) -> Result<T, Trouble> {
        let request = self.http.signed(self.http.agent.post(url), url).header("content-type", "application/json");
        // Git's large files have a media type of their own.
        let accept = if url.ends_with("/batch") { "application/vnd.git-lfs+json" } else { "application/json" };
        let response = self.http.accepted(asked, request.header("accept", accept).send(body.to_string()))?;
        self.http.json(asked, response)
    }

    fn post_for_nothing(&self, asked: &Asked<'_>, url: &str, body: &Json) -> Result<(), Trouble> {
        let request = self.http.signed(self.http.agent.post(url), url).header("content-type", "application/json");
        self.http.accepted(asked, request.send(body.to_string())).map(drop)
    }
}

/// Tells how much was read.
struct Counted<'a> {
    inner: io::Take<File>,
    telling: &'a Telling<'a>,
    sent: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.sent += count as u64;
        (self.telling)(Event::Bytes { count: count as u64, kept: false });
        Ok(count)
    }
}

fn sha256(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(HubError::io(path, "open"))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        let count = file.read(&mut piece).map_err(HubError::io(path, "read"))?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&piece[..count]);
    }
}
