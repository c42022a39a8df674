//! The report as a table for people.

use std::fmt::Write;

use crate::bench::{Advantage, Figures, Load, Part, Percentiles, Report};

/// Width of the first column.
const NAME: usize = 28;

/// The whole report. With two servers, each figure has a row for A, one for B, and how many times
/// A is better.
pub(super) fn render(report: &Report) -> String {
    let mut text = heading(report);
    let Some(first) = report.servers.first() else {
        return text;
    };
    for part in first.parts.keys() {
        let of_servers: Vec<_> = report
            .servers
            .iter()
            .filter_map(|server| server.parts.get(part))
            .collect();
        let advantage = report.advantage.as_ref().and_then(|all| all.get(part));
        text.push_str(&section(*part, &of_servers, advantage));
    }
    text
}

fn heading(report: &Report) -> String {
    let mut text = format!("{}\n", describe(report.load));
    if report.rounds > 1 {
        let _ = writeln!(text, "Medians of {} rounds.", report.rounds);
    }
    for (letter, server) in LETTERS.iter().zip(&report.servers) {
        let prompt = server
            .prompt_tokens
            .map_or_else(|| "unknown".to_owned(), |tokens| tokens.to_string());
        let name = if report.servers.len() > 1 {
            format!("{letter}  ")
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "{name}{}, model {}, prompts of up to {prompt} tokens",
            server.url, server.model
        );
    }
    text
}

const LETTERS: [&str; 2] = ["A", "B"];

fn describe(load: Load) -> String {
    match load {
        Load::Kiosk {
            clients, questions, ..
        } => {
            format!("{clients} kiosks at once with one store's prompt, {questions} questions each")
        }
        Load::Unrelated {
            clients, questions, ..
        } => format!(
            "{clients} clients at once, each with a prompt of its own, {questions} questions each"
        ),
        Load::Short { clients, questions } => {
            format!("{clients} clients at once with short prompts, {questions} questions each")
        }
        Load::Intruder { clients, .. } => {
            format!("{clients} long answers running when a long prompt arrives")
        }
        Load::Arrivals { rate, requests, .. } => {
            format!("{requests} kiosks of one store, {rate} a second on average")
        }
        Load::Copy {
            clients, questions, ..
        } => format!("{clients} clients at once that ask for quotations, {questions} each"),
    }
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Cold => "cold",
        Part::Warm => "warm",
        Part::Short => "short prompts",
        Part::Alone => "long prompt alone",
        Part::Newcomer => "long prompt among running answers",
        Part::Running => "running answers while it waits",
        Part::Arrivals => "arrivals",
    }
}

/// Of one figure that has percentiles.
type Times = fn(&Figures) -> Option<Percentiles>;
type TimesAdvantage = fn(&Advantage) -> Option<Percentiles>;

const ROWS: [(&str, Times, TimesAdvantage); 4] = [
    (
        "time to first token",
        |figures| figures.time_to_first_token,
        |advantage| advantage.time_to_first_token,
    ),
    (
        "between chunks",
        |figures| figures.between_chunks,
        |advantage| advantage.between_chunks,
    ),
    (
        "time per token",
        |figures| figures.time_per_token,
        |advantage| advantage.time_per_token,
    ),
    (
        "whole answer",
        |figures| figures.duration,
        |advantage| advantage.duration,
    ),
];

fn section(part: Part, servers: &[&Figures], advantage: Option<&Advantage>) -> String {
    let mut text = format!(
        "\n{:NAME$}{:>10}{:>10}{:>10}{:>10}\n",
        title(part),
        "p50",
        "p90",
        "p99",
        "max"
    );
    for (name, times, times_advantage) in ROWS {
        for (letter, figures) in LETTERS.iter().zip(servers) {
            if let Some(times) = times(figures) {
                let name = row_name(name, letter, servers.len());
                text.push_str(&row(&name, times, seconds));
            }
        }
        if let Some(factors) = advantage.and_then(times_advantage) {
            text.push_str(&row("    A better by", factors, factor));
        }
    }
    for (letter, figures) in LETTERS.iter().zip(servers) {
        text.push_str(&summary(letter, figures, servers.len()));
    }
    if let Some(better) = advantage.and_then(|advantage| advantage.tokens_per_second) {
        let _ = writeln!(text, "    A better by{:>10}", factor(better).trim_start());
    }
    text
}

fn row_name(name: &str, letter: &str, servers: usize) -> String {
    match (servers, letter) {
        (1, _) => format!("  {name}"),
        (_, "A") => format!("  {name:21} A"),
        _ => format!("  {:21} {letter}", ""),
    }
}

fn row(name: &str, values: Percentiles, cell: fn(f64) -> String) -> String {
    let Percentiles { p50, p90, p99, max } = values;
    let cells: String = [p50, p90, p99, max].into_iter().map(cell).collect();
    format!("{name:NAME$}{cells}\n")
}

fn seconds(value: f64) -> String {
    format!("{value:8.3} s")
}

fn factor(value: f64) -> String {
    format!("{value:8.2} ×")
}

/// What there is one of.
fn summary(letter: &str, figures: &Figures, servers: usize) -> String {
    let mut parts = Vec::new();
    if figures.cut > 0 {
        parts.push(format!("{} cut off on purpose", figures.cut));
    }
    if figures.answers > 0 || figures.cut == 0 {
        parts.push(format!("{} answers", figures.answers));
    }
    if let Some(rate) = figures.tokens_per_second {
        parts.push(format!("{rate:.1} tokens/s"));
    }
    if figures.refused > 0 {
        parts.push(format!("{} refused (429 or 503)", figures.refused));
    }
    if figures.errors > 0 {
        let first = figures.first_error.as_deref().unwrap_or("unknown");
        parts.push(format!("{} FAILED: {first}", figures.errors));
    }
    let name = if servers > 1 {
        format!("  {letter}: ")
    } else {
        "  ".to_owned()
    };
    format!("{name}{}\n", parts.join(", "))
}
