//! `POST /v1/completions`: text goes on, without a chat template.

mod answer;
mod logprobs;
mod validate;
mod wire;

use crate::http::access::Reply;
use crate::inference::generate::{GenerationRequest, StartedGeneration};
use crate::openai::AppState;
use crate::openai::endpoint::{self, Endpoint};
use crate::openai::names::{COMPLETIONS, ParameterNames};
use crate::pool::ModelEntry;
use axum::extract::{Request, State};

#[cfg(any(test, fuzzing))]
use crate::http::body::read_value;
use crate::http::description::{Operation, Schemas};
use crate::http::error::ApiError;
use answer::Answer;
use validate::{Completion, Output};

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
) -> Result<Reply, ApiError> {
    endpoint::answer::<Completions>(state, request).await
}

/// The endpoint, with what is needed to tell an answer.
struct Completions {
    output: Output,
}

impl Endpoint for Completions {
    type Body = wire::CompletionRequest;
    type Checked = Completion;
    type Renderer = Answer;

    const PATH: &'static str = "/v1/completions";
    const NAMES: ParameterNames = COMPLETIONS;

    fn check(body: wire::CompletionRequest) -> Result<Completion, ApiError> {
        Completion::try_from(body)
    }

    fn model(completion: &Completion) -> Option<&str> {
        completion.model.as_deref()
    }

    fn request(
        _: &AppState,
        completion: Completion,
    ) -> Result<(GenerationRequest, Self), ApiError> {
        let output = completion.output;
        Ok((completion.request, Self { output }))
    }

    fn streams(&self) -> bool {
        self.output.stream
    }

    fn renderer(self, entry: &ModelEntry, started: &StartedGeneration) -> Answer {
        Answer::new(&entry.id, self.output, started)
    }
}

/// Reads a body as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    Completion::try_from(read_value::<wire::CompletionRequest>(body)?).map(drop)
}
