//! Enough of S3 for uploads, in memory; `tests/interop/s3_upload.py` holds the client against moto's.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::amazon::{Caller, Service, hex};
use super::wire::{Body, Request, Response, unescaped};

/// Buckets by name.
#[derive(Default)]
pub(crate) struct S3 {
    pub(crate) buckets: BTreeMap<String, Bucket>,
    /// Uploads that are under way, by their number.
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// A key of KMS encrypts: hashes are not those of the contents.
    pub(crate) kms: bool,
    /// Objects on a page of a listing.
    pub(crate) page: usize,
    begun: usize,
}

/// A bucket.
pub(crate) struct Bucket {
    pub(crate) region: &'static str,
    pub(crate) objects: BTreeMap<String, Object>,
}

/// An object.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) etag: String,
    pub(crate) parts: usize,
}

/// An upload in parts.
pub(crate) struct Upload {
    key: String,
    parts: BTreeMap<usize, (Vec<u8>, String)>,
}

impl S3 {
    /// With an empty bucket.
    pub(crate) fn with(bucket: &str, region: &'static str) -> Self {
        let bucket = (bucket.to_owned(), Bucket { region, objects: BTreeMap::new() });
        Self { buckets: BTreeMap::from([bucket]), page: 1000, ..Self::default() }
    }

    /// The contents of a folder.
    pub(crate) fn folder(&self, bucket: &str, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let objects = &self.buckets[bucket].objects;
        let inside = objects.iter().filter_map(|(key, object)| Some((key.strip_prefix(prefix)?, object)));
        inside.map(|(name, object)| (name.to_owned(), object.bytes.to_vec())).collect()
    }

    fn stored(&self, bytes: Vec<u8>, etag: String, parts: usize) -> Object {
        let etag = if self.kms { hex(&Md5::digest(format!("kms {etag}"))) } else { etag };
        Object { bytes: Arc::new(bytes), etag, parts }
    }

