//! The report as a table for people.

use std::fmt::Write;

use crate::bench::{
    Advantage, BenchReport, DeadlineFigures, Figures, FirstTokens, FloodFigures, LoadPart,
    LoadProfile, Percentiles, TwoModelsFigures,
};

/// Width of the first column.
const NAME: usize = 36;

/// The whole report. With two servers, each figure has a row for A, one for B, and how many times
/// A is better.
pub(super) fn render(report: &BenchReport) -> String {
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
    for (letter, server) in LETTERS.iter().zip(&report.servers) {
        if let Some(flood) = &server.flood {
            text.push_str(&what_it_does(flood, letter, report.servers.len()));
        }
        if let Some(two_models) = &server.two_models {
            text.push_str(&what_they_lose(two_models, letter, report.servers.len()));
        }
    }
    text
}

fn heading(report: &BenchReport) -> String {
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

fn describe(load: LoadProfile) -> String {
    match load {
        LoadProfile::Kiosk {
            clients, questions, ..
        } => format!(
            "{} at once with one store's prompt, {} each",
            count(clients, "kiosk"),
            count(questions, "question")
        ),
        LoadProfile::Rush { clients, .. } => format!(
            "{} at once with a store's prompt that one has sent before",
            count(clients, "kiosk")
        ),
        LoadProfile::Unrelated {
            clients, questions, ..
        } => format!(
            "{} at once, each with a prompt of its own, {} each",
            count(clients, "client"),
            count(questions, "question")
        ),
        LoadProfile::Short { clients, questions } => format!(
            "{} at once with short prompts, {} each",
            count(clients, "client"),
            count(questions, "question")
        ),
        LoadProfile::Intruder { clients, .. } => format!(
            "{} running when a long prompt arrives",
            count(clients, "long answer")
        ),
        LoadProfile::Arrivals { rate, requests, .. } => format!(
            "{} to one store's kiosks, {rate} a second on average",
            count(requests, "question")
        ),
        LoadProfile::Copy {
            clients, questions, ..
        } => format!(
            "{} at once, {} for a quotation each",
            count(clients, "client"),
            count(questions, "request")
        ),
        LoadProfile::Structured { clients, questions } => format!(
            "{} at once, {} each with a free answer and again with one that must fit a schema",
            count(clients, "client"),
            count(questions, "question")
        ),
        LoadProfile::TwoModels {
            clients, questions, ..
        } => format!(
            "{} of each of two models, {} each: one model after the other, then both together",
            count(clients, "client"),
            count(questions, "question")
        ),
        LoadProfile::Embeddings {
            clients, questions, ..
        } => format!(
            "{} at once, {} each, alone and then while another model makes vectors",
            count(clients, "client"),
            count(questions, "question")
        ),
        LoadProfile::Flood {
            clients, requests, ..
        } => format!(
            "{} a second apart, alone and then beside {} at once",
            count(requests, "short question"),
            count(clients, "long prompt")
        ),
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn title(part: LoadPart) -> &'static str {
    match part {
        LoadPart::Cold => "cold",
        LoadPart::Warm => "warm",
        LoadPart::Short => "short prompts",
        LoadPart::Alone => "long prompt alone",
        LoadPart::Newcomer => "long prompt among running answers",
        LoadPart::Running => "running answers while it waits",
        LoadPart::Arrivals => "arrivals",
        LoadPart::Free => "free answers",
        LoadPart::Held => "answers that fit a schema",
        LoadPart::Calm => "a question each second, alone",
        LoadPart::Flooded => "a question each second, flooded",
        LoadPart::Flood => "the flood",
        LoadPart::FirstAlone => "the first model alone",
        LoadPart::SecondAlone => "the second model alone",
        LoadPart::FirstBeside => "the first beside the second",
        LoadPart::SecondBeside => "the second beside the first",
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

fn section(part: LoadPart, servers: &[&Figures], advantage: Option<&Advantage>) -> String {
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
        text.push_str(&summary(part, letter, figures, servers.len()));
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

/// What became of requests with a deadline.
fn kept_to(deadline: &DeadlineFigures) -> String {
    let DeadlineFigures {
        refused,
        late,
        estimated,
        within_factor_two,
    } = deadline;
    let mut text = format!("deadline: {refused} refused at once, {late} late");
    if *estimated > 0 {
        let _ = write!(
            text,
            ", {within_factor_two} of {estimated} estimates within a factor of two"
        );
    }
    text
}

/// What a flood does to who asks once a second.
fn what_it_does(flood: &FloodFigures, letter: &str, servers: usize) -> String {
    let time = |time: Option<f64>| time.map_or_else(|| format!("{:>10}", "none"), seconds);
    let row = |name: &str, times: &FirstTokens| {
        let FirstTokens { p50, p95, max, .. } = *times;
        let cells: String = [p50, p95, max].into_iter().map(time).collect();
        format!("{:NAME$}{cells}\n", format!("  {name}"))
    };
    let server = if servers > 1 {
        format!(", {letter}")
    } else {
        String::new()
    };
    let heading = format!("first tokens and the flood{server}");
    let mut text = format!("\n{heading:NAME$}{:>10}{:>10}{:>10}\n", "p50", "p95", "max");
    text.push_str(&row("alone", &flood.alone));
    text.push_str(&row("flooded", &flood.flooded));
    let _ = match (flood.allowed, flood.ratio) {
        (Some(allowed), Some(ratio)) => writeln!(
            text,
            "  p95 flooded is {ratio:.2} of what is allowed, {allowed:.3} s: twice p95 alone and two token times"
        ),
        _ => writeln!(
            text,
            "  too many had no answer to tell: {} alone, {} flooded",
            flood.alone.unanswered, flood.flooded.unanswered
        ),
    };
    text
}

/// What it costs that two models compute together.
fn what_they_lose(two: &TwoModelsFigures, letter: &str, servers: usize) -> String {
    let server = if servers > 1 {
        format!(", {letter}")
    } else {
        String::new()
    };
    let [first, second] = two.alone;
    let loss = 100.0 * two.loss;
    format!(
        "\nboth together{server}: {:.2} s, one after the other {first:.2} s + {second:.2} s: {loss:.1} % lost\n",
        two.together
    )
}

/// What there is one of.
fn summary(part: LoadPart, letter: &str, figures: &Figures, servers: usize) -> String {
    let mut parts = Vec::new();
    if part == LoadPart::Running {
        parts.push(format!("{} cut off when it was served", figures.cut));
        if figures.answers > 0 {
            let early = count(figures.answers, "answer");
            parts.push(format!("{early} too short for it: raise --max-tokens"));
        }
    } else {
        parts.push(count(figures.answers, "answer"));
    }
    if let Some(rate) = figures.tokens_per_second {
        parts.push(format!("{rate:.1} tokens/s"));
    }
    if figures.refused > 0 {
        parts.push(format!("{} refused (429 or 503)", figures.refused));
    }
    if let Some(deadline) = &figures.deadline {
        parts.push(kept_to(deadline));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(seconds: f64) -> Figures {
        Figures {
            answers: 3,
            time_to_first_token: Some(Percentiles {
                p50: seconds,
                p90: seconds,
                p99: seconds,
                max: 2.0 * seconds,
            }),
            tokens_per_second: Some(seconds * 100.0),
            ..Figures::default()
        }
    }

    #[test]
    fn one_server_has_a_row_a_figure() {
        let table = section(LoadPart::Warm, &[&figures(0.5)], None);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[1], ["warm", "p50", "p90", "p99", "max"]);
        let [.., p50, _, _, _, _, _, max, _] = rows[2].as_slice() else {
            panic!("{table}");
        };
        assert_eq!((*p50, *max), ("0.500", "1.000"));
        assert_eq!(rows[3].join(" "), "3 answers, 50.0 tokens/s");
    }

    #[test]
    fn two_servers_have_a_row_each_and_one_for_the_comparison() {
        let (ours, theirs) = (figures(0.5), figures(2.0));
        let advantage = ours.advantage_over(&theirs);
        let table = section(LoadPart::Cold, &[&ours, &theirs], Some(&advantage));
        let factors: Vec<_> = table
            .lines()
            .filter_map(|line| line.trim().strip_prefix("A better by"))
            .map(|factors| factors.split('×').next().unwrap_or_default().trim())
            .collect();
        assert_eq!(factors, ["4.00", "0.25"]);
        let widths: Vec<_> = table
            .lines()
            .filter(|line| line.ends_with(['s', '×']) && line.contains("   "))
            .take(3)
            .map(|line| line.chars().count())
            .collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }

    #[test]
    fn deadlines_and_estimates_stand_in_the_table() {
        let deadline = DeadlineFigures {
            refused: 1,
            late: 2,
            estimated: 40,
            within_factor_two: 37,
        };
        let figures = Figures {
            deadline: Some(deadline),
            ..figures(1.0)
        };
        let text = summary(LoadPart::Warm, "A", &figures, 1);
        let expected = "1 refused at once, 2 late, 37 of 40 estimates within a factor of two";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_a_flood_does_stands_below_the_table() {
        let alone = FirstTokens {
            p50: Some(0.01),
            p95: Some(0.02),
            max: Some(0.03),
            unanswered: 0,
        };
        let flood = FloodFigures {
            alone,
            flooded: FirstTokens {
                max: None,
                unanswered: 1,
                ..alone
            },
            allowed: Some(0.34),
            ratio: Some(0.06),
        };
        let text = what_it_does(&flood, "A", 1);
        assert!(text.contains("0.06 of what is allowed, 0.340 s"), "{text}");
        assert!(text.contains("0.020 s      none\n"), "{text}");
        let unknown = FloodFigures {
            ratio: None,
            ..flood
        };
        let text = what_it_does(&unknown, "B", 2);
        assert!(
            text.contains(", B ") && text.contains("0 alone, 1 flooded"),
            "{text}"
        );
    }

    #[test]
    fn what_went_wrong_stands_in_the_table() {
        let figures = Figures {
            refused: 2,
            errors: 1,
            first_error: Some("out of paper".to_owned()),
            ..figures(1.0)
        };
        let text = summary(LoadPart::Arrivals, "A", &figures, 1);
        assert!(text.contains("2 refused") && text.contains("1 FAILED: out of paper"));
        let short = summary(LoadPart::Running, "A", &figures, 1);
        assert!(short.contains("raise --max-tokens"), "{short}");
    }
}
