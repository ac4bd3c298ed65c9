//! The report as one page that needs nothing else.

use std::fmt::Write;

use rankine_data::PartCounts;
use rankine_data::proof::{Bar, Finding, TokenView, ViewedExample};

use super::report::{Report, Shown, View};
use super::text::{overview, parts_title, range, verdict};
use super::tokens::{trained, visible};
use crate::terminal::numbers::{count, counted, percent};

/// How every report begins, so that one can be told from another file.
pub(super) const BEGINNING: &str = "<!doctype html>\n<!-- rankine data -->\n";

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn page(report: &Report<'_>) -> String {
    let failing = report.proof.stopping().count();
    let verdict = match failing {
        0 => "Every check of the data holds.".to_owned(),
        failing => format!("{} of the data would stop the training.", counted(failing, "check")),
    };
    let mut page = format!(
        "{BEGINNING}<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}: data</title>\n\
         <style>\n{STYLE}</style>\n<main>\n<h1>{0}</h1>\n<p class=\"sub\">What the model sees of the data. {verdict}</p>\n",
        escaped(report.name)
    );
    section(&mut page, "Data", &rows(&overview(report)));
    page.push_str("<div class=\"pair\"><div>\n");
    section(&mut page, &parts_title(report).replacen('w', "W", 1), &parts(&report.tokenized.parts));
    page.push_str("</div><div>\n");
    section(&mut page, "Lengths in tokens", &histogram(&report.train.lengths.histogram));
    page.push_str("</div></div>\n");
    section(&mut page, "Checks", &checks(&report.proof.findings));
    page.push_str("<h2>Records, token by token</h2>\n<p class=\"legend tokens\"><span class=\"t\">trained on</span>");
    page.push_str("<span>not trained on</span><span class=\"s\">special token</span><span class=\"c\">cut off</span> ");
    page.push_str("⏎ is a line break; point at a token for its id and whose words it is</p>\n");
    report.records.iter().for_each(|shown| record(&mut page, shown));
    page.push_str("</main>\n</html>\n");
    page
}

fn section(page: &mut String, title: &str, body: &str) {
    page.push_str(&format!("<h2>{title}</h2>\n<div class=\"card\">{body}</div>\n"));
}

fn rows(rows: &[Vec<String>]) -> String {
    let row = |cells: &Vec<String>| match cells.as_slice() {
        [name, words] => format!("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(words)),
        _ => String::new(),
    };
    format!("<table>\n{}</table>", rows.iter().map(row).collect::<String>())
}

fn parts(parts: &PartCounts) -> String {
    let head = "<tr><th></th><th class=\"n\">tokens</th><th class=\"n\">trained</th><th class=\"n\">share</th></tr>\n";
    let row = |name: &str, tokens: usize, trained: usize| {
        format!(
            "<tr><th>{name}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
            count(tokens),
            count(trained),
            percent(trained, tokens)
        )
    };
    let body: String = parts.iter().map(|(part, tokens)| row(part.name(), tokens.tokens, tokens.trained)).collect();
    format!("<table>\n{head}{body}</table>")
}

fn histogram(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.examples).max().unwrap_or(0).max(1);
    let row = |bar: &Bar| {
        format!(
            "<tr><th class=\"n\">{}</th><td class=\"bar\"><i style=\"width:{:.1}%\"></i></td><td class=\"n\">{}</td></tr>\n",
            range(bar),
            100.0 * bar.examples as f64 / most as f64,
            count(bar.examples)
        )
    };
    format!("<table>\n{}</table>", bars.iter().map(row).collect::<String>())
}

fn checks(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let verdict = verdict(finding);
        let (first, rest) = match finding.failed {
            true => (finding.summary.clone(), finding.details()),
            false => (finding.summary.clone(), String::new()),
        };
        let mut words = escaped(&first);
        if let Some((_, records)) = rest.split_once('\n') {
            let lines: Vec<&str> = records.lines().map(str::trim_start).collect();
            let _ = write!(words, "<pre>{}</pre>", escaped(&lines.join("\n")));
        }
        if let Some(help) = finding.help.as_ref().filter(|_| finding.stops()) {
            let _ = write!(words, "<p class=\"help\">{}</p>", with_code(&escaped(help)));
        }
        format!(
            "<tr><td class=\"verdict {verdict}\">{verdict}</td><td><code>{}</code></td><td>{words}</td></tr>\n",
            finding.check
        )
    };
    format!("<table>\n{}</table>", findings.iter().map(row).collect::<String>())
}

fn record(page: &mut String, shown: &Shown) {
    let view = match &shown.view {
        View::Tokens(view) => view,
        View::Refused { error } => {
            let _ = write!(page, "<h3>Record {}</h3>\n<pre>{}</pre>\n", shown.record, escaped(error));
            return;
        }
    };
    for (index, example) in view.examples.iter().enumerate() {
        let which = match view.examples.len() {
            1 => String::new(),
            several => format!(", example {} of {several}", index + 1),
        };
        let _ = write!(
            page,
            "<h3>Record {} ({}){which}: {}, {} trained</h3>\n<div class=\"card tokens\">",
            count(shown.record),
            escaped(&view.source.to_string()),
            counted(example.kept, "token"),
            count(trained(example))
        );
        tokens(page, example);
        page.push_str("</div>\n");
    }
}

fn tokens(page: &mut String, example: &ViewedExample) {
    for (index, token) in example.tokens.iter().enumerate() {
        let cut = index >= example.kept;
        let classes: Vec<&str> = [("t", token.trained && !cut), ("s", token.special), ("c", cut)]
            .into_iter()
            .filter_map(|(class, on)| on.then_some(class))
            .collect();
        let _ = write!(
            page,
            "<span class=\"{}\" title=\"{}\">{}</span>",
            classes.join(" "),
            title(index, token, cut),
            escaped(&visible(&token.text))
        );
        // A line breaks where the text does, and anywhere between two tokens.
        page.push_str(if token.text.ends_with('\n') { "<br>" } else { "<wbr>" });
    }
}

fn title(index: usize, token: &TokenView, cut: bool) -> String {
    let label = match (cut, token.trained) {
        (true, _) => "cut off",
        (false, true) => "trained on",
        (false, false) => "not trained on",
    };
    format!("token {index}, id {}, {}, {label}", token.id, token.part.name())
}

/// What stands between backticks as code.
fn with_code(text: &str) -> String {
    let part = |(index, part): (usize, &str)| match index % 2 {
        0 => part.to_owned(),
        _ => format!("<code>{part}</code>"),
    };
    text.split('`').enumerate().map(part).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
