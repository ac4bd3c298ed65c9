//! The report on the terminal.

use rankine_data::PartCounts;
use rankine_data::proof::{Bar, Fill, Finding, SetStatistics, ViewedExample};

use super::report::{Report, Shown, View};
use super::tokens::{runs, trained, visible};
use crate::terminal::numbers::{count, counted, percent};
use crate::terminal::table::columns;

/// Columns of a line of tokens.
const WIDTH: usize = 100;
/// Columns of the longest bar.
const BAR: usize = 40;

/// Colours, or nothing in their place.
struct Paint(bool);

impl Paint {
    fn put(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The report.
pub(super) fn text(report: &Report<'_>, colored: bool) -> String {
    let paint = Paint(colored);
    let mut text = columns(&overview(report), &[], "");
    text.push_str(&format!("\n{}\n{}", parts_title(report), parts(&report.tokenized.parts)));
    text.push_str(&format!("\nlengths in tokens\n{}", histogram(&report.train.lengths.histogram)));
    text.push_str("\nchecks\n");
    for finding in &report.proof.findings {
        text.push_str(&check(finding, &paint));
    }
    for shown in &report.records {
        text.push_str(&record(shown, report.by_number, &paint));
    }
    text
}

/// What there is, in rows of a name and words.
pub(super) fn overview(report: &Report<'_>) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, words: String| rows.push(vec![name.to_owned(), words]);
    for (index, dataset) in report.datasets.iter().enumerate() {
        let first = index == 0 || report.datasets[index - 1].validation != dataset.validation;
        let name = if dataset.validation { "validation" } else { "data" };
        let detected = if dataset.detected { " (detected)" } else { "" };
        let records = counted(dataset.records, "record");
        let words = format!("{}: {records}, {}{detected}", dataset.path, dataset.record_type);
        row(if first { name } else { "" }, words);
    }
    row("trained on", set(&report.train));
    if let Some(validation) = &report.validation {
        row("held out", set(validation));
    }
    let lengths = &report.train.lengths;
    row(
        "lengths",
        format!(
            "{} to {}, half below {}, 95% below {}",
            count(lengths.shortest),
            count(lengths.longest),
            count(lengths.median + 1),
            count(lengths.p95 + 1)
        ),
    );
    let cut = match report.truncated() {
        0 => format!("nothing at max_seq_len {}", count(report.max_seq_len)),
        cut => format!(
            "{} at max_seq_len {}; the longest has {} tokens",
            counted(cut, "example"),
            count(report.max_seq_len),
            count(report.tokenized.longest)
        ),
    };
    row("cut", cut);
    let (packed, otherwise) = if report.packing { ("packed", "unpacked") } else { ("unpacked", "packed") };
    row("rows", format!("{packed}: {}", fill_words(report.fill)));
    row("", format!("{otherwise} it would be {}", fill_words(report.fill_otherwise)));
    if let Some(unknown) = &report.unknown_stops {
        let stops: Vec<String> = unknown.stops_at.iter().map(|token| format!("`{token}`")).collect();
        let stops = if stops.is_empty() { "no token".to_owned() } else { stops.join(" and ") };
        let words = format!(
            "{} in `{}`, and a generation stops at {stops}: add it to `eos_token_id` of the model's \
             generation_config.json",
            if unknown.examples == 1 {
                "1 example ends".to_owned()
            } else {
                format!("{} examples end", count(unknown.examples))
            },
            unknown.ends_in
        );
        row("note", words);
    }
    let duplicates = &report.train.duplicates;
    let mut words = match duplicates.repeated {
        0 => "none".to_owned(),
        repeated => format!(
            "{} an earlier one",
            if repeated == 1 { "1 example repeats".to_owned() } else { format!("{} examples repeat", count(repeated)) }
        ),
    };
    for (repeats, earlier) in &duplicates.first {
        words.push_str(&format!("; {repeats} is {earlier}"));
    }
    if duplicates.repeated > duplicates.first.len() {
        words.push_str("; ...");
    }
    row("duplicates", words);
    if duplicates.same_prompt > 0 {
        row(
            "",
            format!(
                "{} share their prompt with another that has a different answer",
                counted(duplicates.same_prompt, "example")
            ),
        );
    }
    rows
}

/// The title of the table of parts: a part that was held out of the training records is in it.
pub(super) fn parts_title(report: &Report<'_>) -> &'static str {
    match report.tokenized.examples == report.train.examples {
        true => "whose tokens these are",
        false => "whose tokens these are, with what is held out",
    }
}

fn set(statistics: &SetStatistics) -> String {
    format!(
        "{}, {}, {} of them trained ({})",
        counted(statistics.examples, "example"),
        counted(statistics.tokens, "token"),
        count(statistics.trained_tokens),
        percent(statistics.trained_tokens, statistics.tokens)
    )
}

fn fill_words(fill: Fill) -> String {
    format!(
        "{} of {} tokens on average, {} padding",
        counted(fill.rows, "row"),
        count((fill.tokens as f64 / fill.rows.max(1) as f64).round() as usize),
        percent(fill.places - fill.tokens, fill.places)
    )
}

fn parts(parts: &PartCounts) -> String {
    let mut rows = vec![["", "tokens", "trained", ""].map(str::to_owned).to_vec()];
    for (part, tokens) in parts {
        rows.push(vec![
            part.name().to_owned(),
            count(tokens.tokens),
            count(tokens.trained),
            percent(tokens.trained, tokens.tokens),
        ]);
    }
    columns(&rows, &[1, 2, 3], "  ")
}

fn histogram(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.examples).max().unwrap_or(0).max(1);
    let rows: Vec<Vec<String>> = bars
        .iter()
        .map(|bar| {
            let length = (bar.examples * BAR).div_ceil(most);
            vec![range(bar), count(bar.examples), "█".repeat(length)]
        })
        .collect();
    columns(&rows, &[0, 1], "  ")
}

/// The lengths of a bar.
pub(super) fn range(bar: &Bar) -> String {
    if bar.from == bar.to { count(bar.from) } else { format!("{}-{}", count(bar.from), count(bar.to)) }
}

/// How a check went, in a word.
pub(super) fn verdict(finding: &Finding) -> &'static str {
    match (finding.failed, finding.waived) {
        (false, _) => "ok",
        (true, true) => "waived",
        (true, false) => "FAILS",
    }
}

fn check(finding: &Finding, paint: &Paint) -> String {
    let verdict = verdict(finding);
    let color = match verdict {
        "ok" => "32",
        "waived" => "33",
        _ => "1;31",
    };
    let words = if finding.failed { finding.details() } else { finding.summary.clone() };
    let indented = words.replace('\n', &format!("\n{}", " ".repeat(10)));
    let mut text = format!(
        "  {}{} {:<26}  {indented}\n",
        paint.put(color, verdict),
        " ".repeat(6 - verdict.len()),
        finding.check.name()
    );
    if let Some(help) = finding.help.as_ref().filter(|_| finding.stops()) {
        text.push_str(&format!("          help: {help}\n"));
    }
    text
}

fn record(shown: &Shown, by_number: bool, paint: &Paint) -> String {
    let view = match &shown.view {
        View::Tokens(view) => view,
        View::Refused { error } => return format!("\nrecord {}\n  {}\n", shown.record, error.replace('\n', "\n  ")),
    };
    let mut text = String::new();
    for (index, example) in view.examples.iter().enumerate() {
        let which = match view.examples.len() {
            1 => String::new(),
            several => format!(", example {} of {several}", index + 1),
        };
        let cut = match example.tokens.len() - example.kept {
            0 => String::new(),
            cut => format!(", {} cut off", count(cut)),
        };
        text.push_str(&format!(
            "\nrecord {} ({}){which}: {}, {} trained{cut}\n",
            count(shown.record),
            view.source,
            counted(example.kept, "token"),
            count(trained(example))
        ));
        text.push_str(&if by_number { table(example, paint) } else { flow(example, paint) });
    }
    text
}

/// The mark of a token without colours: trained, not trained, cut off.
fn mark(trained: bool, cut: bool) -> char {
    match (cut, trained) {
        (true, _) => 'x',
        (false, true) => '+',
        (false, false) => '-',
    }
}

fn color(trained: bool, cut: bool) -> &'static str {
    match (cut, trained) {
        (true, _) => "9;2",
        (false, true) => "32",
        (false, false) => "0",
    }
}

