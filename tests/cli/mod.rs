//! The `rankine` program as a process: its words, its exit codes, its files.

mod data;
mod devices;
mod files;
mod gguf;
mod memory;
mod plan;
mod quantised;
mod recipe;
mod run;
mod streamed;
mod time;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a run of the program left behind.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Panics with all that was said where `text` is not in stderr.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> &Self {
        // Long lines are wrapped for the terminal.
        let joined = self.stderr.replace("│", " ").split_whitespace().collect::<Vec<_>>().join(" ");
        let wanted = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(joined.contains(&wanted), "`{text}` is not in:\n{}", self.stderr);
        self
    }

    /// Panics with all that was said where the exit code is another.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `rankine` with these arguments in a folder, cut off from the user's own caches.
pub(crate) fn rankine(folder: &Path, arguments: &[&str]) -> Run {
    rankine_with_input(folder, arguments, "")
}

/// The same, with something on stdin.
pub(crate) fn rankine_with_input(folder: &Path, arguments: &[&str], input: &str) -> Run {
    ended(command(folder, arguments), input)
}

/// The program, not yet started, without a connection.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankine"));
    command.args(arguments).current_dir(folder).env("NO_COLOR", "1");
    command.env("RANKINE_CACHE", folder.join(".cache")).env("HF_HOME", folder.join(".huggingface"));
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs it to its end.
pub(crate) fn ended(mut command: Command, input: &str) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // A program that ends before it has read all is no fault.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the program ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A folder with a tiny untrained model, sums to learn and a recipe; `init` is said to `rankine init` as well.
pub(crate) fn sums_to_learn(config: &str, recipe: &str, init: &[&str]) -> tempfile::TempDir {
    let records: String =
        (0..8).map(|n| format!("{{\"prompt\": \"{n} + 1 =\", \"completion\": \" {}\"}}\n", n + 1)).collect();
    let folder = folder(&[("config.json", config), ("x.jsonl", &records), ("recipe.yaml", recipe)]);
    let made = ["init", "config.json", "--out", "model", "--train-tokenizer", "x.jsonl"];
    rankine(folder.path(), &[&made[..], init].concat()).ends(0);
    folder
}

/// The losses of a run's events of one kind (`step`, `eval`), in order.
pub(crate) fn losses(run: &Path, event: &str) -> Vec<f64> {
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let lines = metrics.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    lines.filter(|line| line["event"] == event).map(|line| line["loss"].as_f64().expect("a loss")).collect()
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    folder
}
