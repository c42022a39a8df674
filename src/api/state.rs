//! What handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::Settings;
use crate::pool::Pool;
use crate::telemetry::Metrics;

/// Bodies that are read at once; others wait, within the time that a body may take.
const BODIES: usize = 32;

/// Cheap to clone; one clone goes into every request.
#[derive(Debug, Clone)]
pub struct AppState {
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Metrics,
    /// Largest body in bytes.
    pub(super) body_limit: usize,
    /// How many bodies may be in memory on their way in.
    pub(super) bodies: Arc<Semaphore>,
    /// Time for a whole body.
    pub(super) body_timeout: Duration,
    /// Whether prompts may be logged.
    pub(super) log_prompts: bool,
}

impl AppState {
    /// What handlers need of the configuration, and the rooms they call.
    #[must_use]
    pub fn new(settings: &Settings, pool: Arc<Pool>, metrics: Metrics) -> Self {
        Self {
            pool,
            metrics,
            bodies: Arc::new(Semaphore::new(BODIES)),
            body_limit: settings.server.max_body_bytes,
            body_timeout: settings.server.body_timeout,
            log_prompts: settings.telemetry.log_prompts,
        }
    }
}
