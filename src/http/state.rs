//! The state that all HTTP handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::admission::SendBudget;
use crate::config::Settings;
use crate::inference::Inference;
use crate::telemetry::Metrics;

use super::auth::Authenticator;
use super::browsers::CorsOrigins;
use super::forwarded::TrustedProxies;
use super::hosts::AllowedHosts;
use super::resume::RecordedStreams;

/// KiB of memory for large bodies that are being received. It is the largest size that one body may have
/// (`max_body_bytes` in [`crate::config::ServerSettings`]), or a body could wait for itself.
const LARGE_BODIES_KIB: usize = 128 << 10;
/// The same in bytes.
pub const LARGE_BODIES_BYTES: u64 = (LARGE_BODIES_KIB as u64) << 10;

/// Large bodies that are parsed and checked at once.
const LARGE_BODIES_PARSED: usize = 2;

/// Cheap to clone; one clone goes into every request.
#[derive(Debug, Clone)]
pub(crate) struct HttpState {
    pub(crate) metrics: Metrics,
    /// Who may ask.
    pub(crate) authenticator: Authenticator,
    /// Under which names.
    pub(crate) hosts: AllowedHosts,
    /// Which pages of other servers.
    pub(crate) origins: CorsOrigins,
    /// Who is believed whom it asks for.
    pub(crate) proxies: TrustedProxies,
    /// Largest body in bytes.
    pub(crate) body_limit: usize,
    /// Memory for large bodies, one permit per KiB.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// Turns for parsing large bodies, whose values take many times the memory of their text.
    pub(crate) large_values: Arc<Semaphore>,
    /// Time for a whole body.
    pub(crate) body_timeout: Duration,
    /// Memory for responses that wait for their clients to read.
    pub(crate) send_budget: SendBudget,
    /// Recorded streams, whose clients may come back.
    pub(crate) streams: RecordedStreams,
}

impl HttpState {
    pub(crate) fn new(
        settings: &Settings,
        inference: &Inference,
        metrics: Metrics,
        authenticator: Authenticator,
    ) -> Self {
        let send_budget = inference.send_budget().clone();
        Self {
            metrics,
            authenticator,
            hosts: AllowedHosts::new(&settings.server.allowed_hosts),
            origins: CorsOrigins::new(&settings.server.cors_origins),
            proxies: TrustedProxies::new(&settings.server.trusted_proxies),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_KIB)),
            large_values: Arc::new(Semaphore::new(LARGE_BODIES_PARSED)),
            streams: RecordedStreams::new(&send_budget),
            send_budget,
            body_limit: settings.server.max_body_bytes,
            body_timeout: settings.server.body_timeout,
        }
    }

    /// Returns the bytes of memory that are held for large bodies.
    pub(crate) fn held_bodies(&self) -> u64 {
        let held = LARGE_BODIES_KIB.saturating_sub(self.large_bodies.available_permits());
        (held as u64) << 10
    }
}
