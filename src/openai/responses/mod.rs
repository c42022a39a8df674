//! `POST /v1/responses`, top to bottom, and the routes of stored responses.

mod events;
mod input;
mod items;
mod not_built;
mod renderer;
mod reply;
mod store;
mod stored;
mod tools;
mod turns;
mod validate;
mod wire;

use crate::admission::Principal;
use crate::field::FieldPath;
use crate::http::access::Reply;
use crate::inference;
use crate::inference::generate::{GenerationRequest, StartedGeneration};
use crate::inference::params::GenerationParams;
use crate::inference::sampling::RequestedSampling;
use crate::openai::AppState;
use crate::openai::endpoint::{self, Endpoint};
use crate::openai::names::{ParameterNames, RESPONSES};
use std::sync::Arc;

use axum::extract::{Request, State};
use serde_json::json;

use crate::prompt::{Conversation, Message};

use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas};
#[cfg(any(test, fuzzing))]
use crate::http::parse::read_value;
use crate::http::sse::Frame;
use input::InputItems;
use items::ResponseItemInput;
use renderer::{ResponseItemRenderer, StoreTarget};
use store::{InputSource, OwnResponses};
use turns::Turns;
use validate::{ResponseOutputOptions, ValidResponseRequest};

pub(crate) use store::{ResponseStore, StoreLimits};
pub(crate) use stored::{
    cancel, delete, describe_cancel, describe_delete, describe_input_items, describe_show,
    input_items, show,
};

pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new(
        "respond",
        "Responds to a question or to items of a conversation.",
    )
    .accepts(&schemas.read::<wire::ResponseRequest>())
    .resumable()
    .responds(
        "application/json",
        &schemas.written::<reply::ResponseObject>(),
    )
    .streams(
        "OpenAI's events of a response; `error` where it breaks off.",
        &schemas.written::<events::ResponseEvent>(),
        None,
    )
    .in_time()
}