/// Tokens one after another, a new line where the label changes.
fn flow(example: &ViewedExample, paint: &Paint) -> String {
    let mut text = String::new();
    for run in runs(example) {
        let mut lines: Vec<Vec<String>> = vec![Vec::new()];
        let mut width = 0;
        for token in run.tokens {
            let shown = visible(&token.text);
            let wide = shown.chars().count() + 1;
            if width + wide > WIDTH && width > 0 {
                lines.push(Vec::new());
                width = 0;
            }
            width += wide;
            if let Some(line) = lines.last_mut() {
                line.push(paint.put(color(run.trained, run.cut), &shown));
            }
        }
        for line in lines {
            text.push_str(&format!("  {} {}\n", mark(run.trained, run.cut), line.join(&paint.put("2", "│"))));
        }
    }
    text
}

/// One token a line.
fn table(example: &ViewedExample, paint: &Paint) -> String {
    let mut rows = vec![["", "place", "id", "part", "token"].map(str::to_owned).to_vec()];
    for (index, token) in example.tokens.iter().enumerate() {
        let cut = index >= example.kept;
        rows.push(vec![
            mark(token.trained, cut).to_string(),
            index.to_string(),
            token.id.to_string(),
            token.part.name().to_owned(),
            visible(&token.text),
        ]);
    }
    let plain = columns(&rows, &[1, 2], "  ");
    let mut lines = plain.lines();
    let mut text = lines.next().map_or_else(String::new, |head| format!("{head}\n"));
    for (index, (line, token)) in lines.zip(&example.tokens).enumerate() {
        text.push_str(&paint.put(color(token.trained, index >= example.kept), line));
        text.push('\n');
    }
    text
}
