//! What the program hands down: nothing here reads the environment.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The Hub where none is named.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where repositories are looked up and how.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The Hugging Face cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`); made by the first download.
    pub cache: Option<PathBuf>,
    /// The Hub's address (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Who asks (`HF_TOKEN`, or the file that `hf auth login` writes).
    pub token: Option<Token>,
    /// The cache alone, without a connection (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// A proxy (`HTTPS_PROXY`) and the hosts that go without it (`NO_PROXY`).
    pub proxy: Option<Proxy>,
    /// How patient transfers are.
    pub patience: Patience,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            cache: None,
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            proxy: None,
            patience: Patience::default(),
        }
    }
}

/// A proxy for every connection.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its address.
    pub url: String,
    /// Hosts that are reached without it, separated by commas.
    pub except: Option<String>,
}

#[cfg(any(feature = "hub", feature = "credentials"))]
impl Proxy {
    /// For a client; `None` where the address is none.
    pub(crate) fn connected(&self) -> Option<ureq::Proxy> {
        let plain = ureq::Proxy::new(&self.url).ok()?;
        let Some(except) = &self.except else { return Some(plain) };
        let mut builder = ureq::Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
        builder =
            except.split(',').map(str::trim).filter(|host| !host.is_empty()).fold(builder, |b, host| b.no_proxy(host));
        builder = plain.username().into_iter().fold(builder, |builder, name| builder.username(name));
        builder = plain.password().into_iter().fold(builder, |builder, word| builder.password(word));
        builder.build().ok()
    }
}

/// How patient transfers are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries that fail one after the other without a byte in between.
    pub tries: u32,
    /// The wait after the first failed try; doubled after each further one, up to [`Patience::longest`].
    pub first: Duration,
    /// The longest wait, also of those that the Hub asks for.
    pub longest: Duration,
    /// A connection that is silent for so long is broken.
    pub silence: Duration,
    /// Files that are fetched at the same time.
    pub workers: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            workers: 8,
        }
    }
}

/// A secret, and where it came from; messages show only the latter.
#[derive(Clone)]
pub struct Token {
    pub(crate) secret: String,
    pub(crate) origin: String,
}

impl Token {
    /// The secret as read from `origin` (`HF_TOKEN`, or a file); `None` where there is nothing in it.
    pub fn new(secret: &str, origin: impl Into<String>) -> Option<Self> {
        let secret = secret.trim().to_owned();
        (!secret.is_empty()).then(|| Self { secret, origin: origin.into() })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}

/// Who asks Amazon, where, and how patiently; what its own tools find in the environment.
#[derive(Debug, Clone, Default)]
pub struct AwsConfig {
    /// Keys that are given outright (`AWS_ACCESS_KEY_ID` and what belongs to it); they come first.
    pub keys: Option<AwsKeys>,
    /// The profile (`AWS_PROFILE`); `default` where none is named.
    pub profile: Option<String>,
    /// Profiles, roles and SSO sessions (`AWS_CONFIG_FILE`, or `~/.aws/config`).
    pub config_file: Option<PathBuf>,
    /// Keys of profiles (`AWS_SHARED_CREDENTIALS_FILE`, or `~/.aws/credentials`).
    pub credentials_file: Option<PathBuf>,
    /// Whether the machine itself is asked last: the role of a container or an instance, which Amazon's own crate finds.
    pub machine: bool,
    /// The region (`AWS_REGION`); the profile's where absent.
    pub region: Option<String>,
    /// Addresses instead of Amazon's own.
    pub endpoints: AwsEndpoints,
    /// A proxy (`HTTPS_PROXY`) and the hosts that go without it (`NO_PROXY`).
    pub proxy: Option<Proxy>,
    /// How patient requests are, and how many files or parts are sent at the same time.
    pub patience: Patience,
}

/// Addresses instead of Amazon's own (`AWS_ENDPOINT_URL`, or one for a service).
#[derive(Debug, Clone, Default)]
pub struct AwsEndpoints {
    /// `AWS_ENDPOINT_URL_S3`.
    pub s3: Option<String>,
    /// `AWS_ENDPOINT_URL_BEDROCK`.
    pub bedrock: Option<String>,
    /// `AWS_ENDPOINT_URL_BEDROCK_RUNTIME`.
    pub bedrock_runtime: Option<String>,
}

/// Keys of an account; messages show only the first.
#[derive(Clone)]
pub struct AwsKeys {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// `AWS_SESSION_TOKEN`.
    pub session: Option<String>,
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsKeys({})", self.id)
    }
}
