//! Bedrock's Custom Model Import: a folder on S3 becomes a model, and the model answers.

mod cause;
mod invoke;

use std::time::{Duration, Instant};

use aws_sdk_bedrock::Client;
use aws_sdk_bedrock::config::{BehaviorVersion, Region};
use aws_sdk_bedrock::error::ProvideErrorMetadata;
use aws_sdk_bedrock::operation::get_model_import_job::GetModelImportJobOutput;
use aws_sdk_bedrock::types::{ModelDataSource, ModelImportJobStatus, S3DataSource};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::retry::RetryConfig;

use crate::aws::{Asked, Aws, AwsError, SdkClient, error_chain, runtime};
use crate::s3::S3Address;
pub use cause::{LikelyCause, likely_cause};

/// What the account must be allowed.
const NEEDS: &str = "bedrock:CreateModelImportJob, bedrock:GetModelImportJob and iam:PassRole for the role";
/// Tries while a new role is not known everywhere yet.
const ROLE_TRIES: u32 = 6;

/// What is to be imported.
#[derive(Debug, Clone)]
pub struct ImportRequest<'a> {
    /// The job's name: letters, digits and hyphens, at most 63.
    pub job_name: &'a str,
    /// The model's name, in the same letters.
    pub model_name: &'a str,
    /// The role that Bedrock takes to read the bucket.
    pub role: &'a str,
    /// The folder.
    pub from: &'a S3Address,
}

/// A job as Bedrock tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportJob {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub status: ImportStatus,
    /// The name that the model gets.
    pub model_name: String,
    /// The model, once there is one.
    pub model: Option<String>,
    /// Where its files are.
    pub from: Option<String>,
    /// Why it failed, in Bedrock's words.
    pub failure: Option<String>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStatus {
    /// It goes on.
    InProgress,
    /// There is a model.
    Completed,
    /// There is none, and a reason.
    Failed,
}

/// How often a job is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Polling {
    /// The first wait; each further one is half as long again.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Polling {
    fn default() -> Self {
        Self { first: Duration::from_secs(5), longest: Duration::from_secs(60) }
    }
}

impl Aws {
    /// Submits an import; the job's ARN. A role that was made a moment ago is waited for.
    ///
    /// # Errors
    /// Names that Bedrock refuses, a role that it cannot take, another import that is running.
    pub fn start_import(
        &self,
        request: &ImportRequest<'_>,
        polling: Polling,
        waiting: &dyn Fn(&AwsError, Duration),
    ) -> Result<String, AwsError> {
        check_name("job", request.job_name)?;
        check_name("model", request.model_name)?;
        let what = format!("import of {} as `{}`", request.from.folder(), request.model_name);
        let (runtime, client) = (runtime()?, self.bedrock());
        self.credentials(&runtime)?;
        let source = S3DataSource::builder().s3_uri(request.from.folder()).build();
        let source = source.map_err(|error| AwsError::Invalid { what: what.clone(), message: error.to_string() })?;
        let mut tries = 0;
        loop {
            let create = client
                .create_model_import_job()
                .job_name(request.job_name)
                .imported_model_name(request.model_name)
                .role_arn(request.role)
                .model_data_source(ModelDataSource::S3DataSource(source.clone()));
            let error = match runtime.block_on(create.send()) {
                Ok(created) => return Ok(created.job_arn),
                Err(error) => self.refusal(&what, NEEDS, &error, self.config.endpoints.bedrock.as_deref()),
            };
            tries += 1;
            if !is_new_role(&error) || tries >= ROLE_TRIES {
                return Err(error);
            }
            let wait = (polling.first * tries).min(polling.longest);
            waiting(&error, wait);
            std::thread::sleep(wait);
        }
    }

    /// How far a job is, by its ARN or name.
    ///
    /// # Errors
    /// A job that is not there, and every refusal of Bedrock.
    pub fn import_job(&self, job: &str) -> Result<ImportJob, AwsError> {
        let (runtime, client) = (runtime()?, self.bedrock());
        self.credentials(&runtime)?;
        let what = format!("import job `{job}`");
        let answer = runtime.block_on(client.get_model_import_job().job_identifier(job).send());
        let answer =
            answer.map_err(|error| self.refusal(&what, NEEDS, &error, self.config.endpoints.bedrock.as_deref()))?;
        ImportJob::read(&answer).map_err(|message| AwsError::Server {
            what,
            code: "something unexpected".to_owned(),
            message,
        })
    }

