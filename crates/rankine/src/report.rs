//! How failures are shown: what, where with the line, and the next step, on stderr.

use std::io::Write;
use std::sync::Mutex;

use miette::MietteHandlerOpts;

use crate::fault::{BadInput, Failure};

/// Sets how errors look, and makes sure that a fault of the program itself is told as such.
pub fn install() {
    // Lines are not wrapped: a path or a command that is cut in two cannot be copied. Fails only where a handler is already set, which then stays.
    let _ = miette::set_hook(Box::new(|_| {
        Box::new(MietteHandlerOpts::new().context_lines(1).terminal_links(false).width(10_000).build())
    }));
    // A library may catch a panic of one below it, so the hook only takes note.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = format!("{message}{place}");
        }
    }));
}

/// What the newest panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Says that the program itself is at fault: the last resort, which no input should reach.
pub fn print_panic() {
    let message = LAST_PANIC.lock().map(|message| message.clone()).unwrap_or_default();
    let _ = writeln!(
        std::io::stderr(),
        "error: this is a fault of rankine, not yours: {message}\n  \
         please report it with the command that you ran; a checkpoint that was written before is whole",
    );
}

/// Prints a failure.
pub fn print(failure: Failure) {
    match failure {
        Failure::BadInput(bad) => print_faults(bad),
        Failure::Failed(fault) | Failure::Interrupted(fault) => print_faults(BadInput::one(fault)),
    }
}

fn print_faults(bad: BadInput) {
    let name = bad.sources.first().map(|source| source.name.clone());
    let reports = bad.reports();
    let count = reports.len();
    let mut stderr = std::io::stderr().lock();
    for report in reports {
        // Nothing is left to say where stderr itself is closed.
        let _ = writeln!(stderr, "{:?}", miette::Report::new(report));
    }
    if let Some(name) = name.filter(|_| count > 1) {
        let _ = writeln!(stderr, "{name}: {count} faults; nothing was run");
    }
}