    fn list(&self, bucket: &str, request: &Request) -> Response {
        let query = |name: &str| request.query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, after) = (query("prefix"), query("continuation-token"));
        let flat = |key: &&String| query("delimiter") != "/" || !key[prefix.len()..].contains('/');
        let objects = &self.buckets[bucket].objects;
        let mut keys = objects.keys().filter(|key| key.starts_with(prefix) && key.as_str() > after).filter(flat);
        let shown: Vec<&String> = keys.by_ref().take(self.page).collect();
        let next = keys.next().and(shown.last());
        let mut text = format!(
            "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{bucket}</Name>\
             <IsTruncated>{}</IsTruncated><KeyCount>{}</KeyCount>",
            next.is_some(),
            shown.len()
        );
        if let Some(next) = next {
            text += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
        }
        for key in shown {
            let object = &objects[key];
            text += &format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
                object.etag,
                object.bytes.len()
            );
        }
        xml(text + "</ListBucketResult>")
    }

    fn get(&self, bucket: &str, key: &str, request: &Request) -> Response {
        let Some(object) = self.buckets[bucket].objects.get(key) else {
            return Self::error(404, "NoSuchKey", "The specified key does not exist.");
        };
        let length = object.bytes.len();
        let asked = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (status, range) = match asked {
            Some((from, to)) => {
                (206, from.parse().unwrap()..to.parse::<usize>().map_or(length, |to| length.min(to + 1)))
            }
            None => (200, 0..length),
        };
        let content = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
        Response { status, headers: Vec::new(), body: Body::Bytes(Arc::clone(&object.bytes), range) }
            .with("ETag", format!("\"{}\"", object.etag))
            .with("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
            .with("Content-Range", content)
    }

    fn put(&mut self, bucket: &str, key: &str, request: &Request) -> Response {
        let hash = BASE64.encode(Sha256::digest(&request.body));
        if request.headers.get("x-amz-checksum-sha256").is_some_and(|sent| *sent != hash) {
            return Self::error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.");
        }
        let etag = hex(&Md5::digest(&request.body));
        let answer = Response::new(200, "").with("ETag", format!("\"{etag}\"")).with("x-amz-checksum-sha256", &hash);
        let Some(id) = request.query.get("uploadId") else {
            let object = self.stored(request.body.clone(), etag, 1);
            self.bucket(bucket).objects.insert(key.to_owned(), object);
            return answer;
        };
        match self.uploads.get_mut(id) {
            Some(upload) if upload.key == format!("{bucket}/{key}") => {
                let number = request.query["partNumber"].parse().unwrap();
                upload.parts.insert(number, (request.body.clone(), etag));
                answer
            }
            _ => Self::error(404, "NoSuchUpload", "The specified upload does not exist."),
        }
    }

    fn begin(&mut self, bucket: &str, key: &str, request: &Request) -> Response {
        if request.headers.get("x-amz-checksum-algorithm").map(String::as_str) != Some("SHA256") {
            return Self::error(400, "InvalidRequest", "expected checksums of parts");
        }
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        let upload = Upload { key: format!("{bucket}/{key}"), parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        xml(format!(
            "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        ))
    }

    fn complete(&mut self, bucket: &str, key: &str, id: &str, request: &Request) -> Response {
        let Some(upload) = self.uploads.get(id) else {
            return Self::error(404, "NoSuchUpload", "The specified upload does not exist.");
        };
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let element = |text: &str, name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once(&format!("</{name}>"))?.0.replace("&quot;", "\"").trim_matches('"').to_owned())
        };
        let (mut bytes, mut hashes, mut last) = (Vec::new(), Vec::new(), 0);
        for part in text.split("<Part>").skip(1) {
            let number: usize = element(part, "PartNumber").unwrap().parse().unwrap();
            let Some((content, etag)) = upload.parts.get(&number) else {
                return Self::error(400, "InvalidPart", "a part was not sent");
            };
            let checksum = BASE64.encode(Sha256::digest(content));
            if number != last + 1 || element(part, "ETag").as_ref() != Some(etag) {
                return Self::error(400, "InvalidPartOrder", "the list of parts");
            }
            if element(part, "ChecksumSHA256").as_ref() != Some(&checksum) {
                return Self::error(400, "InvalidPart", "the checksum of a part");
            }
            bytes.extend_from_slice(content);
            hashes.extend_from_slice(&Md5::digest(content));
            last = number;
        }
        self.uploads.remove(id);
        let object = self.stored(bytes, format!("{}-{last}", hex(&Md5::digest(&hashes))), last);
        let etag = object.etag.clone();
        self.bucket(bucket).objects.insert(key.to_owned(), object);
        xml(format!(
            "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>"
        ))
    }

    fn bucket(&mut self, name: &str) -> &mut Bucket {
        self.buckets.get_mut(name).unwrap()
    }
}

impl Service for S3 {
    const NAME: &'static str = "s3";

    fn answer(&mut self, request: &Request, caller: &Caller) -> Response {
        let path = unescaped(request.path.trim_start_matches('/'));
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        match self.buckets.get(bucket) {
            None => return Self::error(404, "NoSuchBucket", "The specified bucket does not exist"),
            Some(found) if found.region != caller.region => {
                let text = format!(
                    "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region '{}' is wrong; expecting '{}'</Message><Region>{}</Region></Error>",
                    caller.region, found.region, found.region
                );
                return Response::new(400, text).with("x-amz-bucket-region", found.region);
            }
            Some(_) => {}
        }
        let id = request.query.get("uploadId").cloned();
        match (request.method.as_str(), key, id) {
            ("GET", "", _) => self.list(bucket, request),
            ("GET" | "HEAD", key, _) => self.get(bucket, key, request),
            ("PUT", key, _) => self.put(bucket, key, request),
            ("POST", key, None) if request.query.contains_key("uploads") => self.begin(bucket, key, request),
            ("POST", key, Some(id)) => self.complete(bucket, key, &id, request),
            ("DELETE", _, Some(id)) => {
                self.uploads.remove(&id);
                Response::new(204, "")
            }
            _ => Self::error(405, "MethodNotAllowed", "no upload needs it"),
        }
    }

    fn error(status: u16, code: &str, message: &str) -> Response {
        let mut answer = xml(format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"));
        answer.status = status;
        answer
    }
}

fn xml(text: String) -> Response {
    Response::new(200, text).with("Content-Type", "application/xml")
}
