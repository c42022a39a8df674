//! What every endpoint that generates does with a request, top to bottom.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};

use crate::http::access::Reply;
use crate::http::error::ApiError;
use crate::http::parse::Wire;
use crate::http::respond::{ResponseRenderer, respond};
use crate::http::resume::{IncomingRequest, enter};
use crate::inference::error::InferenceError;
use crate::inference::generate::{GenerationRequest, StartedGeneration};
use crate::inference::{FailureSummary, RequestAccount};
use crate::pool::Entry;

use super::names::ParameterNames;
use super::state::AppState;

/// An endpoint that generates text.
pub(super) trait Endpoint: Send + Sized + 'static {
    /// Its body.
    type Body: Wire;
    /// Its body, checked as far as no model is needed for it.
    type Checked: Send + 'static;
    /// How it tells the answers.
    type Renderer: ResponseRenderer;

    /// Its route.
    const PATH: &'static str;
    /// What it calls the parts of a request.
    const NAMES: ParameterNames;

    /// Checks a body as far as no model is needed for it.
    fn check(body: Self::Body) -> Result<Self::Checked, ApiError>;

    /// The model that a request names.
    fn model(checked: &Self::Checked) -> Option<&str>;

    /// What is to be generated, and what is needed to tell it.
    fn request(
        state: &AppState,
        checked: Self::Checked,
    ) -> Result<(GenerationRequest, Self), ApiError>;

    /// Whether the answer is a stream.
    fn streams(&self) -> bool;

    /// What tells the answers that were started.
    fn renderer(self, entry: &Entry, started: &StartedGeneration) -> Self::Renderer;
}

/// Answers a request to an endpoint.
pub(super) async fn answer<E: Endpoint>(
    state: AppState,
    request: Request,
) -> Result<Reply, ApiError> {
    let entered = enter(request, &state.http, &state.inference, E::check).await?;
    let (checked, ticket, arrival) = match entered {
        IncomingRequest::New(checked, ticket, arrival) => (checked, ticket, arrival),
        IncomingRequest::Resumed(rest) => return Ok(Reply::Uncounted(rest)),
    };
    let entry = Arc::clone(state.inference.find_model(E::model(&checked))?);
    let (request, endpoint) = E::request(&state, checked)?;

    // From here on the request counts as one of this model's, however it ends.
    let account = RequestAccount::new(&state.inference, &entry.id, E::PATH, summarize::<E>);
    let started = state.inference.generate(&entry, request, arrival, account);
    let response: Response = match started.await {
        Err(error) => E::NAMES.api_error(error).into_response(),
        Ok(started) => {
            let streams = endpoint.streams();
            let renderer = endpoint.renderer(&entry, &started);
            respond(started.answers, renderer, streams, ticket).await
        }
    };
    Ok(Reply::Accounted(response))
}

fn summarize<E: Endpoint>(error: &InferenceError) -> FailureSummary {
    E::NAMES.summarize(error)
}
