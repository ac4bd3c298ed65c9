//! The connection of Amazon's crates: `ureq`'s, as for the Hub, so that there is one TLS, one proxy, one patience.

use std::io::{self, Read};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::Response as SdkResponse;
use aws_smithy_types::body::SdkBody;
use ureq::http::{Request, Response, header};
use ureq::{Agent, AsSendBody, SendBody};

use super::error::AwsError;
use crate::config::AwsConfig;

/// Bytes of an answer that is read into memory.
const ANSWER_LIMIT: u64 = 256 << 20;

/// Connections that are kept and used again.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    agent: Agent,
}

impl Connection {
    pub(crate) fn new(config: &AwsConfig) -> Result<Self, AwsError> {
        let setting = |what, value: &str, expected| AwsError::Setting { what, value: value.to_owned(), expected };
        let proxy =
            match &config.proxy {
                None => None,
                Some(given) => Some(given.connected().ok_or_else(|| {
                    setting("HTTPS_PROXY", &given.url, "expected an address such as http://proxy:3128")
                })?),
            };
        let endpoints = &config.endpoints;
        for (what, endpoint) in [
            ("AWS_ENDPOINT_URL_S3", &endpoints.s3),
            ("AWS_ENDPOINT_URL_BEDROCK", &endpoints.bedrock),
            ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", &endpoints.bedrock_runtime),
        ] {
            let is_address = |text: &String| text.starts_with("https://") || text.starts_with("http://");
            if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| !is_address(endpoint)) {
                return Err(setting(what, endpoint, "expected an address that begins with https://"));
            }
        }
        let patience = &config.patience;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect of S3 means another region, and a signature holds for one address.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("rankine/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.silence))
            .timeout_recv_response(Some(patience.silence * 2))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .max_idle_connections_per_host(patience.workers)
            .build()
            .new_agent();
        Ok(Self { agent })
    }

    /// Sends, and reads the whole answer; tells how much of the body has left.
    pub(crate) fn send(
        &self,
        request: Request<&[u8]>,
        limits: Limits,
        mut sent: impl FnMut(u64),
    ) -> Result<Response<Vec<u8>>, ureq::Error> {
        let (mut parts, body) = request.into_parts();
        let has_body = !body.is_empty() || parts.method == "PUT" || parts.method == "POST";
        parts.headers.remove(header::CONTENT_LENGTH);
        if has_body {
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        let mut reader = Counted { rest: body, sent: &mut sent };
        let answer = if has_body {
            let request = Request::from_parts(parts, SendBody::from_reader(&mut reader));
            self.agent.run(self.limited(request, limits))
        } else {
            self.agent.run(self.limited(Request::from_parts(parts, ()), limits))
        };
        let (parts, body) = answer?.into_parts();
        let bytes = body.into_with_config().limit(ANSWER_LIMIT).read_to_vec()?;
        Ok(Response::from_parts(parts, bytes))
    }

    fn limited<B: AsSendBody>(&self, request: Request<B>, limits: Limits) -> Request<B> {
        if limits.connect.is_none() && limits.answer.is_none() {
            return request;
        }
        let configured = self.agent.configure_request(request);
        configured.timeout_connect(limits.connect).timeout_recv_response(limits.answer).build()
    }
}

/// How long a request may take, where it is not for the connection's patience.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) connect: Option<Duration>,
    pub(crate) answer: Option<Duration>,
}

struct Counted<'a, F: FnMut(u64)> {
    rest: &'a [u8],
    sent: &'a mut F,
}

impl<F: FnMut(u64)> Read for Counted<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(buffer)?;
        (self.sent)(count as u64);
        Ok(count)
    }
}

/// The same for the SDK. A call waits in the thread that asks: there is only one, and it has nothing else to do.
#[derive(Debug, Clone)]
pub(crate) struct SdkClient(pub(crate) Connection);

impl HttpClient for SdkClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The machine's own service answers at once or is not there: the SDK gives it a second.
        let limits = Limits { connect: settings.connect_timeout(), answer: settings.read_timeout() };
        SharedHttpConnector::new(SdkConnector { connection: self.0.clone(), limits })
    }
}

#[derive(Debug)]
struct SdkConnector {
    connection: Connection,
    limits: Limits,
}

impl HttpConnector for SdkConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(self.answer(request))
    }
}

impl SdkConnector {
    fn answer(&self, request: HttpRequest) -> Result<SdkResponse<SdkBody>, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = request.into_parts();
        let bytes = body.bytes().ok_or_else(|| ConnectorError::user("a body that is not in memory".into()))?;
        let answer = self.connection.send(Request::from_parts(parts, bytes), self.limits, |_| {});
        let answer = answer.map_err(|error| match error {
            ureq::Error::Timeout(_) => ConnectorError::timeout(error.into()),
            error => ConnectorError::io(error.into()),
        })?;
        SdkResponse::try_from(answer.map(SdkBody::from)).map_err(|error| ConnectorError::other(error.into(), None))
    }
}
