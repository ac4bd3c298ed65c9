//! A folder on S3 becomes a model of Bedrock, and the model answers.

use std::sync::Mutex;
use std::time::Duration;

use rankine_hub::{AwsError, ImportRequest, ImportStatus, Polling, S3Address, likely_cause};
use serde_json::json;

use super::account;
use super::amazon::{Amazon, EXPIRED, KEY, STRANGER, What};
use super::bedrock::{Bedrock, MODEL};

const POLLING: Polling = Polling { first: Duration::from_millis(2), longest: Duration::from_millis(10) };
const ROLE: &str = "arn:aws:iam::111122223333:role/import";

fn server(service: Bedrock) -> Amazon<Bedrock> {
    Amazon::start(service)
}

fn folder() -> S3Address {
    "s3://models/tuned/smol".parse().unwrap()
}

fn request(from: &S3Address) -> ImportRequest<'_> {
    ImportRequest { job_name: "smol-1", model_name: "smol", role: ROLE, from }
}

#[test]
fn an_import_is_submitted_waited_for_and_answers() {
    let server = server(Bedrock { polls: 3, unknown_role: 2, starts: 4, ..Bedrock::default() });
    let aws = account(KEY, server.endpoint());
    let waited = Mutex::new(Vec::new());
    let arn =
        aws.start_import(&request(&folder()), POLLING, &|error, _| waited.lock().unwrap().push(error.to_string()));
    let arn = arn.unwrap();
    assert_eq!(waited.lock().unwrap().len(), 2, "the role is not known yet");
    {
        let state = server.state();
        let sent = &state.service.jobs[0].request;
        assert_eq!(sent["jobName"], "smol-1");
        assert_eq!(sent["importedModelName"], "smol");
        assert_eq!(sent["roleArn"], ROLE);
        assert_eq!(sent["modelDataSource"]["s3DataSource"]["s3Uri"], "s3://models/tuned/smol/");
        assert_eq!(state.service.jobs[0].arn, arn);
    }
    // One answer is lost, another is a failure that passes.
    server.fault("GET", 1, What::Hang);
    server.fault("GET", 1, What::Status(500, "InternalServerException"));
    let told = Mutex::new(Vec::new());
    let job = aws.wait_for_import(&arn, POLLING, &|job, _| told.lock().unwrap().push(job.status)).unwrap();
    assert_eq!(
        told.lock().unwrap().as_slice(),
        &[ImportStatus::InProgress, ImportStatus::InProgress, ImportStatus::InProgress, ImportStatus::Completed]
    );
    assert_eq!((job.model.as_deref(), job.failure.as_deref()), (Some(MODEL), None));
    assert_eq!((job.name.as_str(), job.model_name.as_str()), ("smol-1", "smol"));
    assert_eq!(job.from.as_deref(), Some("s3://models/tuned/smol/"));
    assert_eq!(aws.import_job("smol-1").unwrap(), job, "by its name, too");
    // The model starts when it is first asked.
    let body = json!({"prompt": "The capital of France is", "max_tokens": 5});
    let pause = Duration::from_millis(2);
    let waits = Mutex::new(0);
    let answer = aws.invoke(MODEL, &body, 10, pause, &|_, _| *waits.lock().unwrap() += 1).unwrap();
    assert_eq!(answer["generation"], " Paris.");
    assert_eq!(*waits.lock().unwrap(), 4);
    assert_eq!(server.state().service.asked, [body]);
}

#[test]
fn a_failed_import_says_what_is_likely_behind_it() {
    let message = "Model architecture GemmaForCausalLM is not supported";
    let server = server(Bedrock { failure: Some(message), ..Bedrock::default() });
    let aws = account(KEY, server.endpoint());
    let arn = aws.start_import(&request(&folder()), POLLING, &|_, _| {}).unwrap();
    let job = aws.wait_for_import(&arn, POLLING, &|_, _| {}).unwrap();
    assert_eq!((job.status, job.failure.as_deref(), job.model), (ImportStatus::Failed, Some(message), None));
    assert!(likely_cause(message).unwrap().fix.contains("rankine check"));
}

#[test]
fn every_refusal_has_its_next_step() {
    let server = server(Bedrock { polls: 100, starts: 100, ..Bedrock::default() });
    let start = |key: &str, request: &ImportRequest<'_>| {
        let error = account(key, server.endpoint()).start_import(request, POLLING, &|_, _| {}).unwrap_err();
        let text = format!("{error} / {}", error.help());
        (error, text)
    };
    let folder = folder();
    let (error, text) = start(STRANGER, &request(&folder));
    assert!(matches!(error, AwsError::Denied { .. }) && text.contains("iam:PassRole"), "{text}");
    let (error, text) = start(EXPIRED, &request(&folder));
    assert!(matches!(error, AwsError::Expired { .. }), "{text}");
    let (error, text) = start("AKIAUNKNOWN", &request(&folder));
    assert!(matches!(error, AwsError::BadKeys { .. }), "{text}");
    let (error, text) = start(KEY, &ImportRequest { model_name: "smol.tuned", ..request(&folder) });
    assert!(matches!(error, AwsError::Invalid { .. }) && text.contains("`smol.tuned`"), "{text}");
    let (error, text) = start(KEY, &ImportRequest { role: "import", ..request(&folder) });
    assert!(matches!(error, AwsError::Invalid { .. }) && text.contains("roleArn"), "{text}");
    assert!(server.state().service.jobs.is_empty());
    server.state().service.unknown_role = 100;
    let (_, text) = start(KEY, &request(&folder));
    assert!(text.contains("role ARN is invalid"), "{text}");
    server.state().service.unknown_role = 0;
    let aws = account(KEY, server.endpoint());
    aws.start_import(&request(&folder), POLLING, &|_, _| {}).unwrap();
    let (error, text) = start(KEY, &request(&folder));
    assert!(matches!(error, AwsError::Quota { .. }) && text.contains("one at a time"), "{text}");
    let error = aws.import_job("other").unwrap_err();
    assert!(matches!(error, AwsError::NotFound { .. }), "{error}");
    assert!(error.help().contains("region"), "{}", error.help());
    let pause = Duration::from_millis(1);
    let ask = |model: &str, body| aws.invoke(model, &body, 3, pause, &|_, _| {}).unwrap_err();
    let error = ask(MODEL, json!({"prompt": "a"}));
    assert!(matches!(error, AwsError::NotReady { .. }), "{error}");
    assert_eq!(server.requests("/invoke").len(), 4, "once, and three times more");
    let error = ask("arn:aws:bedrock:us-east-1:1:imported-model/other", json!({"prompt": "a"}));
    assert!(matches!(error, AwsError::NotFound { .. }), "{error}");
    server.state().service.starts = 0;
    let error = ask(MODEL, json!({"inputText": "a"}));
    assert!(matches!(error, AwsError::Invalid { .. }), "{error}");
    server.requests("");
    server.fault("/invoke", 2, What::Status(429, "ThrottlingException"));
    server.fault("/invoke", 1, What::Hang);
    aws.invoke(MODEL, &json!({"prompt": "a"}), 3, pause, &|_, _| {}).unwrap();
    assert_eq!(server.requests("/invoke").len(), 4);
}