/// Reads and checks a body as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    let asked = ValidResponseRequest::try_from(read_value::<wire::ResponseRequest>(body)?)?;
    let store = ResponseStore::new(StoreLimits {
        responses: 0,
        bytes: 0,
        age: std::time::Duration::ZERO,
    });
    let instructions = asked.echo.instructions.as_deref();
    match conversation(
        &store.of(&Arc::new(Principal::anyone())),
        usize::MAX,
        instructions,
        asked.previous,
        asked.input,
    ) {
        Ok(_) | Err(ApiError::PreviousResponseNotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) async fn create(
    State(state): State<AppState>,
    request: Request,
) -> Result<Reply, ApiError> {
    endpoint::answer::<Responses>(state, request).await
}

/// The endpoint, with what rendering its answer needs.
struct Responses {
    output: ResponseOutputOptions,
    echo: reply::RequestEcho,
    sampling: RequestedSampling,
    keeping: Option<StoreTarget>,
}

impl Endpoint for Responses {
    type Body = wire::ResponseRequest;
    type Checked = ValidResponseRequest;
    type Renderer = ResponseItemRenderer;

    const PATH: &'static str = "/v1/responses";
    const NAMES: ParameterNames = RESPONSES;

    fn check(body: wire::ResponseRequest) -> Result<ValidResponseRequest, ApiError> {
        ValidResponseRequest::try_from(body)
    }

    fn check_server(state: &AppState, asked: &ValidResponseRequest) -> Result<(), ApiError> {
        if asked.asks_to_store && !state.responses.is_open() {
            let why = "is not supported as true: this server is configured to keep no responses";
            return Err(ApiError::unsupported("store", why));
        }
        Ok(())
    }

    fn model(asked: &ValidResponseRequest) -> Option<&str> {
        asked.model.as_deref()
    }

    fn params(asked: &mut ValidResponseRequest) -> &mut GenerationParams {
        &mut asked.params
    }

    fn request(
        state: &AppState,
        principal: &Arc<Principal>,
        mut asked: ValidResponseRequest,
    ) -> Result<(GenerationRequest, Self), ApiError> {
        asked.echo.store &= state.responses.is_open();
        asked.echo.service_tier = asked.params.class.unwrap_or_default().as_str();
        let store = state.responses.of(principal);
        let (messages, input) = conversation(
            &store,
            2 * state.http.body_limit,
            asked.echo.instructions.as_deref(),
            asked.previous,
            asked.input,
        )?;
        let endpoint = Self {
            output: asked.output,
            sampling: asked.params.sampling.clone(),
            keeping: asked.echo.store.then_some(StoreTarget { store, input }),
            echo: asked.echo,
        };
        let conversation = Conversation {
            messages,
            tools: asked.tools,
            effort: asked.effort,
            template_kwargs: asked.template_kwargs,
            ..Conversation::default()
        };
        let request = GenerationRequest {
            inputs: vec![inference::generate::GenerationInput::Conversation(
                conversation,
            )],
            params: asked.params,
            may_truncate: asked.may_truncate,
        };
        Ok((request, endpoint))
    }

    fn streams(&self) -> bool {
        self.output.stream
    }

    fn renderer(self, model: &str, started: &StartedGeneration) -> ResponseItemRenderer {
        let tokenizer = Arc::clone(&started.loaded.tokenizer);
        let sampling = self.sampling.resolve(&tokenizer.info().sampling, 0, 0);
        let reply = reply::ResponseObject::new(model, &sampling, self.echo);
        let parser = started.parser(0);
        ResponseItemRenderer::new(reply, self.output, tokenizer, parser, self.keeping)
    }

    fn failure(error: &ApiError) -> Frame {
        let body = error.body();
        let event = json!({
            "type": "error",
            "code": body["error"]["code"],
            "message": body["error"]["message"],
            "param": body["error"]["param"],
            "sequence_number": 0,
        });
        Frame::Named("error", event.to_string())
    }
}

/// Returns the messages of a request's conversation, and the items that they are made of.
fn conversation(
    store: &OwnResponses,
    most_bytes: usize,
    instructions: Option<&str>,
    previous: Option<String>,
    items: Vec<ResponseItemInput>,
) -> Result<(Vec<Message>, Vec<InputSource>), ApiError> {
    let mut turns = Turns::new(instructions, most_bytes);
    let mut input = InputItems::default();
    if let Some(id) = previous {
        let Some(stored) = store.find(&id) else {
            return Err(ApiError::PreviousResponseNotFound(id));
        };
        for kept in stored.conversation() {
            turns.add(&kept.item, &"previous_response_id".into())?;
            input.add(InputSource::Stored(kept));
        }
    }
    for (index, given) in items.into_iter().enumerate() {
        let at = FieldPath::from("input").index(index);
        let source = match given {
            ResponseItemInput::Item(item) => InputSource::New(item),
            ResponseItemInput::Reference(id) => input.referred(store, &id).ok_or_else(|| {
                let message = format!(
                    "Item with id '{id}' not found: it was not stored, or has expired, or its id is \
                     not this server's; send the item itself"
                );
                ApiError::invalid(at.name("id"), message)
            })?,
        };
        if let Some(item) = input.item(&source) {
            turns.add(item, &at)?;
        }
        input.add(source);
    }
    let messages = turns.into_messages();
    if messages.is_empty() {
        let message = "`input` holds nothing to answer to: add a message";
        return Err(ApiError::invalid("input", message));
    }
    Ok((messages, input.sources))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use store::ResponseDraft;

    #[tokio::test]
    async fn a_response_of_another_key_is_gone_on_from_no_more_than_one_that_is_not_there() {
        let empty = || {
            ResponseStore::new(StoreLimits {
                responses: 10,
                bytes: 1 << 20,
                age: Duration::from_secs(60),
            })
        };
        let principal = |name: &str| {
            let name = Some(name.to_owned());
            Arc::new(Principal {
                name,
                ..Principal::anyone()
            })
        };
        let store = empty();
        assert!(store.of(&principal("till")).keep(ResponseDraft {
            id: "resp_1".to_owned(),
            body: String::new(),
            input: Vec::new(),
            output: Vec::new(),
        }));
        let go_on = |store: &ResponseStore, name| {
            let instructions = Some("Answer.");
            let previous = Some("resp_1".to_owned());
            let store = store.of(&principal(name));
            conversation(&store, usize::MAX, instructions, previous, Vec::new())
        };
        assert!(go_on(&store, "till").is_ok());
        let refused = go_on(&store, "tablet").expect_err("another's").body();
        let unknown = go_on(&empty(), "tablet").expect_err("unknown").body();
        assert_eq!(refused, unknown);
    }
}
