//! What handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::admission::SendBudget;
use crate::config::{CachedTokens, Settings};
use crate::pool::Pool;
use crate::telemetry::Metrics;

use crate::http::resume::Streams;
use crate::openai::responses::{Limits, Store};

/// Memory for large bodies on their way in: as much as one of them may be at most (`max_body_bytes`
/// in [`crate::config::schema`]), or it would wait for itself.
const LARGE_BODIES_KIB: usize = 128 << 10;

/// Large bodies that are parsed and checked at once.
const LARGE_VALUES: usize = 2;

/// Cheap to clone; one clone goes into every request.
#[derive(Debug, Clone)]
pub struct AppState {
    pub(crate) pool: Arc<Pool>,
    pub(crate) metrics: Metrics,
    /// Largest body in bytes.
    pub(crate) body_limit: usize,
    /// Memory for large bodies, a permit a KiB.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// For large bodies on their way into values, which take many times their memory.
    pub(crate) large_values: Arc<Semaphore>,
    /// For long texts that only become tokens: one at a time, so that they keep one core at most
    /// from the answers under way.
    pub(crate) long_texts: Arc<Semaphore>,
    /// Time for a whole body.
    pub(crate) body_timeout: Duration,
    /// Memory for answers that wait for their clients.
    pub(crate) send_budget: SendBudget,
    /// Streams whose clients may come back.
    pub(crate) streams: Streams,
    /// Responses whose clients may come back.
    pub(crate) responses: Store,
    /// Whether prompts may be logged.
    pub(crate) log_prompts: bool,
    /// Whether clients are told what their answer cost.
    pub(crate) energy_in_usage: bool,
    /// How exactly they are told what was cached.
    pub(crate) cached_tokens_in_usage: CachedTokens,
}

impl AppState {
    /// What handlers need of the configuration, and the rooms they call.
    #[must_use]
    pub fn new(settings: &Settings, pool: Arc<Pool>, metrics: Metrics) -> Self {
        let send_budget = SendBudget::new(settings.server.max_unsent_bytes);
        Self {
            pool,
            metrics,
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_KIB)),
            large_values: Arc::new(Semaphore::new(LARGE_VALUES)),
            streams: Streams::new(&send_budget),
            send_budget,
            responses: Store::new(Limits {
                responses: settings.server.store_max_responses,
                bytes: settings.server.store_max_bytes,
                age: settings.server.store_time,
            }),
            long_texts: Arc::new(Semaphore::new(1)),
            body_limit: settings.server.max_body_bytes,
            body_timeout: settings.server.body_timeout,
            log_prompts: settings.telemetry.log_prompts,
            energy_in_usage: settings.telemetry.energy_in_usage,
            cached_tokens_in_usage: settings.telemetry.cached_tokens_in_usage,
        }
    }
}
