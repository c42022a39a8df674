//! `POST /v1/chat/completions`, top to bottom.

mod answer;
mod end;
mod messages;
mod not_built;
mod reply;
mod validate;
mod wire;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value};

use crate::clock::unix_seconds;
use crate::engine::{Pieces, Token};
use crate::prompt::{Conversation, OutputParser, ToolFormat};
use crate::scheduler::Text;

#[cfg(any(test, fuzzing))]
use super::body::read_value;
use super::delivery::{Frame, Outgoing, Telling, event_stream, respond};
use super::description::{Operation, Schemas};
use super::error::ApiError;
use super::generate::{Input, Order, begin};
use super::generation::Record;
use super::models::find_model;
use super::resume::{Entrance, enter};
use super::state::AppState;
use super::template_kwargs::template_kwargs;
use super::tools::{Calls, Tools};
use answer::Answer;
pub(super) use end::end;
use reply::Header;
use validate::{Chat, Output};
pub(super) use wire::{Message, Tool};

const ENDPOINT: &str = "/v1/chat/completions";

pub(super) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("chat", "Answers a conversation.")
        .takes(&schemas.sent::<wire::ChatRequest>())
        .resumable()
        .tells("application/json", &schemas.told::<reply::Completion>())
        .streams(
            "Chunks of the answer, then `[DONE]`; an `Error` where it breaks off.",
            &schemas.told::<reply::Chunk>(),
            Some("[DONE]"),
        )
}

pub(super) async fn completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    let check = |asked: wire::ChatRequest| Chat::try_from(asked);
    let (chat, ticket, arrival) = match enter(request, &state, check).await? {
        Entrance::New(chat, ticket, arrival) => (chat, ticket, arrival),
        Entrance::Resumed(rest) => return Ok(rest),
    };
    let entry = Arc::clone(find_model(&state, chat.model.as_deref())?);

    // From here on the request counts as one of this model's, however it ends.
    let record = Record::new(&state, &entry.id, ENDPOINT);
    let output = chat.output;
    let class = chat.decoding.class;
    let choices = chat.decoding.choices.count();
    let order = Order {
        inputs: vec![Input::Conversation(chat.conversation)],
        decoding: chat.decoding,
        may_shorten: false,
    };
    let mut response = match begin(&state, &entry, order, arrival, record).await {
        Err(error) => error.into_response(),
        Ok(started) => {
            let object = if output.stream {
                "chat.completion.chunk"
            } else {
                "chat.completion"
            };
            let digest = &started.loaded.tokenizer.info().digest;
            let header = Header::new(object, &entry.id, digest, unix_seconds(), class);
            let parsers = (0..choices).map(|_| started.parser(0));
            let pieces = Arc::clone(&started.loaded.tokenizer);
            let answer = Answer::new(header, output, pieces, parsers);
            respond(started.generation, answer, output.stream, ticket).await
        }
    };
    response.extensions_mut().insert(super::access::Recorded);
    Ok(response)
}

/// Reads a body as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(super) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    Chat::try_from(read_value::<wire::ChatRequest>(body)?).map(drop)
}

/// A streamed answer of so many words, for `benches/sse.rs`.
#[must_use]
pub fn measured_stream(words: u32, tools: bool) -> Response {
    struct NoPieces;

    impl Pieces for NoPieces {
        fn piece(&self, _token: Token) -> &[u8] {
            b""
        }

        fn is_end(&self, _token: Token) -> bool {
            false
        }
    }

    let output = Output {
        stream: true,
        usage_chunk: true,
        calls: if tools { Calls::Any } else { Calls::None },
        logprobs: false,
    };
    let header = Header::new(
        "chat.completion.chunk",
        "qwen2.5-0.5b",
        "0123456789",
        0,
        None,
    );
    let parser = OutputParser::new(None, tools.then_some(ToolFormat::Hermes));
    let mut answer = Answer::new(header, output, Arc::new(NoPieces), [parser]);
    let word = Text {
        text: " word".to_owned(),
        tokens: 1,
        logprobs: Vec::new(),
    };
    let frames: Vec<Frame> = (0..words).flat_map(|_| answer.text(0, &word)).collect();
    event_stream(stream::iter(frames).map(Outgoing::from), 0)
}

/// What the model is shown of the tools of a request to any endpoint, checked as chat's are.
pub(super) fn shown(tools: Vec<Tool>) -> Result<Vec<Value>, ApiError> {
    Ok(Tools::new(messages::tools(tools)?, None, None, None)?.shown)
}

/// The same with messages and variables of the template.
pub(super) fn conversation(
    messages: Vec<Message>,
    tools: Vec<Tool>,
    kwargs: Option<Map<String, Value>>,
) -> Result<Conversation, ApiError> {
    Ok(Conversation {
        tools: shown(tools)?,
        messages: messages::messages(messages)?,
        template_kwargs: template_kwargs(kwargs)?,
        ..Conversation::default()
    })
}
