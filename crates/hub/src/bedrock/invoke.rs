//! An answer of an imported model, which may have to start first.

use std::time::Duration;

use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::{BehaviorVersion, Region};
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::primitives::Blob;
use aws_smithy_types::retry::RetryConfig;
use serde_json::Value as Json;

use crate::aws::{Aws, AwsError, SdkClient, runtime};

/// What the account must be allowed.
const NEEDS: &str = "bedrock:InvokeModel for the imported model";

impl Aws {
    /// Asks a model, and asks again while it starts: `starts` times, `pause` apart. `waiting` hears why and how long.
    ///
    /// # Errors
    /// A model that is not there, a body that it does not take, one that does not start.
    pub fn invoke(
        &self,
        model: &str,
        body: &Json,
        starts: u32,
        pause: Duration,
        waiting: &dyn Fn(&str, Duration),
    ) -> Result<Json, AwsError> {
        let (runtime, client) = (runtime()?, self.bedrock_runtime());
        self.credentials(&runtime)?;
        let what = format!("asking `{model}`");
        let patience = &self.config.patience;
        let (mut not_ready, mut failed) = (0, 0);
        loop {
            let request = client
                .invoke_model()
                .model_id(model)
                .content_type("application/json")
                .accept("application/json")
                .body(Blob::new(body.to_string()));
            let error = match runtime.block_on(request.send()) {
                Ok(answer) => {
                    let bytes = answer.body().as_ref();
                    return serde_json::from_slice(bytes).map_err(|error| AwsError::Server {
                        what,
                        code: "something that is no JSON".to_owned(),
                        message: format!("{error} in `{}`", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])),
                    });
                }
                Err(error) => error,
            };
            let starting = error.as_service_error().and_then(|error| error.code()) == Some("ModelNotReadyException");
            let wait = if starting {
                not_ready += 1;
                if not_ready > starts {
                    let seconds = (pause * starts).as_secs();
                    return Err(AwsError::NotReady { model: model.to_owned(), seconds });
                }
                waiting("the model is starting", pause);
                pause
            } else {
                let error = self.refusal(&what, NEEDS, &error, self.config.endpoints.bedrock_runtime.as_deref());
                failed += 1;
                let passing = matches!(error, AwsError::Busy { .. } | AwsError::Unreachable { .. });
                if !passing || failed >= patience.tries {
                    return Err(error);
                }
                let wait = (patience.first * 2_u32.saturating_pow(failed - 1)).min(patience.longest);
                waiting(&error.to_string(), wait);
                wait
            };
            std::thread::sleep(wait);
        }
    }

    fn bedrock_runtime(&self) -> Client {
        let mut config = aws_sdk_bedrockruntime::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(self.provider.clone())
            .http_client(SdkClient(self.connection.clone()))
            // It is asked again above, where the person is told of it.
            .retry_config(RetryConfig::disabled());
        config.set_endpoint_url(self.config.endpoints.bedrock_runtime.clone());
        Client::from_conf(config.build())
    }
}
