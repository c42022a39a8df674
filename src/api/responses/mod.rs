//! `POST /v1/responses`, top to bottom, and the stored ones.

mod answer;
mod events;
mod input;
mod items;
mod not_built;
mod reply;
mod store;
mod stored;
mod tools;
mod turns;
mod validate;
mod wire;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use crate::prompt::{Conversation, Message};

#[cfg(any(test, fuzzing))]
use super::body::read_value;
use super::delivery::respond;
use super::description::{Operation, Schemas};
use super::error::ApiError;
use super::generate::{Input as Wanted, Order, begin};
use super::generation::Record;
use super::models::find_model;
use super::resume::{Entrance, enter};
use super::state::AppState;
use answer::{Answer, Keeping};
use input::Input;
use items::Given;
use store::Source;
use turns::Turns;
use validate::Asked;

pub(super) use store::{Limits, Store};
pub(super) use stored::{
    cancel, delete, describe_cancel, describe_delete, describe_input_items, describe_show,
    input_items, show,
};

const ENDPOINT: &str = "/v1/responses";

pub(super) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new(
        "respond",
        "Responds to a question or to items of a conversation.",
    )
    .takes(&schemas.sent::<wire::ResponseRequest>())
    .resumable()
    .tells("application/json", &schemas.told::<reply::Response>())
    .streams(
        "OpenAI's events of a response; `error` where it breaks off.",
        &schemas.told::<events::Event>(),
        None,
    )
}

/// Reads a body as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(super) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    let asked = Asked::try_from(read_value::<wire::ResponseRequest>(body)?)?;
    let store = Store::new(Limits {
        responses: 0,
        bytes: 0,
        age: std::time::Duration::ZERO,
    });
    let instructions = asked.echo.instructions.as_deref();
    match conversation(
        &store,
        usize::MAX,
        instructions,
        asked.previous,
        asked.input,
    ) {
        Ok(_) | Err(ApiError::PreviousResponseNotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) async fn create(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    let check = |asked: wire::ResponseRequest| {
        let asks_to_store = asked.store == Some(true);
        Ok((Asked::try_from(asked)?, asks_to_store))
    };
    let ((mut asked, asks_to_store), ticket, arrival) = match enter(request, &state, check).await? {
        Entrance::New(asked, ticket, arrival) => (asked, ticket, arrival),
        Entrance::Resumed(rest) => return Ok(rest),
    };
    let store = &state.responses;
    if asks_to_store && !store.is_open() {
        let why = "is not supported as true: this server is configured to keep no responses";
        return Err(ApiError::unsupported("store", why));
    }
    asked.echo.store &= store.is_open();
    let entry = Arc::clone(find_model(&state, asked.model.as_deref())?);
    let (messages, input) = conversation(
        store,
        2 * state.body_limit,
        asked.echo.instructions.as_deref(),
        asked.previous,
        asked.input,
    )?;

    // From here on the request counts as one of this model's, however it ends.
    let record = Record::new(&state, &entry.id, ENDPOINT);
    let sampling = asked.decoding.sampling.clone();
    let order = Order {
        inputs: vec![Wanted::Conversation(Conversation {
            messages,
            tools: asked.tools,
            effort: asked.effort,
            template_kwargs: asked.template_kwargs,
            ..Conversation::default()
        })],
        decoding: asked.decoding,
        may_shorten: asked.may_shorten,
    };
    let mut response = match begin(&state, &entry, order, arrival, record).await {
        Err(error) => in_own_words(error).into_response(),
        Ok(started) => {
            let sampling = sampling.resolve(&started.loaded.tokenizer.info().sampling, 0, 0);
            let keeping = asked.echo.store.then(|| Keeping {
                store: store.clone(),
                input,
            });
            let parser = started.parser(0);
            let pieces = Arc::clone(&started.loaded.tokenizer);
            let reply = reply::Response::new(&entry.id, &sampling, asked.echo);
            let answer = Answer::new(reply, asked.output, pieces, parser, keeping);
            respond(started.generation, answer, asked.output.stream, ticket).await
        }
    };
    response.extensions_mut().insert(super::access::Recorded);
    Ok(response)
}

/// The turns of a request, and the items that they are made of.
fn conversation(
    store: &Store,
    most_bytes: usize,
    instructions: Option<&str>,
    previous: Option<String>,
    given: Vec<Given>,
) -> Result<(Vec<Message>, Vec<Source>), ApiError> {
    let mut turns = Turns::new(instructions, most_bytes);
    let mut input = Input::default();
    if let Some(id) = previous {
        let Some(stored) = store.find(&id) else {
            return Err(ApiError::PreviousResponseNotFound(id));
        };
        for kept in stored.conversation() {
            turns.add(&kept.item, "previous_response_id")?;
            input.add(Source::Kept(kept));
        }
    }
    for (index, given) in given.into_iter().enumerate() {
        let at = format!("input[{index}]");
        let source = match given {
            Given::Item(item) => Source::New(item),
            Given::Reference(id) => input.referred(store, &id).ok_or_else(|| {
                let message = format!(
                    "Item with id '{id}' not found: it was not stored, or has expired, or its id is \
                     not this server's; send the item itself"
                );
                ApiError::invalid(format!("{at}.id"), message)
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

/// Parameters by the names that they have here.
fn in_own_words(error: ApiError) -> ApiError {
    const NAMES: [(&str, &str); 3] = [
        ("messages", "input"),
        ("reasoning_effort", "reasoning.effort"),
        ("response_format", "text.format"),
    ];
    let name = |param: &str| {
        let found = NAMES.into_iter().find(|(chats, _)| *chats == param);
        found.map(|(chats, ours)| (format!("`{chats}`"), ours))
    };
    match error {
        ApiError::Unsupported { param, why } => match name(&param) {
            Some((_, ours)) => ApiError::unsupported(ours, why),
            None => ApiError::Unsupported { param, why },
        },
        ApiError::Invalid {
            message,
            param: Some(param),
        } => match name(&param) {
            Some((chats, ours)) => {
                ApiError::invalid(ours, message.replace(&chats, &format!("`{ours}`")))
            }
            // Turns are made of items, whose places are others.
            None if param.starts_with("messages[") => {
                ApiError::invalid("input", message.replace(&format!("`{param}`"), "`input`"))
            }
            None => ApiError::invalid(param, message),
        },
        other => other.of_prompt_in("input"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::PromptError;

    #[test]
    fn what_is_wrong_about_a_turn_is_told_of_the_input() {
        let no_object = PromptError::NoObject {
            message: 1,
            call: 0,
            id: "call_7".to_owned(),
        };
        let error = in_own_words(ApiError::from(&no_object)).body();
        assert_eq!(error["error"]["param"], "input");
        let message = error["error"]["message"].as_str().expect("a text");
        assert!(message.starts_with("`input`: "), "{message}");
        assert!(message.contains("`call_7`"), "{message}");
    }
}
