//! What handlers share.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::pool::Pool;
use crate::telemetry::Metrics;

/// Cheap to clone; one clone goes into every request.
#[derive(Debug, Clone)]
pub struct AppState {
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Metrics,
    /// Largest body in bytes.
    pub(super) body_limit: usize,
    /// Time for a whole body.
    pub(super) body_timeout: Duration,
    /// Whether prompts and answers may be logged.
    pub(super) log_prompts: bool,
}

impl AppState {
    /// What handlers need of the configuration, and the rooms they call.
    #[must_use]
    pub fn new(settings: &Settings, pool: Arc<Pool>, metrics: Metrics) -> Self {
        Self {
            pool,
            metrics,
            body_limit: settings.server.max_body_bytes,
            body_timeout: settings.server.body_timeout,
            log_prompts: settings.telemetry.log_prompts,
        }
    }
}
