//! What the services of Amazon have in common: who asks, signed for which region and service, and the faults on demand.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::wire::{Body, Request, Response, accept, read_request};

/// Keys that may do everything; the secret is any.
pub(crate) const KEY: &str = "AKIATEST";
/// Keys of somebody who may do nothing.
pub(crate) const STRANGER: &str = "AKIASTRANGER";
/// Keys that held until yesterday; they come with a session token.
pub(crate) const EXPIRED: &str = "ASIAEXPIRED";

/// A service that runs until it is dropped.
pub(crate) struct Amazon<S: Service> {
    shared: Arc<Shared<S>>,
    port: u16,
}

struct Shared<S> {
    state: Mutex<State<S>>,
    stop: AtomicBool,
}

/// The service's own state, faults, and what was asked for.
pub(crate) struct State<S> {
    pub(crate) service: S,
    pub(crate) faults: Vec<Fault>,
    /// `METHOD path?query`, in order.
    pub(crate) requests: Vec<String>,
}

/// Something that goes wrong a number of times, for requests whose line contains a text.
pub(crate) struct Fault {
    pub(crate) line: String,
    pub(crate) times: usize,
    pub(crate) what: What,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// This status with this code, and nothing is done.
    Status(u16, &'static str),
    /// The connection ends, and nothing is done.
    Hang,
    /// It is done, and the connection ends before the answer.
    Lost,
    /// 200, with an error in the body, and nothing is done.
    ErrorInside,
    /// One byte of what is sent is kept as another.
    Damage,
}

/// One of Amazon's services.
pub(crate) trait Service: Send + 'static {
    /// Its name in signatures; empty where it is several.
    const NAME: &'static str;

    fn answer(&mut self, request: &Request, caller: &Caller) -> Response;

    /// In the service's own form.
    fn error(status: u16, code: &str, message: &str) -> Response;
}

/// Who asks.
pub(crate) struct Caller {
    pub(crate) region: String,
}

impl<S: Service> Amazon<S> {
    pub(crate) fn start(service: S) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().unwrap().port();
        let state = State { service, faults: Vec::new(), requests: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), stop: AtomicBool::new(false) });
        let (stop, serving) = (Arc::clone(&shared), Arc::clone(&shared));
        accept(listener, move || stop.stop.load(Ordering::Relaxed), move |stream| serve(stream, &serving));
        Self { shared, port }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<S>> {
        self.shared.lock()
    }

    /// Something goes wrong, so many times.
    pub(crate) fn fault(&self, line: &str, times: usize, what: What) {
        self.state().faults.push(Fault { line: line.to_owned(), times, what });
    }

    /// The requests whose line contains a text, since this was last asked.
    pub(crate) fn requests(&self, text: &str) -> Vec<String> {
        let mut state = self.state();
        std::mem::take(&mut state.requests).into_iter().filter(|line| line.contains(text)).collect()
    }
}

impl<S: Service> Drop for Amazon<S> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve<S: Service>(stream: TcpStream, shared: &Shared<S>) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Ok(Some(mut request)) = read_request(&mut reader) {
        let mut state = shared.lock();
        let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let line = format!("{} {}?{}", request.method, request.path, query.join("&"));
        let fault = state.faults.iter_mut().find(|fault| fault.times > 0 && line.contains(&fault.line));
        let fault = fault.map(|fault| {
            fault.times -= 1;
            fault.what
        });
        state.requests.push(line);
        let answer = match fault {
            Some(What::Status(status, code)) => S::error(status, code, "as asked for"),
            Some(What::Hang) => {
                let _ = writer.shutdown(Shutdown::Both);
                return;
            }
            Some(What::ErrorInside) => {
                let Response { body, .. } = S::error(500, "InternalError", "as asked for");
                Response { status: 200, headers: Vec::new(), body }
            }
            _ => match caller::<S>(&request) {
                Ok(caller) => {
                    if fault == Some(What::Damage) {
                        damage(&mut request);
                    }
                    state.service.answer(&request, &caller)
                }
                Err(refused) => refused,
            },
        };
        drop(state);
        if fault == Some(What::Lost) || send(&mut writer, &request, answer).is_err() {
            let _ = writer.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn send(writer: &mut TcpStream, request: &Request, answer: Response) -> std::io::Result<()> {
    writer.write_all(answer.head().as_bytes())?;
    match answer.body {
        _ if request.method == "HEAD" => Ok(()),
        Body::Text(text) => writer.write_all(text.as_bytes()),
        Body::Bytes(bytes, range) => writer.write_all(&bytes[range]),
    }
}

/// As if it had happened on the way, before anything was checked: checksums are taken along.
fn damage(request: &mut Request) {
    if let Some(middle) = request.body.len().checked_div(2).filter(|middle| *middle < request.body.len()) {
        request.body[middle] ^= 1;
        request.headers.remove("x-amz-checksum-sha256");
    }
}

/// Who asks, if the signature has all its parts and its body is the one that was signed.
fn caller<S: Service>(request: &Request) -> Result<Caller, Response> {
    let refused = |message: &str| Err(S::error(403, "SignatureDoesNotMatch", message));
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let Some(rest) = header("authorization").and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256 ")) else {
        return Err(S::error(403, "AccessDenied", "nobody signed it"));
    };
    let fields: BTreeMap<&str, &str> = rest.split(',').filter_map(|field| field.trim().split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let scope: Vec<&str> = field("Credential").split('/').collect();
    let &[key, date, region, service, "aws4_request"] = scope.as_slice() else { return refused("the scope") };
    let signed: Vec<&str> = field("SignedHeaders").split(';').collect();
    if (!S::NAME.is_empty() && service != S::NAME)
        || date.len() != 8
        || !header("x-amz-date").is_some_and(|at| at.starts_with(date))
    {
        return refused("the service or the date");
    }
    if !["host", "x-amz-date"].iter().all(|name| signed.contains(name)) || field("Signature").len() != 64 {
        return refused("the signature");
    }
    if signed.iter().any(|name| header(name).is_none()) {
        return refused("a signed header is not there");
    }
    let hash = hex(&Sha256::digest(&request.body));
    if header("x-amz-content-sha256").is_some_and(|signed| signed != hash) {
        return Err(S::error(400, "XAmzContentSHA256Mismatch", "the body is not what was signed"));
    }
    match key {
        KEY => Ok(Caller { region: region.to_owned() }),
        STRANGER => Err(S::error(403, "AccessDenied", "User: arn:aws:iam::1:user/stranger is not authorized")),
        EXPIRED if header("x-amz-security-token").is_some() => {
            Err(S::error(400, "ExpiredToken", "The provided token has expired."))
        }
        _ => Err(S::error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist")),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
