//! One bucket: requests through our own connection, what they sent, and what a refusal means.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use http_body_util::BodyExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential, Checksum};
use object_store::client::{
    ClientOptions, CredentialProvider, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{BackoffConfig, MultipartId, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::runtime::Runtime;
use ureq::http::Request;

use super::address::S3Address;
use crate::aws::{Asked, Aws, AwsError, Connection, Limits};

/// What an upload must be allowed.
const NEEDS: &str =
    "s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:AbortMultipartUpload on its objects";
/// Temporary keys are asked for anew when they hold for less.
const SPARE: Duration = Duration::from_secs(120);

/// A folder of a bucket.
#[derive(Debug)]
pub(super) struct Store {
    s3: AmazonS3,
    watch: Arc<Watch>,
    address: S3Address,
    region: String,
    endpoint: String,
}

/// An object as the bucket lists it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) size: u64,
    pub(super) etag: String,
}

impl Store {
    pub(super) fn new(aws: &Aws, address: &S3Address, first: Credentials) -> Result<Self, AwsError> {
        let watch = Arc::new(Watch::default());
        let patience = &aws.config.patience;
        // As part of a host, a bucket's name with dots fits no certificate.
        let own_host = aws.config.endpoints.s3.is_none() && !address.bucket.contains('.');
        let endpoint = match (&aws.config.endpoints.s3, own_host) {
            (Some(endpoint), _) => endpoint.trim_end_matches('/').to_owned(),
            (None, true) => format!("https://{}.s3.{}.amazonaws.com", address.bucket, aws.region),
            (None, false) => format!("https://s3.{}.amazonaws.com", aws.region),
        };
        let keys = Keys { provider: aws.provider.clone(), held: tokio::sync::Mutex::new(first) };
        let s3 = AmazonS3Builder::new()
            .with_region(&aws.region)
            .with_bucket_name(&address.bucket)
            .with_endpoint(&endpoint)
            .with_virtual_hosted_style_request(own_host)
            .with_allow_http(true)
            .with_credentials(Arc::new(keys))
            // S3 itself refuses a part that is not what was sent.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(RetryConfig {
                backoff: BackoffConfig { init_backoff: patience.first, max_backoff: patience.longest, base: 2.0 },
                max_retries: patience.tries.saturating_sub(1) as usize,
                // A signature is good for fifteen minutes.
                retry_timeout: Duration::from_secs(600),
            })
            .with_http_connector(Connector(Service { connection: aws.connection.clone(), watch: Arc::clone(&watch) }))
            .build()
            .map_err(|error| AwsError::Server {
                what: address.to_string(),
                code: "a setting".to_owned(),
                message: error.to_string(),
            })?;
        Ok(Self { s3, watch, address: address.clone(), region: aws.region.clone(), endpoint })
    }

    /// The objects of the folder and of those in it, by their names from there on.
    pub(super) fn list(&self, runtime: &Runtime) -> Result<BTreeMap<String, Listed>, AwsError> {
        let prefix = self.address.key("");
        let what = format!("listing {}", self.address);
        let mut listed = BTreeMap::new();
        let mut next = None;
        loop {
            let options = PaginatedListOptions { page_token: next, ..PaginatedListOptions::default() };
            let asked = (!prefix.is_empty()).then_some(prefix.as_str());
            let page = self.call(runtime, &what, self.s3.list_paginated(asked, options))?;
            for object in page.result.objects {
                let key = object.location.as_ref();
                let etag = object.e_tag.unwrap_or_default().trim_matches('"').to_owned();
                if let Some(name) = key.strip_prefix(&prefix) {
                    listed.insert(name.to_owned(), Listed { size: object.size, etag });
                }
            }
            match page.page_token {
                Some(token) => next = Some(token),
                None => return Ok(listed),
            }
        }
    }

    pub(super) fn get(&self, runtime: &Runtime, file: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, AwsError> {
        let what = format!("reading {}", self.place(file));
        Ok(self.call(runtime, &what, self.s3.get_range(&self.path(file), range))?.to_vec())
    }

    pub(super) fn put(&self, runtime: &Runtime, file: &str, bytes: Vec<u8>) -> Result<(), AwsError> {
        let what = format!("sending {}", self.place(file));
        self.call(runtime, &what, self.s3.put(&self.path(file), PutPayload::from(bytes))).map(drop)
    }

    pub(super) fn begin(&self, runtime: &Runtime, file: &str) -> Result<MultipartId, AwsError> {
        let what = format!("sending {}", self.place(file));
        self.call(runtime, &what, self.s3.create_multipart(&self.path(file)))
    }

    pub(super) fn put_part(
        &self,
        runtime: &Runtime,
        file: &str,
        id: &MultipartId,
        number: u64,
        bytes: Vec<u8>,
    ) -> Result<PartId, AwsError> {
        let what = format!("sending part {} of {}", number + 1, self.place(file));
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.call(runtime, &what, self.s3.put_part(&self.path(file), id, number, PutPayload::from(bytes)))
    }

    /// Makes the parts an object.
    pub(super) fn complete(
        &self,
        runtime: &Runtime,
        file: &str,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<(), AwsError> {
        let what = format!("completing {}", self.place(file));
        match self.call(runtime, &what, self.s3.complete_multipart(&self.path(file), id, parts)) {
            // Where the answer of a first try was lost, its parts are an object already; the listing tells.
            Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Throws parts away, which cost money and are not listed. What cannot be thrown away stays.
    pub(super) fn abort(&self, runtime: &Runtime, file: &str, id: &MultipartId) {
        let _ = self.call(runtime, "", self.s3.abort_multipart(&self.path(file), id));
    }

    /// What was sent and what went wrong since it was last asked for.
    pub(super) fn told(&self) -> Told {
        std::mem::take(&mut self.watch.lock().told)
    }

    /// `s3://bucket/folder/file`.
    pub(super) fn place(&self, file: &str) -> String {
        format!("s3://{}/{}", self.address.bucket, self.address.key(file))
    }

    fn path(&self, file: &str) -> Path {
        Path::from(self.address.key(file))
    }

    /// Waits for the answer, and says what a refusal means.
    fn call<T>(
        &self,
        runtime: &Runtime,
        what: &str,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, AwsError> {
        let thread = std::thread::current().id();
        self.watch.lock().last.remove(&thread);
        runtime.block_on(answer).map_err(|error| {
            let asked = Asked { what, bucket: &self.address.bucket, region: &self.region, needs: NEEDS };
            match self.watch.lock().last.remove(&thread) {
                Some(Last::Refusal(refusal)) => {
                    AwsError::of_code(&asked, &refusal.code, &refusal.message, refusal.region)
                }
                Some(Last::Broken(cause)) => {
                    AwsError::Unreachable { what: what.to_owned(), endpoint: self.endpoint.clone(), cause }
                }
                // An answer that was none: not XML, or without what belongs into it.
                None => AwsError::Server {
                    what: what.to_owned(),
                    code: "something unexpected".to_owned(),
                    message: error.to_string(),
                },
            }
        })
    }
}

/// Keys from the account's chain, for as long as they hold.
#[derive(Debug)]
struct Keys {
    provider: SharedCredentialsProvider,
    held: tokio::sync::Mutex<Credentials>,
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut held = self.held.lock().await;
        if held.expiry().is_some_and(|until| until < SystemTime::now() + SPARE) {
            // Where there are no new ones, S3 says what is wrong with the old.
            if let Ok(new) = self.provider.provide_credentials().await {
                *held = new;
            }
        }
        Ok(Arc::new(AwsCredential {
            key_id: held.access_key_id().to_owned(),
            secret_key: held.secret_access_key().to_owned(),
            token: held.session_token().map(str::to_owned),
        }))
    }
}

#[derive(Debug)]
struct Connector(Service);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Requests, one thread each: a call waits where it is made.
#[derive(Debug, Clone)]
struct Service {
    connection: Connection,
    watch: Arc<Watch>,
}

/// What happened to requests.
#[derive(Debug, Default)]
struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    told: Told,
    /// The last try of each thread, if it failed.
    last: HashMap<ThreadId, Last>,
}

/// For the display.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) sent: u64,
    /// Bytes that are sent again.
    pub(super) again: u64,
    pub(super) troubles: Vec<String>,
}

#[derive(Debug)]
enum Last {
    Refusal(Refusal),
    Broken(String),
}

#[derive(Debug)]
struct Refusal {
    code: String,
    message: String,
    region: Option<String>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, sent: u64, trouble: Option<String>, last: Last) {
        let mut watched = self.lock();
        watched.told.again += sent;
        watched.told.troubles.extend(trouble);
        watched.last.insert(std::thread::current().id(), last);
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let counts = parts.method == "PUT";
        let mut sent = 0;
        let answer = self.connection.send(Request::from_parts(parts, &body[..]), Limits::default(), |count| {
            if counts {
                sent += count;
                self.watch.lock().told.sent += count;
            }
        });
        match answer {
            Ok(answer) => {
                let status = answer.status().as_u16();
                if status >= 300 {
                    let refusal = Refusal::read(&answer);
                    let passing = status >= 500 || status == 429 || status == 408;
                    let trouble = passing.then(|| format!("S3 answers {} ({})", refusal.code, refusal.message));
                    self.watch.failed(sent, trouble, Last::Refusal(refusal));
                }
                Ok(answer.map(HttpResponseBody::from))
            }
            Err(error) => {
                let cause = error.to_string();
                self.watch.failed(sent, Some(format!("the connection broke ({cause})")), Last::Broken(cause));
                // Every request may be made again; parts have numbers.
                Err(HttpError::new(HttpErrorKind::Request, error))
            }
        }
    }
}

impl Refusal {
    /// `<Error><Code>..</Code><Message>..</Message><Region>..</Region></Error>`, or no more than a status.
    fn read(answer: &ureq::http::Response<Vec<u8>>) -> Self {
        let text = String::from_utf8_lossy(answer.body());
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            let (value, _) = rest.split_once(&format!("</{name}>"))?;
            let value = value.replace("&quot;", "\"").replace("&apos;", "'").replace("&lt;", "<");
            Some(value.replace("&gt;", ">").replace("&amp;", "&"))
        };
        let header = answer.headers().get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
        let status = answer.status();
        Self {
            code: element("Code").unwrap_or_else(|| status.as_u16().to_string()),
            message: element("Message").unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned()),
            region: header.map(str::to_owned).or_else(|| element("Region")),
        }
    }
}