    /// Waits until a job has ended, well or not. `telling` hears of every answer and of the time since the call.
    ///
    /// # Errors
    /// As for [`Aws::import_job`]. Answers that fail for the moment are waited through.
    pub fn wait_for_import(
        &self,
        job: &str,
        polling: Polling,
        telling: &dyn Fn(&ImportJob, Duration),
    ) -> Result<ImportJob, AwsError> {
        let (begin, mut wait, mut failed) = (Instant::now(), polling.first, 0);
        loop {
            match self.import_job(job) {
                Ok(job) => {
                    failed = 0;
                    telling(&job, begin.elapsed());
                    if job.status != ImportStatus::InProgress {
                        return Ok(job);
                    }
                }
                Err(error @ (AwsError::Busy { .. } | AwsError::Unreachable { .. })) => {
                    failed += 1;
                    if failed >= self.config.patience.tries {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(wait);
            wait = (wait * 3 / 2).min(polling.longest);
        }
    }

    fn bedrock(&self) -> Client {
        let patience = &self.config.patience;
        let mut config = aws_sdk_bedrock::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(self.provider.clone())
            .http_client(SdkClient(self.connection.clone()))
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(patience.tries)
                    .with_initial_backoff(patience.first)
                    .with_max_backoff(patience.longest),
            );
        config.set_endpoint_url(self.config.endpoints.bedrock.clone());
        Client::from_conf(config.build())
    }

    /// What an answer means that is none of what was asked for.
    pub(crate) fn refusal<E: ProvideErrorMetadata + std::error::Error + 'static, R: std::fmt::Debug>(
        &self,
        what: &str,
        needs: &'static str,
        error: &SdkError<E, R>,
        endpoint: Option<&str>,
    ) -> AwsError {
        let asked = Asked { what, bucket: "", region: &self.region, needs };
        match error.as_service_error() {
            Some(refused) => {
                let message = refused.message().map_or_else(|| error_chain(refused), str::to_owned);
                AwsError::of_code(&asked, refused.code().unwrap_or("something unexpected"), &message, None)
            }
            None => AwsError::Unreachable {
                what: what.to_owned(),
                endpoint: endpoint.map_or_else(|| format!("Bedrock in {}", self.region), str::to_owned),
                cause: error_chain(error),
            },
        }
    }
}

impl ImportJob {
    fn read(answer: &GetModelImportJobOutput) -> Result<Self, String> {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let status = match answer.status() {
            Some(ModelImportJobStatus::InProgress) => ImportStatus::InProgress,
            Some(ModelImportJobStatus::Completed) => ImportStatus::Completed,
            Some(ModelImportJobStatus::Failed) => ImportStatus::Failed,
            other => return Err(format!("status {other:?}, expected InProgress, Completed or Failed")),
        };
        let from = answer.model_data_source().and_then(|source| source.as_s3_data_source().ok());
        Ok(Self {
            arn: text(answer.job_arn()),
            name: text(answer.job_name()),
            status,
            model_name: text(answer.imported_model_name()),
            model: answer.imported_model_arn().filter(|arn| !arn.is_empty()).map(str::to_owned),
            from: from.map(|source| source.s3_uri().to_owned()),
            failure: answer.failure_message().filter(|message| !message.is_empty()).map(str::to_owned),
        })
    }
}

/// A job's name for a model, of the allowed letters: the model's name and the seconds since 1970.
pub fn job_name_of(model_name: &str, seconds: u64) -> String {
    let allowed = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let name: String = model_name.chars().map(allowed).take(50).collect();
    format!("{}-{seconds}", name.trim_matches('-'))
}

/// IAM tells its other halves of a role within seconds to a minute; until then Bedrock calls it invalid.
fn is_new_role(error: &AwsError) -> bool {
    match error {
        AwsError::Invalid { message, .. } => message.to_lowercase().contains("role"),
        _ => false,
    }
}

/// `^([0-9a-zA-Z][_-]?)+$`, at most 63.
fn check_name(what: &str, name: &str) -> Result<(), AwsError> {
    let sign = |byte: u8| byte == b'-' || byte == b'_';
    let bytes = name.as_bytes();
    let letters = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || sign(*byte));
    let doubled = bytes.windows(2).any(|pair| sign(pair[0]) && sign(pair[1]));
    if bytes.len() <= 63 && letters && !doubled && bytes.first().is_some_and(|byte| !sign(*byte)) {
        return Ok(());
    }
    Err(AwsError::Invalid {
        what: format!("the {what}'s name `{name}`"),
        message: "expected at most 63 letters and digits, with single `-` or `_` between them".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_bedrock_takes() {
        for name in ["a", "Tuned-1", "tuned_smol-v2-", &"a".repeat(63)] {
            check_name("model", name).unwrap();
        }
        for name in ["", "-a", "a--b", "a_-b", "a.b", "ä", &"a".repeat(64)] {
            check_name("model", name).unwrap_err();
        }
        assert_eq!(job_name_of("smol.tuned v2-", 17), "smol-tuned-v2-17");
        check_name("job", &job_name_of(&"x".repeat(63), 1_790_000_000)).unwrap();
    }
}
