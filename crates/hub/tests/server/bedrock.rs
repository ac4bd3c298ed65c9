//! Bedrock's import jobs and the answers of imported models, as its API has them in JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::amazon::{Caller, Service};
use super::wire::{Request, Response, unescaped};

/// Jobs and models.
#[derive(Default)]
pub(crate) struct Bedrock {
    pub(crate) jobs: Vec<Job>,
    /// How often a job answers that it goes on.
    pub(crate) polls: usize,
    /// What jobs end with, where they fail.
    pub(crate) failure: Option<&'static str>,
    /// How often a role is called invalid, as a new one is.
    pub(crate) unknown_role: usize,
    /// How often a model is not ready.
    pub(crate) starts: usize,
    /// Bodies that models were asked with.
    pub(crate) asked: Vec<Value>,
    pub(crate) tokens: BTreeMap<String, String>,
}

/// A job.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) arn: String,
    pub(crate) request: Value,
    polled: usize,
}

/// The model of the first job.
pub(crate) const MODEL: &str = "arn:aws:bedrock:us-east-1:111122223333:imported-model/abc123";

impl Bedrock {
    fn create(&mut self, request: &Request) -> Response {
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return Self::error(400, "SerializationException", "no JSON");
        };
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let token = text("clientRequestToken");
        if let Some(arn) = self.tokens.get(&token).filter(|_| !token.is_empty()) {
            return created(arn);
        }
        if self.unknown_role > 0 {
            self.unknown_role -= 1;
            return Self::error(400, "ValidationException", "The provided role ARN is invalid.");
        }
        let folder = body["modelDataSource"]["s3DataSource"]["s3Uri"].as_str().unwrap_or_default();
        if !folder.starts_with("s3://") || !folder.ends_with('/') || !text("roleArn").starts_with("arn:aws:iam::") {
            return Self::error(400, "ValidationException", "1 validation error detected: s3Uri or roleArn");
        }
        if self.jobs.iter().any(|job| job.polled <= self.polls) {
            return Self::error(400, "ServiceQuotaExceededException", "Account has reached the limit of import jobs");
        }
        let arn = format!("arn:aws:bedrock:us-east-1:111122223333:model-import-job/job{}", self.jobs.len());
        self.tokens.insert(token, arn.clone());
        self.jobs.push(Job { name: text("jobName"), arn: arn.clone(), request: body, polled: 0 });
        created(&arn)
    }

    fn get(&mut self, identifier: &str) -> Response {
        let found = self.jobs.iter_mut().find(|job| job.arn == identifier || job.name == identifier);
        let Some(job) = found else {
            return Self::error(404, "ResourceNotFoundException", "Could not find the job");
        };
        job.polled += 1;
        let mut answer = json!({
            "jobArn": job.arn, "jobName": job.name, "status": "InProgress",
            "importedModelName": job.request["importedModelName"],
            "roleArn": job.request["roleArn"],
            "modelDataSource": job.request["modelDataSource"],
            "creationTime": "2026-01-02T03:04:05.000Z", "lastModifiedTime": "2026-01-02T03:05:05.000Z",
        });
        if job.polled > self.polls {
            answer["endTime"] = json!("2026-01-02T03:14:05.000Z");
            match self.failure {
                Some(message) => {
                    answer["status"] = json!("Failed");
                    answer["failureMessage"] = json!(message);
                }
                None => {
                    answer["status"] = json!("Completed");
                    answer["importedModelArn"] = json!(MODEL);
                }
            }
        }
        Response::json(&answer)
    }

    fn invoke(&mut self, model: &str, request: &Request) -> Response {
        if model != MODEL {
            return Self::error(404, "ResourceNotFoundException", "Could not find the model");
        }
        if self.starts > 0 {
            self.starts -= 1;
            return Self::error(429, "ModelNotReadyException", "Model is not ready for inference.");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        if body.get("prompt").is_none() && body.get("messages").is_none() {
            return Self::error(400, "ValidationException", "Neither prompt nor messages");
        }
        self.asked.push(body);
        Response::json(&json!({"generation": " Paris.", "stop_reason": "stop", "prompt_token_count": 5}))
    }
}

impl Service for Bedrock {
    const NAME: &'static str = "bedrock";

    fn answer(&mut self, request: &Request, _: &Caller) -> Response {
        let path = unescaped(&request.path);
        match request.method.as_str() {
            "POST" if path == "/model-import-jobs" => self.create(request),
            "GET" => match path.strip_prefix("/model-import-jobs/") {
                Some(identifier) => self.get(identifier),
                None => Self::error(404, "UnknownOperationException", "no such operation"),
            },
            "POST" => match path.strip_prefix("/model/").and_then(|rest| rest.strip_suffix("/invoke")) {
                Some(model) => self.invoke(model, request),
                None => Self::error(404, "UnknownOperationException", "no such operation"),
            },
            _ => Self::error(404, "UnknownOperationException", "no such operation"),
        }
    }

    fn error(status: u16, code: &str, message: &str) -> Response {
        // Signatures are refused with codes of their own.
        let code = match code {
            "AccessDenied" => "AccessDeniedException",
            "ExpiredToken" => "ExpiredTokenException",
            "InvalidAccessKeyId" => "UnrecognizedClientException",
            code => code,
        };
        let mut answer = Response::json(&json!({"message": message}));
        answer.status = status;
        answer.with("x-amzn-ErrorType", code)
    }
}

fn created(arn: &str) -> Response {
    let mut answer = Response::json(&json!({"jobArn": arn}));
    answer.status = 201;
    answer
}
