//! Progress on stderr: a bar on a terminal, now and then a plain line elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::note;
use super::numbers::count;

/// Time between two plain lines: a log file stays readable.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Work that is done by then is not worth a bar.
const QUIET_FOR: Duration = Duration::from_millis(300);

/// Runs work that counts what it has done.
pub(crate) fn counting<T>(
    what: &str,
    unit: &str,
    quiet: bool,
    work: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> T,
) -> T {
    if quiet {
        return work(&|_, _| {});
    }
    let started = Instant::now();
    let meter = Mutex::new(Meter { bar: None, last_line: started });
    let result = work(&|done, total| {
        if started.elapsed() < QUIET_FOR {
            return;
        }
        // A thread that finds the meter in use has nothing to say that the other does not.
        if let Ok(mut meter) = meter.try_lock() {
            meter.show(what, unit, done, total);
        }
    });
    if let Ok(meter) = meter.into_inner()
        && let Some(bar) = meter.bar
    {
        bar.finish_and_clear();
    }
    result
}

struct Meter {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Meter {
    fn show(&mut self, what: &str, unit: &str, done: usize, total: usize) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                bar(total, &format!("{what} {{bar:30}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left"))
            });
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            note(&format!("{what}: {} of {} {unit}", count(done), count(total)));
        }
    }
}

/// A bar on stderr.
pub(crate) fn bar(total: usize, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(8));
    // A template that does not parse would be a bar without words, not an error.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    bar
}
