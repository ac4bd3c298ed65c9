//! A transfer on stderr: one bar for all files on a terminal, now and then a plain line elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rankine_hub::{Event, Telling};

use super::numbers::{bytes, counted, duration};
use super::{note, progress};

/// Time between two plain lines: a log file stays readable.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time over which the speed is taken.
const SPEED_OVER: Duration = Duration::from_secs(10);

/// A transfer of one repository's files.
pub(crate) struct Transfer<'a> {
    name: &'a str,
    quiet: bool,
}

struct Meter {
    bar: Option<ProgressBar>,
    begun: Instant,
    last_line: Instant,
    files: usize,
    total: u64,
    done: u64,
    /// Bytes that came over the network.
    received: u64,
    /// When the speed's time began, and what was received then.
    mark: (Instant, u64),
    speed: Option<f64>,
}

impl<'a> Transfer<'a> {
    /// Of the repository of this name; `quiet` tells only what is wrong.
    pub(crate) fn new(name: &'a str, quiet: bool) -> Self {
        Self { name, quiet }
    }

    /// Runs work that tells its events.
    pub(crate) fn run<T>(&self, work: impl FnOnce(&Telling<'_>) -> T) -> T {
        let now = Instant::now();
        let meter = Mutex::new(Meter {
            bar: None,
            begun: now,
            last_line: now,
            files: 0,
            total: 0,
            done: 0,
            received: 0,
            mark: (now, 0),
            speed: None,
        });
        work(&|event| {
            if let Ok(mut meter) = meter.lock() {
                self.tell(&mut meter, event);
            }
        })
    }

    fn tell(&self, meter: &mut Meter, event: Event<'_>) {
        match event {
            Event::Begin { files, bytes } => {
                (meter.files, meter.total, meter.begun) = (files, bytes, Instant::now());
                meter.mark = (meter.begun, 0);
                if !self.quiet && std::io::stderr().is_terminal() {
                    let bar = progress::bar(usize::try_from(bytes).unwrap_or(usize::MAX), "{msg} {bar:24} {prefix}");
                    bar.set_message(self.name.to_owned());
                    meter.bar = Some(bar);
                }
            }
            Event::Bytes { count, kept } => {
                meter.done += count;
                meter.received += if kept { 0 } else { count };
                self.show(meter);
            }
            Event::Again(count) => {
                meter.done = meter.done.saturating_sub(count);
                meter.received = meter.received.saturating_sub(count);
            }
            Event::Waiting { reason, wait } => {
                self.line(meter, &format!("{}: {reason}; again in {}", self.name, short(wait)));
            }
            Event::Retrying { reason } => self.line(meter, &format!("{}: {reason}; again", self.name)),
            Event::FromCache { reason, commit } => {
                let commit = commit.get(..12).unwrap_or(commit);
                self.line(meter, &format!("note: {reason}; going on with the cached commit {commit} of {}", self.name));
            }
            Event::Locked { file } => {
                self.line(meter, &format!("{}: another program is fetching `{file}`; waiting for it", self.name));
            }
            Event::End => {
                if let Some(bar) = meter.bar.take() {
                    bar.finish_and_clear();
                }
                if !self.quiet && meter.received > 0 {
                    let took = meter.begun.elapsed();
                    let speed = (meter.received as f64 / took.as_secs_f64().max(1e-3)) as u64;
                    let files = counted(meter.files, "file");
                    let words = format!("{}: {files}, {} in {}", self.name, bytes(meter.received), short(took));
                    note(&format!("{words} ({}/s)", bytes(speed)));
                }
            }
        }
    }

    fn show(&self, meter: &mut Meter) {
        if self.quiet {
            return;
        }
        let (since, then) = meter.mark;
        let elapsed = since.elapsed();
        if elapsed > Duration::from_millis(500) && (meter.speed.is_none() || elapsed > SPEED_OVER / 5) {
            let now = meter.received.saturating_sub(then) as f64 / elapsed.as_secs_f64();
            meter.speed = Some(meter.speed.map_or(now, |before| 0.7 * before + 0.3 * now));
            meter.mark = (Instant::now(), meter.received);
        }
        if let Some(bar) = &meter.bar {
            bar.set_position(meter.done);
            bar.set_prefix(meter.words());
        } else if meter.last_line.elapsed() >= LINE_EVERY {
            meter.last_line = Instant::now();
            note(&format!("{}: {}", self.name, meter.words()));
        }
    }

    fn line(&self, meter: &Meter, text: &str) {
        match &meter.bar {
            Some(bar) => bar.println(text),
            None => note(text),
        }
    }
}

impl Meter {
    /// `1.2 GiB of 3.4 GiB, 25.0 MiB/s, 1m 30s left`.
    fn words(&self) -> String {
        let mut words = format!("{} of {}", bytes(self.done), bytes(self.total));
        if let Some(speed) = self.speed.filter(|speed| *speed >= 1.0) {
            let left = self.total.saturating_sub(self.done) as f64 / speed;
            let left = Duration::from_secs_f64(left.clamp(0.0, 1e9));
            words.push_str(&format!(", {}/s, {} left", bytes(speed as u64), duration(left)));
        }
        words
    }
}

/// `0.4s`, `12s`.
fn short(time: Duration) -> String {
    if time < Duration::from_secs(10) { format!("{:.1}s", time.as_secs_f64()) } else { duration(time) }
}
