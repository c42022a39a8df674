//! `POST /v1/completions`: continues a text, without a chat template.

mod logprobs;
mod renderer;
mod validate;
mod wire;

use crate::admission::Principal;
use crate::http::access::Reply;
use crate::inference::generate::{GenerationInput, GenerationRequest, StartedGeneration};
use crate::inference::params::GenerationParams;
use crate::openai::AppState;
use crate::openai::endpoint::{self, Endpoint};
use crate::openai::names::{COMPLETIONS, ParameterNames};
use std::sync::Arc;

use axum::extract::{Request, State};

use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas};
#[cfg(any(test, fuzzing))]
use crate::http::parse::read_value;
use renderer::CompletionRenderer;
use validate::{CompletionOutputOptions, ValidCompletionRequest};

pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("complete", "Goes on with texts, without a chat template.")
        .accepts(&schemas.read::<wire::CompletionRequest>())
        .resumable()
        .responds("application/json", &schemas.written::<wire::Completion>())
        .streams(
            "Pieces of the answer, then `[DONE]`; an `Error` where it breaks off.",
            &schemas.written::<wire::Completion>(),
            Some("[DONE]"),
        )
        .in_time()
}

pub(crate) async fn completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Reply, ApiError> {
    endpoint::answer::<Completions>(state, request).await
}

/// The endpoint, with what rendering its answers needs.
struct Completions {
    output: CompletionOutputOptions,
}

impl Endpoint for Completions {
    type Body = wire::CompletionRequest;
    type Checked = ValidCompletionRequest;
    type Renderer = CompletionRenderer;

    const PATH: &'static str = "/v1/completions";
    const NAMES: ParameterNames = COMPLETIONS;

    fn check(body: wire::CompletionRequest) -> Result<ValidCompletionRequest, ApiError> {
        ValidCompletionRequest::try_from(body)
    }

    fn model(completion: &ValidCompletionRequest) -> Option<&str> {
        completion.model.as_deref()
    }

    fn has_token_prompts(completion: &ValidCompletionRequest) -> bool {
        let mut inputs = completion.request.inputs.iter();
        inputs.any(|input| matches!(input, GenerationInput::Tokens(_)))
    }

    fn params(completion: &mut ValidCompletionRequest) -> &mut GenerationParams {
        &mut completion.request.params
    }

    fn request(
        _: &AppState,
        _: &Arc<Principal>,
        completion: ValidCompletionRequest,
    ) -> Result<(GenerationRequest, Self), ApiError> {
        let output = completion.output;
        Ok((completion.request, Self { output }))
    }

    fn streams(&self) -> bool {
        self.output.stream
    }

    fn renderer(self, model: &str, started: &StartedGeneration) -> CompletionRenderer {
        CompletionRenderer::new(model, self.output, started)
    }
}

/// Reads and checks a body as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    ValidCompletionRequest::try_from(read_value::<wire::CompletionRequest>(body)?).map(drop)
}
