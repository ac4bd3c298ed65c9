//! The `rankine` program: reads its arguments and its environment, and ends with a documented exit code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rankine::cli::Cli;
use rankine::{Environment, report};
use rankine_hub::{AwsConfig, AwsEndpoints, AwsKeys, DEFAULT_ENDPOINT, HubConfig, Proxy, Token};

/// A training step allocates the same sizes again and again; this allocator keeps its pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_pages();
    report::install();
    let cli = Cli::parse();
    // Deep templates and recipes are walked on the stack, as on a main thread's.
    let pool = rayon::ThreadPoolBuilder::new().stack_size(8 << 20).build_global();
    if let Err(error) = pool {
        eprintln!("rankine: no threads to work with: {error}");
        return ExitCode::FAILURE;
    }
    // On a thread of the pool: an operation then shares its work with the others, and does not wait for them outside.
    let run = || rayon::scope(|_| rankine::run(cli, &environment()));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            let code = failure.exit_code();
            report::print(failure);
            ExitCode::from(code)
        }
        Err(_) => {
            report::print_panic();
            ExitCode::FAILURE
        }
    }
}

/// Has the allocator keep the pages of freed tensors. Given back, they would be cleared by the kernel at the next step,
/// which costs more than the arithmetic of many an operation. `MIMALLOC_PURGE_DELAY` still wins.
fn keep_pages() {
    /// `mi_option_purge_delay`, in milliseconds; below 0 is never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: an option of the allocator, set before a thread is started.
    #[expect(unsafe_code, reason = "the allocator's options are functions of C")]
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1);
    }
}

/// Everything that is read from the environment is read here.
fn environment() -> Environment {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HOME").or_else(|| variable("USERPROFILE"));
    let user_cache = variable("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
    let hugging_face = variable("HF_HOME").or_else(|| user_cache.as_ref().map(|cache| cache.join("huggingface")));
    let cache = variable("RANKINE_CACHE").or_else(|| user_cache.map(|cache| cache.join("rankine")));
    Environment {
        hub: hub(hugging_face.as_deref()),
        aws: aws(home.as_deref()),
        cache: cache.unwrap_or_else(|| std::env::temp_dir().join("rankine-cache")),
        no_color: variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|term| term.as_os_str() == "dumb"),
    }
}

/// What Python's `huggingface_hub` reads, in its order.
fn hub(home: Option<&Path>) -> HubConfig {
    let is_on = |name: &str| {
        text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str()))
    };
    let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join("hub")));
    let from_environment =
        || ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| Token::new(&text(name)?, *name));
    let from_file = || {
        let path = text("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| home.map(|home| home.join("token")))?;
        Token::new(&std::fs::read_to_string(&path).ok()?, path.display().to_string())
    };
    let token = if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { from_environment().or_else(from_file) };
    HubConfig {
        cache,
        endpoint: text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
        token,
        offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(is_on),
        proxy: proxy(),
        ..HubConfig::default()
    }
}

/// What Amazon's own tools read, in their order.
fn aws(home: Option<&Path>) -> AwsConfig {
    let keys = match (text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Some(AwsKeys { id, secret, session: text("AWS_SESSION_TOKEN") }),
        _ => None,
    };
    let file = |name: &str, usual: &str| {
        let path = text(name).map(PathBuf::from).or_else(|| home.map(|home| home.join(".aws").join(usual)));
        path.filter(|path| path.is_file())
    };
    let endpoint = |name: &str| first(&[name, "AWS_ENDPOINT_URL"]);
    AwsConfig {
        keys,
        profile: first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]),
        config_file: file("AWS_CONFIG_FILE", "config"),
        credentials_file: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        machine: text("AWS_EC2_METADATA_DISABLED").is_none_or(|value| !value.eq_ignore_ascii_case("true")),
        region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
        endpoints: AwsEndpoints {
            s3: endpoint("AWS_ENDPOINT_URL_S3"),
            bedrock: endpoint("AWS_ENDPOINT_URL_BEDROCK"),
            bedrock_runtime: endpoint("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
        },
        proxy: proxy(),
        ..AwsConfig::default()
    }
}

fn proxy() -> Option<Proxy> {
    let url = first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?;
    Some(Proxy { url, except: first(&["NO_PROXY", "no_proxy"]) })
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn first(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| text(name))
}
