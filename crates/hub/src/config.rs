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
