//! `edgellm bench`: the load of a shop's kiosks against any OpenAI-compatible
//! server, or against two in turn.
//!
//! [`LoadProfile`] decides who asks what and when, as plain data; `runner` carries that
//! out; [`Figures`] are what came of it. A round is the whole load once, with
//! prompts that no server has seen. Two servers get the same rounds, one after
//! the other, and which is first changes with every round, so that whatever else
//! goes on in the machine hits both.

mod chat;
mod deadline_figures;
mod figures;
mod flood;
pub mod http;
#[cfg(test)]
mod key_tests;
mod load;
mod runner;
mod store;
#[cfg(test)]
mod tests;
mod two_models;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use chat::Denial;
pub use deadline_figures::DeadlineFigures;
pub use figures::{Advantage, Figures, Percentiles};
pub use flood::{FirstTokens, FloodFigures};
use http::{BearerKey, HttpError, ServerAddress, TlsTrust};
pub use load::{AnswerLimits, LoadPart, LoadProfile};
use runner::{BenchTarget, RequestOutcome, play};
pub use two_models::TwoModelsFigures;

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchPlan {
    /// What the server has to do in a round.
    pub load: LoadProfile,
    /// What holds for every answer.
    pub answers: AnswerLimits,
    /// How often.
    pub rounds: usize,
    /// Where chance begins.
    pub seed: u64,
    /// Who asks.
    pub keys: BenchKeys,
    /// Whose certificates are believed; needed for servers at `https://`.
    pub trust: Option<TlsTrust>,
    /// The model to ask; the server's first when absent.
    pub model: Option<String>,
    /// The other model, for loads of two.
    pub second_model: Option<String>,
    /// Time for one answer.
    pub timeout: Duration,
    /// The time within which each answer is wanted (`x-deadline-ms`).
    pub deadline: Option<Duration>,
}

/// The keys that requests carry. A key goes to no server but its own.
#[derive(Debug, Clone, Default)]
pub struct BenchKeys {
    /// To the first server.
    pub key: Option<BearerKey>,
    /// To the second server.
    pub against: Option<BearerKey>,
    /// To the first server, from a flood; `key` where this is absent.
    pub flood: Option<BearerKey>,
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub struct BenchReport {
    /// What was asked.
    pub load: LoadProfile,
    /// What held for every answer.
    pub answers: AnswerLimits,
    /// How often the load was run; figures are medians over these rounds.
    pub rounds: usize,
    /// In the order of the command line.
    pub servers: Vec<ServerReport>,
    /// How much better the first server is than the second; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advantage: Option<BTreeMap<LoadPart, Advantage>>,
}

/// The figures of one server.
#[derive(Debug, Serialize)]
pub struct ServerReport {
    /// Where the load went.
    pub url: String,
    /// The model that answered.
    pub model: String,
    /// Tokens of the longest prompt, as the server counts them; absent if it does not say.
    pub prompt_tokens: Option<u64>,
    /// Medians over the rounds.
    pub parts: BTreeMap<LoadPart, Figures>,
    /// Every round by itself.
    pub rounds: Vec<BTreeMap<LoadPart, Figures>>,
    /// What a flood does to who asks seldom; absent for other loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<FloodFigures>,
    /// What two models lose together; absent for other loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_models: Option<TwoModelsFigures>,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A server cannot be asked at all.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It does not say what it serves.
    #[error("{url} does not list its models ({fault}); is it an OpenAI-compatible server?")]
    Models {
        /// The server.
        url: String,
        /// What it did instead.
        fault: String,
    },
    /// It wants a key, or another one.
    #[error(
        "{url} answers {denial}; give a key that may ask for this in EDGELLM_API_KEY or with --key, with --against-key \
         to the second server"
    )]
    Denied {
        /// The server.
        url: String,
        /// Its status and what it says.
        denial: String,
    },
}

impl BenchPlan {
    /// How many requests each server will be sent in all, but for those of a flood.
    #[must_use]
    pub fn requests(&self) -> usize {
        let script = self.load.script("", self.answers, self.seed);
        let lanes = script.iter().flatten();
        // Nobody knows how often a flood asks.
        let counted = lanes.filter(|lane| !lane.floods);
        let in_round: usize = counted.map(|lane| lane.questions.len()).sum();
        in_round * self.rounds
    }
}

