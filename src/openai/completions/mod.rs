//! `POST /v1/completions`: text goes on, without a chat template.

mod answer;
mod logprobs;
mod validate;
mod wire;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

#[cfg(any(test, fuzzing))]
use crate::http::body::read_value;
use crate::http::delivery::respond;
use crate::http::description::{Operation, Schemas};
use crate::http::error::ApiError;
use crate::http::resume::{Entrance, enter};
use crate::http::state::AppState;
use crate::inference::generate::begin;
use crate::inference::generation::Record;
use crate::openai::models::find_model;
use answer::Answer;
use validate::Completion;

const ENDPOINT: &str = "/v1/completions";

pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("complete", "Goes on with texts, without a chat template.")
        .takes(&schemas.sent::<wire::CompletionRequest>())
        .resumable()
        .tells("application/json", &schemas.told::<wire::Body>())
        .streams(
            "Pieces of the answer, then `[DONE]`; an `Error` where it breaks off.",
            &schemas.told::<wire::Body>(),
            Some("[DONE]"),
        )
}

pub(crate) async fn completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    let check = |asked: wire::CompletionRequest| Completion::try_from(asked);
    let (completion, ticket, arrival) = match enter(request, &state, check).await? {
        Entrance::New(completion, ticket, arrival) => (completion, ticket, arrival),
        Entrance::Resumed(rest) => return Ok(rest),
    };
    let entry = Arc::clone(find_model(&state, completion.model.as_deref())?);

    let record = Record::new(&state, &entry.id, ENDPOINT);
    let output = completion.output;
    let mut response = match begin(&state, &entry, completion.order, arrival, record).await {
        Err(error) => error.of_prompt_in("prompt").into_response(),
        Ok(started) => {
            let answer = Answer::new(&entry.id, output, &started);
            respond(started.generation, answer, output.stream, ticket).await
        }
    };
    response
        .extensions_mut()
        .insert(crate::http::access::Recorded);
    Ok(response)
}

/// Reads a body as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    Completion::try_from(read_value::<wire::CompletionRequest>(body)?).map(drop)
}
