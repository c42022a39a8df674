//! The state that OpenAI's endpoints share.

use axum::extract::FromRef;

use crate::config::Settings;
use crate::http::AllowedHosts;
use crate::http::auth::Authenticator;
use crate::http::state::HttpState;
use crate::inference::Inference;
use crate::telemetry::Metrics;

use super::responses::{ResponseStore, StoreLimits};

/// Cheap to clone; one clone goes into every request.
#[derive(Debug, Clone)]
pub struct AppState {
    pub(super) http: HttpState,
    pub(super) inference: Inference,
    /// Stored responses, which later requests may refer to.
    pub(super) responses: ResponseStore,
}

impl AppState {
    /// Collects what handlers need of the configuration, and the rooms that they call.
    #[must_use]
    pub fn new(
        settings: &Settings,
        inference: Inference,
        metrics: Metrics,
        authenticator: Authenticator,
    ) -> Self {
        Self {
            http: HttpState::new(settings, &inference, metrics, authenticator),
            inference,
            responses: ResponseStore::new(StoreLimits {
                responses: settings.server.store_max_responses,
                bytes: settings.server.store_max_bytes,
                age: settings.server.store_time,
            }),
        }
    }
}

impl AppState {
    /// Returns the names under which clients may ask, to which a certificate adds its own.
    #[must_use]
    pub fn allowed_hosts(&self) -> AllowedHosts {
        self.http.hosts.clone()
    }

    /// Returns readings of the bytes of memory that are held for clients: of large bodies that come in, of answers that
    /// wait to be read, and of stored responses.
    #[must_use]
    pub fn held_bytes(&self) -> [Box<dyn Fn() -> u64 + Send + Sync>; 3] {
        let (bodies, streams) = (self.http.clone(), self.http.send_budget.clone());
        let responses = self.responses.clone();
        [
            Box::new(move || bodies.held_bodies()),
            Box::new(move || streams.reserved() as u64),
            Box::new(move || responses.held_bytes()),
        ]
    }
}

impl FromRef<AppState> for HttpState {
    fn from_ref(state: &AppState) -> Self {
        state.http.clone()
    }
}

impl FromRef<AppState> for ResponseStore {
    fn from_ref(state: &AppState) -> Self {
        state.responses.clone()
    }
}

impl FromRef<AppState> for Inference {
    fn from_ref(state: &AppState) -> Self {
        state.inference.clone()
    }
}
