//! The `rankine` program: reads its arguments and its environment, and ends with a documented exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rankine::cli::Cli;
use rankine::{Environment, report};

/// A training step allocates the same sizes again and again; this allocator keeps its pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    report::install();
    let cli = Cli::parse();
    match std::panic::catch_unwind(|| rankine::run(cli, &environment())) {
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

/// Everything that is read from the environment is read here.
fn environment() -> Environment {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HOME").or_else(|| variable("USERPROFILE"));
    let user_cache = variable("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
    let hugging_face = variable("HF_HOME").or_else(|| user_cache.as_ref().map(|cache| cache.join("huggingface")));
    let hub_cache = variable("HF_HUB_CACHE").or_else(|| hugging_face.map(|home| home.join("hub")));
    let cache = variable("RANKINE_CACHE").or_else(|| user_cache.map(|cache| cache.join("rankine")));
    Environment {
        hub_cache: hub_cache.filter(|folder| folder.is_dir()),
        cache: cache.unwrap_or_else(|| std::env::temp_dir().join("rankine-cache")),
        no_color: variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|term| term.as_os_str() == "dumb"),
    }
}
