//! What handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::Settings;
use crate::pool::Pool;
use crate::telemetry::Metrics;

use super::responses::{Limits, Store};
use super::resume::Streams;

/// Memory for large bodies on their way in: as much as one of them may be at most (`max_body_bytes`
/// in [`crate::config::schema`]), or it would wait for itself.
const LARGE_BODIES_KIB: usize = 128 << 10;

/// Large bodies that are parsed and checked at once.
const LARGE_VALUES: usize = 2;

/// Cheap to clone; one clone goes into every request.
#[derive(Debug, Clone)]
pub struct AppState {
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Metrics,
    /// Largest body in bytes.
    pub(super) body_limit: usize,
    /// Memory for large bodies, a permit a KiB.
    pub(super) large_bodies: Arc<Semaphore>,
    /// For large bodies on their way into values, which take many times their memory.
    pub(super) large_values: Arc<Semaphore>,
    /// For long texts that only become tokens: one at a time, so that they keep one core at most
    /// from the answers under way.
    pub(super) long_texts: Arc<Semaphore>,
    /// Time for a whole body.
    pub(super) body_timeout: Duration,
    /// Streams whose clients may come back.
    pub(super) streams: Streams,
    /// Responses whose clients may come back.
    pub(super) responses: Store,
    /// Whether prompts may be logged.
    pub(super) log_prompts: bool,
    /// Whether clients are told what their answer cost.
    pub(super) energy_in_usage: bool,
}

impl AppState {
    /// What handlers need of the configuration, and the rooms they call.
    #[must_use]
    pub fn new(settings: &Settings, pool: Arc<Pool>, metrics: Metrics) -> Self {
        Self {
            pool,
            metrics,
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_KIB)),
            large_values: Arc::new(Semaphore::new(LARGE_VALUES)),
            streams: Streams::default(),
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
        }
    }
}
