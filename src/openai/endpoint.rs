//! The steps that every generating endpoint takes for a request, top to bottom.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};

use crate::admission::Principal;
use crate::http::access::Reply;
use crate::http::error::ApiError;
use crate::http::estimate::estimated;
use crate::http::parse::Wire;
use crate::http::respond::{ResponseRenderer, respond};
use crate::http::resume::{IncomingRequest, enter};
use crate::inference::error::InferenceError;
use crate::inference::generate::{GenerationRequest, StartedGeneration};
use crate::inference::params::GenerationParams;
use crate::inference::{FailureSummary, RequestAccount};
use crate::pool::ModelEntry;

use super::names::ParameterNames;
use super::state::AppState;

/// An endpoint that generates text.
pub(super) trait Endpoint: Send + Sized + 'static {
    /// The wire type of its body.
    type Body: Wire;
    /// Its body, checked as far as that needs no model.
    type Checked: Send + 'static;
    /// What renders its answers.
    type Renderer: ResponseRenderer;

    /// The path of its route.
    const PATH: &'static str;
    /// Its names for the parts of a request.
    const NAMES: ParameterNames;

    /// Checks a body as far as that needs no model.
    fn check(body: Self::Body) -> Result<Self::Checked, ApiError>;

    /// Refuses what this server is not configured for, whatever the model.
    fn check_server(_state: &AppState, _checked: &Self::Checked) -> Result<(), ApiError> {
        Ok(())
    }

    /// Returns the model that a request names.
    fn model(checked: &Self::Checked) -> Option<&str>;

    /// Returns the parameters of generation.
    fn params(checked: &mut Self::Checked) -> &mut GenerationParams;

    /// Splits a checked body into the request for inference and what rendering its answers needs. Of
    /// what is stored only what belongs to `principal` is found.
    fn request(
        state: &AppState,
        principal: &Arc<Principal>,
        checked: Self::Checked,
    ) -> Result<(GenerationRequest, Self), ApiError>;

    /// Whether the response is a stream.
    fn streams(&self) -> bool;

    /// Makes the renderer of the answers that were started.
    fn renderer(self, entry: &ModelEntry, started: &StartedGeneration) -> Self::Renderer;
}

/// Answers a request to an endpoint.
pub(super) async fn answer<E: Endpoint>(
    state: AppState,
    request: Request,
) -> Result<Reply, ApiError> {
    let entered = enter(request, &state.http, &state.inference, E::check).await?;
    let (mut checked, ticket, mut arrival) = match entered {
        IncomingRequest::New(checked, ticket, arrival) => (checked, ticket, arrival),
        IncomingRequest::Resumed(rest) => return Ok(Reply::Uncounted(rest)),
    };
    E::check_server(&state, &checked)?;
    let principal = &arrival.principal;
    let entry = Arc::clone(state.inference.find_model(E::model(&checked), principal)?);
    grant_tier(E::params(&mut checked), principal);
    let (request, endpoint) = E::request(&state, principal, checked)?;

    // From here on the request counts as one of this model's, however it ends.
    let account = RequestAccount::new(
        &state.inference,
        &entry.id,
        E::PATH,
        summarize::<E>,
        &mut arrival,
    );
    let started = state.inference.generate(&entry, request, arrival, account);
    let response: Response = match started.await {
        Err(error) => E::NAMES.api_error(error).into_response(),
        Ok(started) => {
            let (streams, estimate) = (endpoint.streams(), started.estimate);
            let renderer = endpoint.renderer(&entry, &started);
            let response = respond(started.answers, renderer, streams, ticket).await;
            estimated(response, estimate)
        }
    };
    Ok(Reply::Accounted(response))
}

/// Lowers the tier that a request asks for to the highest that its key gets. The answer says which it was.
fn grant_tier(params: &mut GenerationParams, principal: &Principal) {
    let granted = principal.granted_tier(params.class);
    if granted != params.class.unwrap_or_default() {
        params.class = Some(granted);
    }
}

fn summarize<E: Endpoint>(error: &InferenceError) -> FailureSummary {
    E::NAMES.summarize(error)
}
