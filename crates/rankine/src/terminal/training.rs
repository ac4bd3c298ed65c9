//! What a run tells while it goes: a bar on a terminal, plain lines elsewhere, JSON where it is asked for.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rankine_train::evaluate::Evaluation;
use rankine_train::event::{Event, StepMetrics};

use super::numbers::{count, counted, duration, float, percent};
use super::{note, progress};

/// Time between two plain lines about steps: a log file stays readable.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How events are told.
pub(crate) enum Telling {
    /// A line of JSON each, on stdout.
    Json,
    /// Not at all.
    Quiet,
    /// A bar on stderr.
    Bar(Box<Option<ProgressBar>>),
    /// Lines on stderr.
    Lines,
}

/// Tells a run's events.
pub(crate) struct Reporter {
    telling: Telling,
    last_line: Instant,
    tokens_per_second: Option<f64>,
}

impl Reporter {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let telling = match (json, quiet) {
            (true, _) => Telling::Json,
            (false, true) => Telling::Quiet,
            (false, false) if std::io::stderr().is_terminal() => Telling::Bar(Box::new(None)),
            (false, false) => Telling::Lines,
        };
        Self { telling, last_line: Instant::now(), tokens_per_second: None }
    }

    /// Tells one event.
    pub(crate) fn tell(&mut self, event: &Event) {
        match &self.telling {
            Telling::Json => self.print_json(event),
            Telling::Quiet => {}
            Telling::Bar(_) | Telling::Lines => self.show(event),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Telling::Bar(bar) = &mut self.telling
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }

    fn print_json(&self, event: &Event) {
        // How far an evaluation is would be most of the lines.
        if matches!(event, Event::Evaluating { .. }) {
            return;
        }
        if let Ok(line) = serde_json::to_string(event) {
            let mut stdout = std::io::stdout().lock();
            // A reader that went away does not end a run of hours; `metrics.jsonl` has every line.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Start { step, total_steps, resumed_from, .. } => {
                if let Some(path) = resumed_from {
                    self.line(&format!("going on from {}, step {} of {total_steps}", path.display(), step - 1));
                }
                if let Telling::Bar(bar) = &mut self.telling {
                    let template = "{msg} {bar:24} {pos}/{len} {prefix}";
                    let new = progress::bar(*total_steps, template);
                    new.set_message("training");
                    new.set_position((step - 1) as u64);
                    **bar = Some(new);
                }
            }
            Event::Step(step) => self.step(step),
            Event::Evaluating { done, total } => {
                if let Telling::Bar(bar) = &self.telling
                    && let Some(bar) = bar.as_ref()
                {
                    bar.set_message(format!("evaluating {done}/{total}"));
                } else if self.due() {
                    self.line(&format!("evaluating: {} of {} records", count(*done), count(*total)));
                }
            }
            Event::Eval { step, evaluation, best } => {
                if let Telling::Bar(bar) = &self.telling
                    && let Some(bar) = bar.as_ref()
                {
                    bar.set_message("training");
                }
                let best = if *best { ", the best so far" } else { "" };
                self.line(&format!("step {step}: validation {}{best}", evaluation_words(evaluation)));
            }
            Event::Sample { step, prompt, text } => {
                self.line(&format!("step {step}: {} -> {}", shortened(prompt, 60), shortened(text, 200)));
            }
            Event::Checkpoint { step, path } => self.line(&format!("step {step}: checkpoint {}", path.display())),
            Event::EarlyStop { step, best_step } => {
                self.line(&format!("step {step}: ended early, no lower validation loss since step {best_step}"));
            }
            Event::Done { .. } => {}
        }
    }

    fn step(&mut self, step: &StepMetrics) {
        // One step's pace jumps with the lengths of its records.
        let pace =
            self.tokens_per_second.map_or(step.tokens_per_second, |pace| 0.9 * pace + 0.1 * step.tokens_per_second);
        self.tokens_per_second = Some(pace);
        let words = format!(
            "loss {:.4}, {} tokens/s, {} left",
            step.loss,
            count(pace.round() as usize),
            duration(Duration::from_secs_f64(step.seconds_left.clamp(0.0, 1e9)))
        );
        if let Telling::Bar(bar) = &self.telling {
            if let Some(bar) = bar.as_ref() {
                bar.set_position(step.step as u64);
                bar.set_prefix(words);
            }
        } else if step.step == step.total_steps || self.due() {
            self.line(&format!("step {} of {}: {words}", step.step, step.total_steps));
        }
    }

    /// Whether it is time for another plain line.
    fn due(&mut self) -> bool {
        if self.last_line.elapsed() < LINE_EVERY {
            return false;
        }
        self.last_line = Instant::now();
        true
    }

    fn line(&self, text: &str) {
        match &self.telling {
            Telling::Bar(bar) => match bar.as_ref() {
                Some(bar) => bar.println(text),
                None => note(text),
            },
            _ => note(text),
        }
    }
}

/// An evaluation in a few words.
pub(crate) fn evaluation_words(evaluation: &Evaluation) -> String {
    let mut words = format!("loss {:.4}, perplexity {:.2}", evaluation.loss, evaluation.perplexity);
    if let Some(exact) = evaluation.exact_match {
        words.push_str(&format!(", exact match {} of {}", exact.matched, counted(exact.records, "record")));
    }
    words
}

/// Both evaluations side by side, as rows of a table.
pub(crate) fn comparison(before: Option<&Evaluation>, after: &Evaluation) -> Vec<Vec<String>> {
    let row = |name: &str, of: &dyn Fn(&Evaluation) -> String| {
        vec![name.to_owned(), before.map_or_else(|| "-".to_owned(), of), of(after)]
    };
    let mut rows = vec![
        vec![String::new(), "before".to_owned(), "after".to_owned()],
        row("validation loss", &|evaluation| format!("{:.4}", evaluation.loss)),
        row("perplexity", &|evaluation| float((evaluation.perplexity * 1e3).round() / 1e3)),
    ];
    if after.exact_match.is_some() {
        rows.push(row("exact match", &|evaluation| {
            evaluation.exact_match.map_or_else(
                || "-".to_owned(),
                |exact| format!("{} ({} of {})", percent(exact.matched, exact.records), exact.matched, exact.records),
            )
        }));
    }
    rows
}

/// One line of at most so many characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let line = text.trim().replace('\n', "\\n");
    if line.chars().count() <= most {
        return line;
    }
    let head: String = line.chars().take(most).collect();
    format!("{head}...")
}