/// Runs `plan` against every server of `urls`; `progress` hears of every request that has ended.
///
/// # Errors
/// [`BenchError`] when not even the list of models can be read, or the server does not take the key. Answers that
/// fail otherwise are counted.
pub async fn run(
    urls: &[String],
    plan: &BenchPlan,
    progress: &dyn Fn(),
) -> Result<BenchReport, BenchError> {
    let mut targets = Vec::new();
    let BenchKeys {
        key,
        against,
        flood,
    } = &plan.keys;
    let keys = [
        (key, flood.as_ref().or(key.as_ref())),
        (against, against.as_ref()),
    ];
    for (url, (key, flood)) in urls.iter().zip(keys) {
        let address = ServerAddress::parse(url)?.trusting(plan.trust.clone());
        let flooded = address.clone().with_key(flood.cloned());
        let server = address.with_key(key.clone());
        targets.push(target(url, server, flooded, plan).await?);
    }
    let run_name = uuid::Uuid::new_v4().simple().to_string();
    let mut observed: Vec<Vec<Vec<RequestOutcome>>> = targets.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        let seed = plan.seed.wrapping_add(round as u64);
        let name = format!("{run_name}-{round}");
        let script = plan.load.script(&name, plan.answers, seed);
        for server in order(round, targets.len()) {
            let outcomes = play(&targets[server], &script, progress).await;
            observed[server].push(outcomes.map_err(|denial| denied(&urls[server], &denial))?);
        }
    }
    let servers: Vec<_> = urls
        .iter()
        .zip(targets)
        .zip(&observed)
        .map(|((url, target), rounds)| ServerReport {
            flood: FloodFigures::of(plan.load, rounds),
            two_models: TwoModelsFigures::of(plan.load, rounds),
            ..ServerReport::new(url.clone(), target, rounds)
        })
        .collect();
    Ok(BenchReport {
        load: plan.load,
        answers: plan.answers,
        rounds: plan.rounds,
        advantage: advantage(&servers),
        servers,
    })
}

/// Who goes first changes with every round.
fn order(round: usize, servers: usize) -> impl Iterator<Item = usize> {
    (0..servers).map(move |place| (place + round) % servers)
}

fn denied(url: &str, denial: &Denial) -> BenchError {
    BenchError::Denied {
        url: url.to_owned(),
        denial: denial.to_string(),
    }
}

async fn target(
    url: &str,
    server: ServerAddress,
    flooded: ServerAddress,
    plan: &BenchPlan,
) -> Result<BenchTarget, BenchError> {
    let model = match &plan.model {
        Some(model) => model.clone(),
        None => first_model(&server, url).await?,
    };
    Ok(BenchTarget {
        server,
        flooded,
        model,
        second_model: plan.second_model.clone(),
        timeout: plan.timeout,
        deadline: plan.deadline,
    })
}

async fn first_model(server: &ServerAddress, url: &str) -> Result<String, BenchError> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let fault = |fault: String| BenchError::Models {
        url: url.to_owned(),
        fault,
    };
    let response = server.get("/v1/models").await?;
    let status = response.status();
    let body = http::text(response).await?;
    if let Some(denial) = Denial::of(status.as_u16(), &body) {
        return Err(denied(url, &denial));
    }
    if !status.is_success() {
        return Err(fault(format!("GET /v1/models: {status}")));
    }
    let list: List = serde_json::from_str(&body).map_err(|error| fault(error.to_string()))?;
    let first = list.data.into_iter().next();
    Ok(first.ok_or_else(|| fault("it has none".to_owned()))?.id)
}

impl ServerReport {
    fn new(url: String, target: BenchTarget, observed: &[Vec<RequestOutcome>]) -> Self {
        let parts = |round: &Vec<_>| parts(round, target.deadline);
        let rounds: Vec<_> = observed.iter().map(parts).collect();
        let names = rounds.first().into_iter().flat_map(BTreeMap::keys);
        let median = |part: &LoadPart| {
            let all: Vec<_> = rounds
                .iter()
                .filter_map(|round| round.get(part).cloned())
                .collect();
            (*part, Figures::median(&all))
        };
        let outcomes = observed.iter().flatten();
        Self {
            url,
            model: match target.second_model {
                Some(second) => format!("{} and {second}", target.model),
                None => target.model,
            },
            prompt_tokens: outcomes.filter_map(|o| o.clock.prompt_tokens()).max(),
            parts: names.map(median).collect(),
            rounds,
            flood: None,
            two_models: None,
        }
    }
}

fn parts(round: &[RequestOutcome], deadline: Option<Duration>) -> BTreeMap<LoadPart, Figures> {
    let names: BTreeSet<LoadPart> = round.iter().map(|outcome| outcome.part).collect();
    let figures = |part| (part, Figures::of(part, round, deadline));
    names.into_iter().map(figures).collect()
}

fn advantage(servers: &[ServerReport]) -> Option<BTreeMap<LoadPart, Advantage>> {
    let [ours, theirs] = servers else {
        return None;
    };
    let both = ours.parts.iter().filter_map(|(part, figures)| {
        let other = theirs.parts.get(part)?;
        Some((*part, figures.advantage_over(other)))
    });
    Some(both.collect())
}
