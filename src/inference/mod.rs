//! What a request is, without a transport: from a checked request to the events of its answers.
//!
//! [`Inference`] is the one thing that fronts call. It knows the pool of models, the metrics, and who asks;
//! it knows nothing of HTTP, of JSON on the wire, or of what a protocol calls parameters and failures. Only the
//! parameters of sampling, which all protocols call alike, are named here (`sampling`, `checks`).

mod account;
mod answers;
pub(crate) mod arrival;
pub(crate) mod bounds;
pub(crate) mod checks;
mod constraint;
pub(crate) mod embed;
pub(crate) mod error;
pub(crate) mod generate;
mod layout;
mod models;
mod outcome;
pub(crate) mod params;
pub(crate) mod sampling;
pub(crate) mod tokenize;
mod truncation;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::admission::{AdmissionRefusal, DefaultDeadlines, DrainGuard, SendBudget, Tenant};
use crate::config::{CachedTokens, Settings};
use crate::pool::Pool;
use crate::telemetry::Metrics;

pub(crate) use account::{FailureSummary, RequestAccount, UsageTotals};
pub(crate) use answers::Answers;
pub(crate) use models::ChosenModel;
pub(crate) use outcome::{AnswerOutcome, RequestOutcome};

/// Answers requests with the models of a pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inference {
    pool: Arc<Pool>,
    metrics: Metrics,
    /// Memory for responses that wait for their clients to read.
    send_budget: SendBudget,
    /// Long texts are tokenized one at a time, so that they take at most one core from running requests.
    long_texts: Arc<Semaphore>,
    /// The time for answers to requests that set none.
    deadlines: DefaultDeadlines,
    /// Whether prompts may be logged.
    log_prompts: bool,
    /// Whether the usage object says how much energy an answer took.
    energy_in_usage: bool,
    /// How exactly the usage object says how many prompt tokens were cached.
    cached_tokens_in_usage: CachedTokens,
}

impl Inference {
    /// Serves the models of `pool`, with `settings` for logging prompts and disclosing usage.
    #[must_use]
    pub fn new(settings: &Settings, pool: Arc<Pool>, metrics: Metrics) -> Self {
        Self {
            pool,
            metrics,
            send_budget: SendBudget::new(settings.server.max_unsent_bytes),
            long_texts: Arc::new(Semaphore::new(1)),
            deadlines: DefaultDeadlines {
                usual: settings.admission.deadline,
                priority: settings.admission.priority_deadline,
                flex: settings.admission.flex_deadline,
            },
            log_prompts: settings.telemetry.log_prompts,
            energy_in_usage: settings.telemetry.energy_in_usage,
            cached_tokens_in_usage: settings.telemetry.cached_tokens_in_usage,
        }
    }

    /// Returns the pool of models.
    #[must_use]
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the memory budget of responses that wait for their clients to read.
    #[must_use]
    pub(crate) fn send_budget(&self) -> &SendBudget {
        &self.send_budget
    }

    /// Checks whether any model would admit a request of a tenant with this drain guard. If not, it can be refused before
    /// its body is read.
    ///
    /// # Errors
    /// The refusal of the last model asked, which is counted.
    pub(crate) fn has_room(
        &self,
        tenant: Tenant,
        drain_guard: Option<&DrainGuard>,
    ) -> Result<(), AdmissionRefusal> {
        let outcome = match drain_guard {
            Some(_) => self.any_has_room(tenant),
            None => Err(AdmissionRefusal::draining()),
        };
        outcome.inspect_err(|refusal| self.count_refusal("", refusal))
    }

    fn any_has_room(&self, tenant: Tenant) -> Result<(), AdmissionRefusal> {
        let mut outcome = Ok(());
        for entry in self.pool.entries().iter() {
            outcome = entry.has_room(tenant);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn count_refusal(&self, model: &str, refusal: &AdmissionRefusal) {
        self.metrics
            .request_rejected(model, refusal.reason.as_str());
    }
}
