//! The three commands, where the program was built with them.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use rankine_hub::{Aws, ImportJob, ImportRequest, ImportStatus, Polling, S3Address, job_name_of, likely_cause};
use serde_json::{Value, json};

use crate::Environment;
use crate::account::{failure, s3_address};
use crate::cli::{BedrockImportArgs, BedrockInvokeArgs, BedrockStatusArgs};
use crate::fault::{Failure, Fault};
use crate::terminal;
use crate::terminal::numbers::duration;

/// Time between two lines of a wait.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// How often a model that starts is asked, and the time between: users measured starts of 96 to 110 seconds.
const STARTS: (u32, Duration) = (10, Duration::from_secs(15));

/// Submits, waits, and prints the model's ARN.
pub(super) fn import(args: &BedrockImportArgs, environment: &Environment) -> Result<(), Failure> {
    let Some(from) = s3_address(&args.from)? else {
        let fault = Fault::new(format!("`{}` is no folder on S3", args.from));
        return Err(Failure::bad_input(fault.help(
            "upload it first: `rankine export --out s3://bucket/folder`, or `rankine push DIR s3://bucket/folder`",
        )));
    };
    let model_name = args.name.clone().unwrap_or_else(|| model_name_of(&from));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let job_name = args.job_name.clone().unwrap_or_else(|| job_name_of(&model_name, now));
    let aws = account(environment, args.region.as_deref())?;
    check_whole(&aws, &from, args.json)?;
    let request = ImportRequest { job_name: &job_name, model_name: &model_name, role: &args.role, from: &from };
    let job = aws.start_import(&request, Polling::default(), &|error, wait| {
        terminal::note(&format!("{error}; a new role is not known everywhere at once; again in {}", duration(wait)));
    });
    let job = job.map_err(|error| failure(&error))?;
    if args.no_wait {
        if args.json {
            return terminal::print(&format!(
                "{:#}\n",
                json!({"job": job, "job_name": job_name, "status": "InProgress"})
            ));
        }
        terminal::note(&format!("submitted; `rankine bedrock status {job_name}` says how far it is"));
        return terminal::print(&format!("{job}\n"));
    }
    if !args.json {
        terminal::note(&format!("{job_name}: submitted as {job}"));
    }
    finish(&wait(&aws, &job, args.json)?, args.json)
}

/// Prints how far a job is.
pub(super) fn status(args: &BedrockStatusArgs, environment: &Environment) -> Result<(), Failure> {
    let aws = account(environment, args.region.as_deref())?;
    let job = if args.wait {
        wait(&aws, &args.job, args.json)?
    } else {
        aws.import_job(&args.job).map_err(|error| failure(&error))?
    };
    finish(&job, args.json)
}

/// Asks, and prints the answer's text.
pub(super) fn invoke(args: &BedrockInvokeArgs, environment: &Environment) -> Result<(), Failure> {
    let body = body(args)?;
    let aws = account(environment, args.region.as_deref())?;
    let (starts, pause) = STARTS;
    let begin = Instant::now();
    let answer = aws.invoke(&args.model, &body, starts, pause, &|why, wait| {
        terminal::note(&format!("{why} ({} so far); again in {}", duration(begin.elapsed()), duration(wait)));
    });
    let answer = answer.map_err(|error| failure(&error))?;
    match text_of(&answer).filter(|_| !args.json) {
        Some(text) => terminal::print(&format!("{text}\n")),
        None => terminal::print(&format!("{answer:#}\n")),
    }
}

fn account(environment: &Environment, region: Option<&str>) -> Result<Aws, Failure> {
    let mut config = environment.aws.clone();
    if let Some(region) = region {
        config.region = Some(region.to_owned());
    }
    Aws::new(config).map_err(|error| failure(&error))
}

/// An import of half an upload fails after many minutes; who may not look into the folder is not held up.
#[cfg(feature = "s3")]
fn check_whole(aws: &Aws, from: &S3Address, quiet: bool) -> Result<(), Failure> {
    use rankine_hub::{AwsError, UploadState};

    let told = |text: &str| {
        if !quiet {
            terminal::note(text);
        }
    };
    match aws.upload_state(from) {
        Ok(UploadState::Whole { files, bytes }) => {
            let size = terminal::numbers::bytes(bytes);
            told(&format!("{from}: a whole upload of {files} files, {size}"));
        }
        Ok(UploadState::Unmarked) => {
            told(&format!("note: {from} was not uploaded by rankine; its files were not checked"))
        }
        Err(AwsError::Denied { .. }) => {
            told(&format!("note: {from} may not be listed with this account; its files were not checked"))
        }
        Err(error) => return Err(failure(&error)),
    }
    Ok(())
}

