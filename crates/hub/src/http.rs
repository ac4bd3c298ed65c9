//! One request to the Hub: who asks, how an answer is understood, and when it is asked again.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, RequestBuilder};

use crate::config::{HubConfig, Patience, Token};
use crate::error::HubError;
use crate::progress::{Event, Telling};
use crate::reference::Repository;

/// Bytes of an answer that is read into memory.
const ANSWER_LIMIT: u64 = 256 << 20;

/// Connections to one Hub.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) agent: Agent,
    pub(crate) endpoint: String,
    pub(crate) token: Option<Token>,
    pub(crate) patience: Patience,
}

/// What a request is for, as errors tell it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) revision: &'a str,
    /// What is asked for, in words.
    pub(crate) what: &'a str,
}

/// A try that failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may go well the next time.
    Passing {
        error: Box<HubError>,
        /// How long the Hub asks to wait.
        wait: Option<Duration>,
        /// Whether there was progress, so that patience begins anew.
        progress: bool,
    },
    /// It will be the same the next time.
    Lasting(Box<HubError>),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Lasting(Box::new(error))
    }
}

impl Http {
    pub(crate) fn new(config: &HubConfig) -> Result<Self, HubError> {
        let setting = |what, value: &str, expected: &str| HubError::Setting {
            what,
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        let endpoint = config.endpoint.trim_end_matches('/').to_owned();
        if !["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(setting("HF_ENDPOINT", &config.endpoint, "expected an address such as https://huggingface.co"));
        }
        let refused = |what, value: &str| setting(what, value, "expected an address such as http://proxy:3128");
        let proxy = match &config.proxy {
            None => None,
            Some(given) => Some(given.connected().ok_or_else(|| refused("HTTPS_PROXY", &given.url))?),
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(proxy)
            .user_agent(concat!("rankine/", env!("CARGO_PKG_VERSION")))
            // A renamed repository is on the same host; a file's content is on another one, which must not see the token.
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(config.patience.silence))
            .timeout_recv_response(Some(config.patience.silence * 2))
            .timeout_per_read(Some(config.patience.silence))
            .timeout_per_write(Some(config.patience.silence))
            .max_idle_connections_per_host(config.patience.workers)
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, token: config.token.clone(), patience: config.patience })
    }

    /// The request with the token, where it goes to the Hub itself.
    pub(crate) fn signed<B>(&self, request: RequestBuilder<B>, url: &str) -> RequestBuilder<B> {
        let own = url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        match &self.token {
            Some(token) if own => request.header("authorization", format!("Bearer {}", token.secret)),
            _ => request,
        }
    }

    /// Asks until there is an answer, patience ends, or the answer will stay the same.
    pub(crate) fn patiently<T>(
        &self,
        telling: &Telling<'_>,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            let (error, wait, progress) = match attempt() {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Lasting(error)) => return Err(*error),
                Err(Trouble::Passing { error, wait, progress }) => (error, wait, progress),
            };
            failed = if progress { 1 } else { failed + 1 };
            let backoff = self.patience.first * 2_u32.saturating_pow(failed - 1);
            let wait = wait.unwrap_or_else(|| jittered(backoff.min(self.patience.longest)));
            if failed >= self.patience.tries || wait > self.patience.longest {
                return Err(*error);
            }
            telling(Event::Waiting { reason: &error.to_string(), wait });
            std::thread::sleep(wait);
        }
    }

    /// A JSON answer to a GET, and the address of its next page.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        asked: &Asked<'_>,
        url: &str,
        telling: &Telling<'_>,
    ) -> Result<(T, Option<String>), HubError> {
        self.patiently(telling, || {
            let response = self.signed(self.agent.get(url), url).call();
            let response = self.accepted(asked, response)?;
            let next = next_page(response.headers());
            Ok((self.json(asked, response)?, next))
        })
    }

    /// The body of an answer as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, asked: &Asked<'_>, response: Response<Body>) -> Result<T, Trouble> {
        let text = response.into_body().into_with_config().limit(ANSWER_LIMIT).read_to_vec();
        let text = text.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&text).map_err(|error| {
            Trouble::from(HubError::BadAnswer {
                endpoint: self.endpoint.clone(),
                what: asked.what.to_owned(),
                found: format!("{error} in `{}`", shortened(&String::from_utf8_lossy(&text))),
            })
        })
    }

    /// The answer, unless it is a refusal or none.
    pub(crate) fn accepted(
        &self,
        asked: &Asked<'_>,
        response: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Trouble> {
        match response {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(self.refusal(asked, response)),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// A connection that cannot be made, or ends.
    pub(crate) fn broken(&self, error: &ureq::Error) -> Trouble {
        let unreachable = HubError::Unreachable { endpoint: self.endpoint.clone(), cause: error.to_string() };
        match error {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
            | ureq::Error::HostNotFound => {
                Trouble::Passing { error: Box::new(unreachable), wait: None, progress: false }
            }
            _ => Trouble::from(unreachable),
        }
    }

    /// What a status that is no success means.
    fn refusal(&self, asked: &Asked<'_>, mut response: Response<Body>) -> Trouble {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (code, message, wait) = (header("x-error-code"), header("x-error-message"), asked_wait(response.headers()));
        let mut body = String::new();
        // Only for the message: a body that breaks off is as good as none.
        let _ = response.body_mut().as_reader().take(1 << 16).read_to_string(&mut body);
        let message = message.or_else(|| error_in(&body)).unwrap_or_else(|| shortened(&body));
        let repository = asked.repository.clone();
        let (endpoint, has_token) = (self.endpoint.clone(), self.token.is_some());
        let no_repository = |repository| HubError::NoRepository {
            repository,
            endpoint: endpoint.clone(),
            has_token,
            other_kind: None,
            looked_at: Vec::new(),
        };
        Trouble::from(match (status, code.as_deref()) {
            (_, Some("GatedRepo")) => {
                let page = format!("{endpoint}/{}{}", repository.kind.prefix(), repository.name);
                HubError::Gated { repository, page, has_token }
            }
            (_, Some("RepoNotFound")) => no_repository(repository),
            (_, Some("RevisionNotFound")) => {
                HubError::NoRevision { repository, revision: asked.revision.to_owned(), available: Vec::new() }
            }
            (404, _) => HubError::NoFile {
                repository,
                revision: asked.revision.to_owned(),
                missing: vec![asked.what.to_owned()],
            },
            (401, _) => match &self.token {
                Some(token) => HubError::Unauthorised { endpoint, origin: token.origin.clone(), message },
                // The Hub says so of repositories that do not exist, too.
                None if message.is_empty() || message.starts_with("Invalid username") => no_repository(repository),
                None => HubError::NeedsToken { repository, endpoint, message },
            },
            (403, _) => HubError::Forbidden { repository, message },
            (429, _) => {
                let error = HubError::RateLimited { endpoint, wait, has_token };
                return Trouble::Passing { error: Box::new(error), wait, progress: false };
            }
            _ => {
                let error = HubError::Server { endpoint, status, what: asked.what.to_owned(), message };
                if status == 408 || status >= 500 {
                    return Trouble::Passing { error: Box::new(error), wait, progress: false };
                }
                error
            }
        })
    }
}

/// `Retry-After: 30`, or the time until the limit is lifted in `RateLimit: "api";r=0;t=30`.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let after = text("retry-after").and_then(|text| text.trim().parse().ok());
    let limit = || {
        let fields: Vec<&str> = text("ratelimit")?.split(';').map(str::trim).collect();
        // It is sent with every answer, and means something where nothing remains.
        fields.contains(&"r=0").then(|| fields.iter().find_map(|field| field.strip_prefix("t=")?.parse().ok()))?
    };
    after.or_else(limit).map(Duration::from_secs)
}

/// `Link: <https://...>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get("link")?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// `{"error": "..."}`.
fn error_in(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(value.get("error")?.as_str()?.to_owned())
}

/// One line of a body that is no JSON.
fn shortened(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(200).collect()
}

/// Between half of it and all of it, so that many clients do not come back at once.
fn jittered(wait: Duration) -> Duration {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let mixed =
        u64::from(now).wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    wait.mul_f64(0.5 + (mixed >> 40) as f64 / (1_u64 << 25) as f64)
}

/// A part of an address: everything but letters, digits and `-_.~` is escaped, the slash too.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn what_the_headers_say() {
        let seconds = |name, value| asked_wait(&headers(name, value)).map(|wait| wait.as_secs());
        assert_eq!(seconds("retry-after", "7"), Some(7));
        assert_eq!(seconds("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(seconds("ratelimit", "\"api\";r=12;t=55"), None);
        assert_eq!(seconds("retry-after", "soon"), None);
        let next = next_page(&headers("link", "<https://h/a?cursor=x%3D>; rel=\"next\""));
        assert_eq!(next.as_deref(), Some("https://h/a?cursor=x%3D"));
        assert_eq!(next_page(&headers("link", "<https://h/a>; rel=\"prev\"")), None);
        assert_eq!(escaped("refs/pr/1 ü"), "refs%2Fpr%2F1%20%C3%BC");
    }

    #[test]
    fn waits_stay_between_half_and_whole() {
        for _ in 0..1000 {
            let wait = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        let endpoint = Http::new(&HubConfig { endpoint: "huggingface.co".into(), ..HubConfig::default() });
        assert!(endpoint.unwrap_err().to_string().starts_with("HF_ENDPOINT is huggingface.co"));
        let proxied = |url: &str| {
            let given = crate::config::Proxy { url: url.into(), except: Some("localhost, .corp".into()) };
            Http::new(&HubConfig { proxy: Some(given), ..HubConfig::default() }).map(drop)
        };
        proxied("http://user:word@proxy:3128").unwrap();
        assert!(proxied("::").unwrap_err().to_string().starts_with("HTTPS_PROXY is ::"));
    }
}
