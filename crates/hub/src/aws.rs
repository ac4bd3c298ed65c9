//! An account on Amazon: where its keys come from, its region, and the connection that all of its services share.

mod connection;
mod error;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use tokio::runtime::Runtime;

use crate::config::AwsConfig;
pub(crate) use connection::{Connection, Limits, SdkClient};
pub(crate) use error::Asked;
pub use error::AwsError;
pub(crate) use error::chain as error_chain;

/// An account, as far as its services are used here. Calls wait for their answer: nothing here is asynchronous.
#[derive(Debug)]
pub struct Aws {
    pub(crate) config: AwsConfig,
    pub(crate) region: String,
    pub(crate) connection: Connection,
    pub(crate) provider: SharedCredentialsProvider,
}

impl Aws {
    /// With these settings; profiles are read, and nothing is connected yet.
    ///
    /// # Errors
    /// No region, a profile file that cannot be read, an address that is none.
    pub fn new(config: AwsConfig) -> Result<Self, AwsError> {
        let connection = Connection::new(&config)?;
        let mut files = EnvConfigFiles::builder();
        // Without either, an empty file: else the crate would look for its own.
        let missing = config.config_file.is_none() && config.credentials_file.is_none();
        for (kind, path) in [
            (EnvConfigFileKind::Config, &config.config_file),
            (EnvConfigFileKind::Credentials, &config.credentials_file),
        ] {
            if let Some(path) = path {
                files = files.with_file(kind, path);
            }
        }
        if missing {
            files = files.with_contents(EnvConfigFileKind::Config, "");
        }
        let files = files.build();
        let profile = config.profile.clone().unwrap_or_else(|| "default".to_owned());
        let provider_config = |region: Option<&str>| {
            ProviderConfig::without_region()
                .with_behavior_version(Some(BehaviorVersion::latest()))
                .with_http_client(SdkClient(connection.clone()))
                .with_region(region.map(|region| Region::new(region.to_owned())))
        };
        let runtime = runtime()?;
        let from_profile = || {
            let region = ProfileFileRegionProvider::builder()
                .configure(&provider_config(None))
                .profile_name(&profile)
                .profile_files(files.clone())
                .build();
            runtime.block_on(region.region()).map(|region| region.to_string())
        };
        let region = config.region.clone().or_else(from_profile).ok_or(AwsError::NoRegion)?;
        let provider = match &config.keys {
            Some(keys) => SharedCredentialsProvider::new(Credentials::new(
                &keys.id,
                &keys.secret,
                keys.session.clone(),
                None,
                "environment",
            )),
            None => {
                let settings = provider_config(Some(&region));
                let from_profile = ProfileFileCredentialsProvider::builder()
                    .configure(&settings)
                    .profile_name(&profile)
                    .profile_files(files)
                    .build();
                let mut chain = CredentialsProviderChain::first_try("Profile", from_profile);
                if config.machine {
                    let token = WebIdentityTokenCredentialsProvider::builder().configure(&settings).build();
                    chain = chain
                        .or_else("WebIdentityToken", token)
                        .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(&settings).build())
                        .or_else(
                            "Ec2InstanceMetadata",
                            ImdsCredentialsProvider::builder().configure(&settings).build(),
                        );
                }
                SharedCredentialsProvider::new(chain)
            }
        };
        Ok(Self { config, region, connection, provider })
    }

    /// The region that is asked.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Keys, so that their absence is told as such, and before anything is sent.
    pub(crate) fn credentials(&self, runtime: &Runtime) -> Result<Credentials, AwsError> {
        runtime.block_on(self.provider.provide_credentials()).map_err(|error| self.no_credentials(&error))
    }

    fn no_credentials(&self, error: &CredentialsError) -> AwsError {
        let profile = self.config.profile.clone().unwrap_or_else(|| "default".to_owned());
        let cause = error_chain(error);
        let lower = cause.to_lowercase();
        if matches!(error, CredentialsError::CredentialsNotLoaded(_)) && !lower.contains("sso") {
            return AwsError::NoCredentials { profile, machine: self.config.machine };
        }
        if lower.contains("sso") || lower.contains("token has expired") {
            return AwsError::Login { profile, cause };
        }
        AwsError::Credentials { profile, cause }
    }
}

/// What asynchronous crates run on: the thread that calls, timers, and the processes of profiles.
pub(crate) fn runtime() -> Result<Runtime, AwsError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AwsError::NoRuntime)
}
