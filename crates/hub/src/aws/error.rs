//! Why Amazon did not do what was asked, for the person who asked.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Something that S3 or Bedrock refused, or that did not get there.
#[derive(Debug, Error)]
pub enum AwsError {
    /// No keys anywhere.
    #[error("there are no AWS credentials: neither keys in the environment nor a profile `{profile}`{}", if *machine { ", nor a role of this machine" } else { "" })]
    NoCredentials {
        /// The profile that was looked for.
        profile: String,
        /// Whether the machine's own role was asked for.
        machine: bool,
    },
    /// A single sign-on that has ended.
    #[error("the single sign-on of profile `{profile}` has ended: {cause}")]
    Login {
        /// The profile.
        profile: String,
        /// What the credentials' chain says.
        cause: String,
    },
    /// A profile that cannot be used.
    #[error("profile `{profile}` gives no credentials: {cause}")]
    Credentials {
        /// The profile.
        profile: String,
        /// What the credentials' chain says.
        cause: String,
    },
    /// No region anywhere.
    #[error("no AWS region is set")]
    NoRegion,
    /// There is no such bucket.
    #[error("there is no bucket `{bucket}`")]
    NoBucket {
        /// Its name.
        bucket: String,
    },
    /// There is no such job, model or object.
    #[error("{what}: there is no such thing in {region}: {message}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where.
        region: String,
        /// What Amazon says.
        message: String,
    },
    /// The account may not do it.
    #[error("{what}: access denied: {message}")]
    Denied {
        /// What was asked for.
        what: String,
        /// What Amazon says.
        message: String,
        /// What must be allowed.
        needs: &'static str,
    },
    /// The keys held for a time that has passed.
    #[error("{what}: the credentials have expired: {message}")]
    Expired {
        /// What was asked for.
        what: String,
        /// What Amazon says.
        message: String,
    },
    /// The keys are wrong.
    #[error("{what}: the credentials are refused: {message}")]
    BadKeys {
        /// What was asked for.
        what: String,
        /// What Amazon says.
        message: String,
    },
    /// The clock is wrong.
    #[error("{what}: this machine's clock is too far off: {message}")]
    Clock {
        /// What was asked for.
        what: String,
        /// What Amazon says.
        message: String,
    },
    /// The bucket is elsewhere.
    #[error("bucket `{bucket}` is {}, and region `{asked}` was asked", actual.as_ref().map_or_else(|| "in another region".to_owned(), |region| format!("in region `{region}`")))]
    WrongRegion {
        /// Its name.
        bucket: String,
        /// The region that was asked.
        asked: String,
        /// Where it is, if that is told.
        actual: Option<String>,
    },
    /// There are other objects of these names.
    #[error("{address} holds other files of the same names: {}", files.join(", "))]
    Different {
        /// Where.
        address: String,
        /// Their names.
        files: Vec<String>,
    },
    /// What arrived is not what was sent.
    #[error("{address} is not what was sent: {found}, expected {expected}")]
    Damaged {
        /// The object.
        address: String,
        /// What is there.
        found: String,
        /// What was sent.
        expected: String,
    },
    /// An upload that was not finished.
    #[error("the upload to {address} was not finished: {}", missing.join(", "))]
    Unfinished {
        /// Where.
        address: String,
        /// What is missing or different.
        missing: Vec<String>,
    },
    /// Too many requests, or a service that is not well, also after waiting.
    #[error("{what}: Amazon is too busy: {message}")]
    Busy {
        /// What was asked for.
        what: String,
        /// What it says.
        message: String,
    },
    /// A limit of the account.
    #[error("{what}: a limit of the account is reached: {message}")]
    Quota {
        /// What was asked for.
        what: String,
        /// What Amazon says.
        message: String,
    },
    /// Something of what was asked cannot be.
    #[error("{what}: {message}")]
    Invalid {
        /// What was asked for.
        what: String,
        /// What Amazon says.
        message: String,
    },
    /// A model that did not start.
    #[error("{model} was not ready in {seconds} s")]
    NotReady {
        /// The model.
        model: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// No answer.
    #[error("{what}: no answer from {endpoint}: {cause}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Who was asked.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// An answer that is none of the above.
    #[error("{what}: Amazon answers {code}: {message}")]
    Server {
        /// What was asked for.
        what: String,
        /// Amazon's code, or the status.
        code: String,
        /// What it says.
        message: String,
    },
    /// A setting that cannot be used.
    #[error("{what} is {value}; {expected}")]
    Setting {
        /// Which.
        what: &'static str,
        /// As it is.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The system gives no more files to wait with.
    #[error("cannot wait for answers: {0}")]
    NoRuntime(io::Error),
    /// A file of the folder.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What is asked of a service, as errors tell it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// In words, with the address.
    pub(crate) what: &'a str,
    /// The bucket, where there is one.
    pub(crate) bucket: &'a str,
    pub(crate) region: &'a str,
    /// What the account must be allowed.
    pub(crate) needs: &'static str,
}

impl AwsError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// What a refusal means. `place` is the region that the answer names.
    pub(crate) fn of_code(asked: &Asked<'_>, code: &str, message: &str, place: Option<String>) -> Self {
        let (what, message) = (asked.what.to_owned(), message.to_owned());
        let elsewhere = place.as_ref().is_some_and(|place| place != asked.region);
        match code.trim_end_matches("Exception") {
            "NoSuchBucket" => Self::NoBucket { bucket: asked.bucket.to_owned() },
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraint" | "301" | "307" => {
                Self::WrongRegion { bucket: asked.bucket.to_owned(), asked: asked.region.to_owned(), actual: place }
            }
            "400" | "BadRequest" if elsewhere => {
                Self::WrongRegion { bucket: asked.bucket.to_owned(), asked: asked.region.to_owned(), actual: place }
            }
            "ExpiredToken" | "RequestExpired" | "TokenRefreshRequired" => Self::Expired { what, message },
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "UnrecognizedClient"
            | "InvalidClientTokenId"
            | "InvalidSignature"
            | "IncompleteSignature" => Self::BadKeys { what, message },
            "RequestTimeTooSkewed" => Self::Clock { what, message },
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "403" | "Forbidden" => {
                Self::Denied { what, message, needs: asked.needs }
            }
            "ServiceQuotaExceeded" | "TooManyTags" => Self::Quota { what, message },
            "ResourceNotFound" | "NoSuchKey" | "NoSuchUpload" | "404" => {
                Self::NotFound { what, region: asked.region.to_owned(), message }
            }
            "Validation" | "Conflict" | "ModelError" | "InvalidBucketName" | "InvalidArgument" => {
                Self::Invalid { what, message }
            }
            "Throttling" | "SlowDown" | "ServiceUnavailable" | "InternalServer" | "InternalError" | "ModelTimeout"
            | "500" | "503" | "429" => Self::Busy { what, message },
            _ => Self::Server { what, code: code.to_owned(), message },
        }
    }

    /// Whether the person's input is right and only the surroundings are not: a connection, a service, a limit.
    pub fn is_outside(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Unreachable { .. }
                | Self::Damaged { .. }
                | Self::NotReady { .. }
                | Self::Server { .. }
                | Self::Quota { .. }
                | Self::NoRuntime(_)
                | Self::Io { .. }
        )
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::NoCredentials { .. } => {
                "run `aws configure` or `aws sso login`, name a profile with `AWS_PROFILE=...`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned()
            }
            Self::Login { profile, .. } => format!("sign in again: `aws sso login --profile {profile}`"),
            Self::Credentials { profile, .. } => format!("see what `aws sts get-caller-identity --profile {profile}` says"),
            Self::NoRegion => "set `AWS_REGION=us-east-1`, or `region` in the profile".to_owned(),
            Self::NoBucket { bucket } => format!("look for a misspelling, or make it: `aws s3 mb s3://{bucket}`"),
            Self::NotFound { .. } => "look for a misspelling; jobs and models are only seen in their own region (AWS_REGION)".to_owned(),
            Self::Denied { needs, .. } => format!("the account or role needs {needs}; who you are: `aws sts get-caller-identity`"),
            Self::Expired { .. } => "get new ones (`aws sso login`, or whatever gave you AWS_SESSION_TOKEN) and run the same command again: what was sent whole is kept".to_owned(),
            Self::BadKeys { .. } => "look for a mistake in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, which belong together".to_owned(),
            Self::Clock { .. } => "set the clock of this machine".to_owned(),
            Self::WrongRegion { actual: Some(region), .. } => format!("run the same command with `AWS_REGION={region}`"),
            Self::WrongRegion { actual: None, bucket, .. } => format!("ask where it is: `aws s3api get-bucket-location --bucket {bucket}`, and set AWS_REGION"),
            Self::Different { .. } => "choose another folder, or write over them with `--force`".to_owned(),
            Self::Damaged { .. } => "run the same command again with `--force`; if it stays so, something between here and S3 changes files".to_owned(),
            Self::Unfinished { .. } => "run the same command that uploaded it again: it goes on where that one ended".to_owned(),
            Self::Busy { .. } => "wait a few minutes and run the same command again".to_owned(),
            Self::Quota { .. } => "another import may be running (one at a time), or three imported models are there already: wait, delete one, or ask for more in Service Quotas".to_owned(),
            Self::Invalid { .. } => "correct what is named".to_owned(),
            Self::NotReady { .. } => "a model that was not asked for five minutes is stopped, and a large one takes longer to start: run the same command again".to_owned(),
            Self::Unreachable { .. } => "check the connection, the region, HTTPS_PROXY and AWS_ENDPOINT_URL; what was sent whole is kept".to_owned(),
            Self::Server { .. } => "look the code up in Amazon's list of errors for the service".to_owned(),
            Self::Setting { .. } => "correct it or leave it out".to_owned(),
            Self::NoRuntime(_) => "close other programs, or raise the limit of open files (`ulimit -n`)".to_owned(),
            Self::Io { .. } => "check the path and its permissions".to_owned(),
        }
    }
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = error.source();
    }
    parts.join(": ")
}