#[cfg(not(feature = "s3"))]
fn check_whole(_: &Aws, _: &S3Address, _: bool) -> Result<(), Failure> {
    Ok(())
}

/// The last folder's name, in the letters that a model's name may have.
fn model_name_of(from: &S3Address) -> String {
    let last = from.prefix.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&from.bucket);
    let mut name = String::new();
    for letter in last.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }) {
        if letter != '-' || (!name.is_empty() && !name.ends_with('-')) {
            name.push(letter);
        }
    }
    name.truncate(63);
    name
}

fn wait(aws: &Aws, job: &str, quiet: bool) -> Result<ImportJob, Failure> {
    let last = Mutex::new(None::<Instant>);
    let ended = aws.wait_for_import(job, Polling::default(), &|job, elapsed| {
        let Ok(mut last) = last.lock() else { return };
        let due = last.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if !quiet && job.status == ImportStatus::InProgress && due {
            *last = Some(Instant::now());
            terminal::note(&format!("{}: in progress, {} so far", job.name, duration(elapsed)));
        }
    });
    ended.map_err(|error| failure(&error))
}

/// Prints a job; one that failed ends the command so.
fn finish(job: &ImportJob, as_json: bool) -> Result<(), Failure> {
    let message = job.failure.clone().unwrap_or_default();
    let cause = (job.status == ImportStatus::Failed).then(|| likely_cause(&message)).flatten();
    let status = match job.status {
        ImportStatus::InProgress => "InProgress",
        ImportStatus::Completed => "Completed",
        ImportStatus::Failed => "Failed",
    };
    if as_json {
        let value = json!({
            "job": job.arn, "job_name": job.name, "status": status, "model": job.model, "model_name": job.model_name,
            "from": job.from, "failure": job.failure,
            "likely_cause": cause.map(|cause| cause.cause), "fix": cause.map(|cause| cause.fix),
        });
        terminal::print(&format!("{value:#}\n"))?;
    }
    match (job.status, &job.model) {
        (ImportStatus::Failed, _) => {
            let fault = Fault::new(format!("import `{}` failed: {message}", job.name));
            let fault = match cause {
                Some(cause) => fault.help(format!("likely: {}. {}", cause.cause, cause.fix)),
                None => fault.help("look for the message in Amazon's guide to Custom Model Import"),
            };
            Err(Failure::Failed(fault))
        }
        _ if as_json => Ok(()),
        (ImportStatus::Completed, Some(model)) => {
            terminal::note(&format!("{}: completed; `rankine bedrock invoke {model} --message ...` asks it", job.name));
            terminal::print(&format!("{model}\n"))
        }
        _ => terminal::print(&format!("{}: {status}\n", job.name)),
    }
}

/// The schema is the body's: `messages` is a chat, `prompt` with `max_tokens` a completion.
fn body(args: &BedrockInvokeArgs) -> Result<Value, Failure> {
    if let Some(text) = &args.body {
        return serde_json::from_str(text).map_err(|error| {
            let fault = Fault::new(format!("`--body` is no JSON: {error}"));
            Failure::bad_input(fault.help(r#"for example: --body '{"prompt": "Hello", "max_gen_len": 50}'"#))
        });
    }
    let mut body = match (&args.message, &args.prompt) {
        (Some(message), _) => {
            let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
            let messages: Vec<Value> = system.chain([json!({"role": "user", "content": message})]).collect();
            json!({"messages": messages})
        }
        (None, prompt) => json!({"prompt": prompt}),
    };
    body["max_tokens"] = args.max_tokens.into();
    if let Some(temperature) = args.temperature {
        body["temperature"] = temperature.into();
    }
    Ok(body)
}

/// The text of an answer in any of the three schemas.
fn text_of(answer: &Value) -> Option<&str> {
    let choice = &answer["choices"][0];
    [&choice["message"]["content"], &choice["text"], &answer["generation"]].into_iter().find_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_like_its_folder() {
        let name = |text: &str| model_name_of(&text.parse().unwrap());
        assert_eq!(name("s3://bucket/models/smol.v2_final"), "smol-v2-final");
        assert_eq!(name("s3://bucket/.__a--b"), "a-b");
        assert_eq!(name("s3://my-bucket"), "my-bucket");
    }

    #[test]
    fn the_text_of_every_schema() {
        for answer in [
            json!({"choices": [{"message": {"role": "assistant", "content": "a"}}]}),
            json!({"choices": [{"text": "a"}]}),
            json!({"generation": "a", "stop_reason": "stop"}),
        ] {
            assert_eq!(text_of(&answer), Some("a"));
        }
        assert_eq!(text_of(&json!({"outputs": []})), None);
    }
}
