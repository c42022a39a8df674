//! `POST /v1/chat/completions`, top to bottom.

mod end;
pub(crate) mod measured;
mod messages;
mod not_built;
mod renderer;
mod reply;
mod validate;
mod wire;

use crate::admission::{Principal, ServiceTier};
use crate::http::access::Reply;
use crate::inference::generate::{GenerationInput, GenerationRequest, StartedGeneration};
use crate::inference::params::GenerationParams;
use crate::openai::AppState;
use crate::openai::endpoint::{self, Endpoint};
use crate::openai::names::{CHAT, ParameterNames};
use std::sync::Arc;

use axum::extract::{Request, State};
use serde_json::{Map, Value};

use crate::clock::unix_seconds;
use crate::prompt::Conversation;

use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas};
#[cfg(any(test, fuzzing))]
use crate::http::parse::read_value;
use crate::openai::template_kwargs::template_kwargs;
use crate::openai::tools::Tools;
pub(crate) use end::end;
use renderer::ChatRenderer;
use reply::ChatHeader;
use validate::{ChatOutputOptions, ValidChatRequest};
pub(crate) use wire::{ChatMessage, ChatTool};

pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("chat", "Answers a conversation.")
        .accepts(&schemas.read::<wire::ChatCompletionRequest>())
        .resumable()
        .responds(
            "application/json",
            &schemas.written::<reply::ChatCompletion>(),
        )
        .streams(
            "Chunks of the answer, then `[DONE]`; an `Error` where it breaks off.",
            &schemas.written::<reply::ChatCompletionChunk>(),
            Some("[DONE]"),
        )
        .in_time()
}

pub(crate) async fn completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Reply, ApiError> {
    endpoint::answer::<ChatCompletions>(state, request).await
}

/// The endpoint, with what rendering its answers needs.
struct ChatCompletions {
    output: ChatOutputOptions,
    class: Option<ServiceTier>,
    choices: u32,
}

impl Endpoint for ChatCompletions {
    type Body = wire::ChatCompletionRequest;
    type Checked = ValidChatRequest;
    type Renderer = ChatRenderer;

    const PATH: &'static str = "/v1/chat/completions";
    const NAMES: ParameterNames = CHAT;

    fn check(body: wire::ChatCompletionRequest) -> Result<ValidChatRequest, ApiError> {
        ValidChatRequest::try_from(body)
    }

    fn model(chat: &ValidChatRequest) -> Option<&str> {
        chat.model.as_deref()
    }

    fn params(chat: &mut ValidChatRequest) -> &mut GenerationParams {
        &mut chat.params
    }

    fn request(
        _: &AppState,
        _: &Arc<Principal>,
        chat: ValidChatRequest,
    ) -> Result<(GenerationRequest, Self), ApiError> {
        let endpoint = Self {
            output: chat.output,
            class: chat.params.class,
            choices: chat.params.choices.count(),
        };
        let request = GenerationRequest {
            inputs: vec![GenerationInput::Conversation(chat.conversation)],
            params: chat.params,
            may_truncate: false,
        };
        Ok((request, endpoint))
    }

    fn streams(&self) -> bool {
        self.output.stream
    }

    fn renderer(self, model: &str, started: &StartedGeneration) -> ChatRenderer {
        let object = if self.output.stream {
            "chat.completion.chunk"
        } else {
            "chat.completion"
        };
        let digest = &started.loaded.tokenizer.info().digest;
        let header = ChatHeader::new(object, model, digest, unix_seconds(), self.class);
        let parsers = (0..self.choices).map(|_| started.parser(0));
        let pieces = Arc::clone(&started.loaded.tokenizer);
        ChatRenderer::new(header, self.output, pieces, parsers)
    }
}

/// Reads and checks a body as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    ValidChatRequest::try_from(read_value::<wire::ChatCompletionRequest>(body)?).map(drop)
}

/// Checks tools by chat's rules and returns what the model is shown of them.
pub(crate) fn shown(tools: Vec<ChatTool>) -> Result<Vec<Value>, ApiError> {
    Ok(Tools::new(messages::tools(tools)?, None, None, None)?.shown)
}

/// Checks messages, tools and template variables by chat's rules and makes a conversation of them.
pub(crate) fn conversation(
    messages: Vec<ChatMessage>,
    tools: Vec<ChatTool>,
    kwargs: Option<Map<String, Value>>,
) -> Result<Conversation, ApiError> {
    Ok(Conversation {
        tools: shown(tools)?,
        messages: messages::messages(messages)?,
        template_kwargs: template_kwargs(kwargs)?,
        ..Conversation::default()
    })
}
