//! The steps that every generating endpoint takes for a request, top to bottom.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::IntoResponse;

use super::names::ParameterNames;
use super::served_by::served_by;
use super::state::AppState;
use crate::admission::Principal;
use crate::http::access::Reply;
use crate::http::error::ApiError;
use crate::http::estimate::estimated;
use crate::http::parse::Wire;
use crate::http::respond::{ResponseRenderer, respond_with_stream, whole};
use crate::http::resume::{IncomingRequest, enter};
use crate::http::sse::Frame;
use crate::inference::error::InferenceError;
use crate::inference::generate::{GenerationRequest, StartedGeneration};
use crate::inference::params::GenerationParams;
use crate::inference::{FailureSummary, RequestAccount};

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

    /// Whether a prompt is written in token ids, which are those of one vocabulary.
    fn has_token_prompts(_checked: &Self::Checked) -> bool {
        false
    }

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

    /// Makes the renderer of the answers that were started, which come under the name `model`.
    fn renderer(self, model: &str, started: &StartedGeneration) -> Self::Renderer;

    /// Returns the frame that reports an error in a stream whose answers never started.
    fn failure(error: &ApiError) -> Frame {
        Frame::Data(error.body().to_string())
    }
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
    let has_token_ids = E::has_token_prompts(&checked) || E::params(&mut checked).names_tokens();
    let name = E::model(&checked);
    let model = (state.inference).choose_model(name, principal, has_token_ids)?;
    grant_tier(E::params(&mut checked), principal);
    let (request, endpoint) = E::request(&state, principal, checked)?;

    // From here on the request counts as one of this model's, however it ends.
    let name = model.name();
    let account = RequestAccount::new(
        &state.inference,
        &name,
        E::PATH,
        summarize::<E>,
        &mut arrival,
    );
    let streams = endpoint.streams();
    let (entry, served) = (Arc::clone(&model.entry), model.clone());
    let inference = state.inference;
    let started = async move {
        let started = inference.generate(&model, request, arrival, account).await;
        let started = started.map_err(|error| E::NAMES.api_error(error))?;
        let renderer = endpoint.renderer(&name, &started);
        Ok((started.answers, renderer, started.estimate))
    };
    let response = if streams {
        let progress = move || entry.progress();
        let (response, estimate) = respond_with_stream(started, progress, E::failure, ticket).await;
        estimated(response, estimate)
    } else {
        match started.await {
            Err(error) => error.into_response(),
            Ok((answers, renderer, estimate)) => {
                estimated(whole(answers, renderer).await, estimate)
            }
        }
    };
    Ok(Reply::Accounted(served_by(response, &served)))
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
