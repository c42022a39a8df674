//! `edgellm bench`: a progress bar while it runs, then a table or JSON.

mod flags;
mod keys;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::authority_file::AuthorityFile;
use crate::bench::http::{HttpError, ServerAddress};
use crate::bench::{self, AnswerLimits, BenchPlan, BenchReport, Figures, LoadPart};
use flags::{LoadMeasures, Profile};
use keys::KeyFlags;

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Address of the server, beginning with http:// or https://, or unix: and the path of a socket
    #[arg(value_parser = address)]
    url: String,
    /// A second server that gets the same load in turn, to compare with
    #[arg(long, value_name = "URL", value_parser = address)]
    against: Option<String>,
    /// The kind of load
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Profile::Kiosk)]
    profile: Profile,
    #[command(flatten)]
    measures: LoadMeasures,
    #[command(flatten)]
    keys: KeyFlags,
    #[command(flatten)]
    authority: AuthorityFile,
    /// Times the whole load is run, each with new prompts; figures are medians [default: 1, 3 with --against]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Let the model go on past its own end of an answer, to --max-tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Where chance begins: the same seed gives the same arrivals
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The model to ask [default: the server's first]; twice for the profiles that ask two
    #[arg(long, value_name = "ID")]
    model: Vec<String>,
    /// Seconds to wait for one answer
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Milliseconds within which each answer is wanted: sends x-deadline-ms, and reports what was refused or late
    /// and how good the server's estimates were
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    deadline_ms: Option<u64>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn address(url: &str) -> Result<String, HttpError> {
    ServerAddress::parse(url).map(|_| url.to_owned())
}

/// Exit code 1 when a server cannot be asked, an answer failed or none came; 2 for flags that do
/// not go together.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
pub(super) fn run(arguments: Bench) -> ExitCode {
    let json = arguments.json;
    let (urls, plan) = match arguments.plan() {
        Ok(plan) => plan,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let report = match measure(&urls, &plan) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if json {
        println!("{}", serde_json::json!(report));
    } else {
        print!("{}", table::render(&report));
    }
    let mut parts = report.servers.iter().flat_map(|server| &server.parts);
    if parts.all(|(part, figures)| went_well(*part, figures)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A refusal is a figure, not a failure, unless there is nothing else; a flood may be refused as a whole.
fn went_well(part: LoadPart, figures: &Figures) -> bool {
    let has_answers = figures.answers + figures.cut > 0;
    figures.errors == 0 && (has_answers || part == LoadPart::Flood)
}

impl Bench {
    fn plan(self) -> Result<(Vec<String>, BenchPlan), String> {
        let (load, max_tokens) = self.measures.load(self.profile)?;
        if self.keys.has_flood() && self.profile != Profile::Flood {
            return Err(flags::misplaced("--flood-key", self.profile));
        }
        let two = matches!(self.profile, Profile::TwoModels | Profile::Embeddings);
        let (model, second_model) = match (self.model.as_slice(), two) {
            ([first, second], true) => (Some(first.clone()), Some(second.clone())),
            (_, true) => {
                return Err(
                    "this profile asks two models of the server: give --model twice".to_owned(),
                );
            }
            ([], false) => (None, None),
            ([model], false) => (Some(model.clone()), None),
            (_, false) => return Err(flags::misplaced("a second --model", self.profile)),
        };
        let urls = [Some(self.url), self.against.clone()];
        let urls: Vec<String> = urls.into_iter().flatten().collect();
        let trust = self.authority.read()?;
        for url in &urls {
            let address = ServerAddress::parse(url).map_err(|error| error.to_string())?;
            if address.is_tls() && trust.is_none() {
                return Err(HttpError::NoAuthority(url.clone()).to_string());
            }
        }
        let rounds = match (self.rounds, &self.against) {
            (Some(rounds), _) => rounds,
            (None, Some(_)) => 3,
            (None, None) => 1,
        };
        let plan = BenchPlan {
            load,
            answers: AnswerLimits {
                max_tokens,
                ignore_eos: self.ignore_eos,
            },
            rounds: rounds.into(),
            seed: self.seed,
            keys: self.keys.read(std::env::var_os(keys::VARIABLE))?,
            trust,
            model,
            second_model,
            timeout: Duration::from_secs(self.timeout),
            deadline: self.deadline_ms.map(Duration::from_millis),
        };
        Ok((urls, plan))
    }
}

fn measure(urls: &[String], plan: &BenchPlan) -> Result<BenchReport, String> {
    let runtime = super::small_runtime().map_err(|error| error.to_string())?;
    // Drawn on a terminal only.
    let bar = ProgressBar::new((plan.requests() * urls.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} answers, {elapsed}") {
        bar.set_style(style);
    }
    let report = runtime.block_on(bench::run(urls, plan, &|| bar.inc(1)));
    bar.finish_and_clear();
    report.map_err(|error| error.to_string())
}
