//! `edgellm bench`: a progress bar while it runs, then a table or JSON.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::{self, Percentiles, Plan, Report, Round};

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Address of the server, beginning with http
    url: String,
    /// Kiosks that ask at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Rounds with the warm prompt, after the cold one
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Products in the store prompt, some 20 tokens each
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=2000))]
    products: u16,
    /// Tokens of each answer at most
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_tokens: u32,
    /// The model to ask [default: the server's first]
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// Seconds to wait for one answer
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Exit code 1 when the server cannot be asked or an answer failed.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
pub(super) fn run(arguments: Bench) -> ExitCode {
    let plan = Plan {
        clients: arguments.clients.into(),
        rounds: arguments.rounds.into(),
        products: arguments.products.into(),
        max_tokens: arguments.max_tokens,
        model: arguments.model,
        timeout: Duration::from_secs(arguments.timeout),
    };
    let answers = plan.clients * (plan.rounds + 1);
    // Drawn on a terminal only.
    let bar = ProgressBar::new(answers as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} answers, {elapsed}") {
        bar.set_style(style);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let report = match runtime {
        Ok(runtime) => runtime
            .block_on(bench::run(&arguments.url, &plan, &|| bar.inc(1)))
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    bar.finish_and_clear();
    match report {
        Ok(report) => {
            if arguments.json {
                println!("{}", serde_json::json!(report));
            } else {
                print!("{}", table(&report));
            }
            if report.cold.errors + report.warm.errors == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn table(report: &Report) -> String {
    let prompt = report
        .prompt_tokens
        .map_or_else(|| "unknown".to_owned(), |tokens| tokens.to_string());
    let mut text = format!(
        "{} clients at once, model {}, prompts of {prompt} tokens with a common beginning\n\n\
         {:28}{:>10}{:>10}{:>10}{:>10}\n",
        report.clients, report.model, "", "p50", "p90", "p99", "max"
    );
    for (name, round) in [("cold", &report.cold), ("warm", &report.warm)] {
        text.push_str(&rows(name, round));
    }
    text
}

fn rows(name: &str, round: &Round) -> String {
    let mut text = String::new();
    for (what, figures) in [
        ("time to first token", round.time_to_first_token),
        ("between tokens", round.inter_token),
        ("whole answer", round.duration),
    ] {
        if let Some(Percentiles { p50, p90, p99, max }) = figures {
            let what = format!("{name}: {what}");
            let row = format!("{what:28}{p50:8.3} s{p90:8.3} s{p99:8.3} s{max:8.3} s\n");
            text.push_str(&row);
        }
    }
    let errors = match &round.first_error {
        None => String::new(),
        Some(first) => format!(", {} FAILED: {first}", round.errors),
    };
    text + &format!(
        "{name}: {} answers, {:.1} tokens/s{errors}\n\n",
        round.answers, round.tokens_per_second
    )
}
