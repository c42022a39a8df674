//! `edgellm bench`: the load of a shop's kiosks against any OpenAI-compatible
//! server. Every kiosk sends the same long store prompt and a question of its
//! own, all at once; first with a prompt that the server has never seen (cold),
//! then again with the same prompt (warm).

mod client;
mod stats;

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use client::{Reply, Target};
pub use stats::{Percentiles, Round};

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Kiosks that ask at the same time.
    pub clients: usize,
    /// Warm rounds after the cold one.
    pub rounds: usize,
    /// Products in the store prompt; each is some 20 tokens.
    pub products: usize,
    /// Tokens of each answer at most.
    pub max_tokens: u32,
    /// The model to ask; the server's first when absent.
    pub model: Option<String>,
    /// Time for one answer.
    pub timeout: Duration,
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where the load went.
    pub url: String,
    /// The model that answered.
    pub model: String,
    /// Kiosks at once.
    pub clients: usize,
    /// Tokens of a prompt, as the server counts them; absent if it does not say.
    pub prompt_tokens: Option<u64>,
    /// The first round: nobody has sent this prompt before.
    pub cold: Round,
    /// All later rounds together.
    pub warm: Round,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The URL cannot be used.
    #[error("{0}; give the server's address, e.g. http://127.0.0.1:8080")]
    Url(String),
    /// The server cannot be asked at all.
    #[error("{0}")]
    Server(String),
}

/// Runs `plan` against `url`; `progress` hears of every answer that is complete.
///
/// # Errors
/// [`BenchError`] when not even the list of models can be read. Answers that fail are counted.
pub async fn run(
    url: &str,
    plan: &Plan,
    progress: &(dyn Fn() + Sync),
) -> Result<Report, BenchError> {
    let target = Target::parse(url).map_err(BenchError::Url)?;
    let model = match &plan.model {
        Some(model) => model.clone(),
        None => target.first_model().await.map_err(BenchError::Server)?,
    };
    let store = store_prompt(plan.products);
    let mut rounds = Vec::new();
    for round in 0..=plan.rounds {
        rounds.push(burst(&target, plan, &model, &store, round, progress).await);
    }
    let prompt_tokens = rounds
        .iter()
        .flat_map(|round| &round.replies)
        .find_map(|reply| reply.as_ref().ok()?.prompt_tokens);
    let cold = rounds.remove(0);
    Ok(Report {
        url: url.to_owned(),
        model,
        clients: plan.clients,
        prompt_tokens,
        cold: Round::new(&[cold]),
        warm: Round::new(&rounds),
    })
}

/// What one round gave.
#[derive(Debug)]
struct Burst {
    took: Duration,
    replies: Vec<Result<Reply, String>>,
}

async fn burst(
    target: &Target,
    plan: &Plan,
    model: &str,
    store: &str,
    round: usize,
    progress: &(dyn Fn() + Sync),
) -> Burst {
    let started = Instant::now();
    let mut kiosks = JoinSet::new();
    for kiosk in 0..plan.clients {
        let body = serde_json::json!({
            "model": model,
            "stream": true,
            "stream_options": {"include_usage": true},
            "temperature": 0,
            "max_tokens": plan.max_tokens,
            "messages": [
                {"role": "system", "content": store},
                {"role": "user", "content": question(round * plan.clients + kiosk, plan.products)},
            ],
        });
        let (target, timeout) = (target.clone(), plan.timeout);
        kiosks.spawn(async move {
            match tokio::time::timeout(timeout, target.ask(&body.to_string())).await {
                Ok(reply) => reply,
                Err(_) => Err(format!("no whole answer within {timeout:?}")),
            }
        });
    }
    let mut replies = Vec::new();
    while let Some(reply) = kiosks.join_next().await {
        progress();
        replies.push(reply.unwrap_or_else(|error| Err(error.to_string())));
    }
    Burst {
        took: started.elapsed(),
        replies,
    }
}

/// A prompt that nobody has sent before: the name of the store is new every time.
fn store_prompt(products: usize) -> String {
    let mut prompt = format!(
        "You are the assistant of store {}. Answer in one short sentence.\nProducts:",
        uuid::Uuid::new_v4().simple()
    );
    for number in 0..products {
        let (price, aisle) = (100 + number * 37 % 1900, 1 + number * 7 % 24);
        let line = format!(
            "\n- {}: ${}.{:02}, aisle {aisle}, {} in stock",
            product(number),
            price / 100,
            price % 100,
            number % 40
        );
        prompt.push_str(&line);
    }
    prompt
}

fn question(number: usize, products: usize) -> String {
    format!(
        "How much is the {}?",
        product(number * 13 % products.max(1))
    )
}

fn product(number: usize) -> String {
    const KINDS: [&str; 7] = ["Tea", "Soap", "Bread", "Lamp", "Juice", "Rope", "Cheese"];
    const MAKERS: [&str; 9] = [
        "Alder", "Birch", "Cedar", "Dune", "Ember", "Fjord", "Grove", "Heath", "Isle",
    ];
    format!(
        "{} {} {}",
        MAKERS[number % MAKERS.len()],
        KINDS[number % KINDS.len()],
        1 + number / 63
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_is_new_and_every_question_is_about_it() {
        assert_ne!(store_prompt(3), store_prompt(3));
        let prompt = store_prompt(40);
        for number in 0..100 {
            let question = question(number, 40);
            let name = &question["How much is the ".len()..question.len() - 1];
            assert!(prompt.contains(&format!("- {name}: $")), "{name}");
        }
    }
}
