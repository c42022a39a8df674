//! `POST /v1/chat/completions`, top to bottom.

mod answer;
mod messages;
mod not_built;
mod validate;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::mpsc::Receiver;
use tracing::Span;

use crate::admission::{Place, Presence};
use crate::clock::unix_seconds;
use crate::engine::{Token, Vocabulary};
use crate::pool::{Entry, Loaded};
use crate::scheduler::{Event, Finished, Job, channel};

use super::body::JsonBody;
use super::error::ApiError;
use super::generation::{Generation, Record};
use super::models::{find_model, ready};
use super::state::AppState;
use answer::{Answer, Header};
use validate::Chat;

/// A comment every so often keeps proxies and clients from giving a silent stream up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

const ENDPOINT: &str = "/v1/chat/completions";

pub(super) async fn completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    refuse_deadline(request.headers())?;
    // Whoever would be refused in any case need not send a body first.
    refuse_if_all_do(&state)?;
    let JsonBody(request) = JsonBody::<wire::ChatRequest>::from_request(request, &state).await?;
    let chat = Chat::try_from(request)?;
    let entry = Arc::clone(find_model(&state, chat.model.as_deref())?);

    // From here on the request counts as one of this model's, however it ends.
    let mut record = Record::new(&state.metrics, &entry.id, ENDPOINT);
    let output = chat.output;
    let mut response = match begin(&state, &entry, chat, arrived).await {
        Err(error) => {
            record.failed(&error);
            error.into_response()
        }
        Ok(started) => {
            let generation = Generation::new(started.events, started.presence, record);
            let answer = Answer::new(started.header, output);
            if output.stream {
                Sse::new(chunks(generation, answer))
                    .keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("waiting"))
                    .into_response()
            } else {
                whole(generation, answer).await.map(Json).into_response()
            }
        }
    };
    response.extensions_mut().insert(super::access::Recorded);
    Ok(response)
}

/// An admitted request on its way.
struct Started {
    events: Receiver<Event>,
    presence: Presence,
    header: Header,
}

/// Known and not built, hence not silently dropped.
fn refuse_deadline(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("x-deadline-ms") {
        let why = "is not supported by this version; leave the header out";
        return Err(ApiError::unsupported("x-deadline-ms", why));
    }
    Ok(())
}

fn refuse_if_all_do(state: &AppState) -> Result<(), ApiError> {
    let mut refusal = Ok(());
    for entry in state.pool.entries() {
        refusal = entry.gate.would_admit();
        if refusal.is_ok() {
            break;
        }
    }
    if let Err(refusal) = refusal {
        state.metrics.request_rejected("", refusal.reason.as_str());
    }
    Ok(refusal?)
}

/// Admission, prompt, and into the model's queue.
async fn begin(
    state: &AppState,
    entry: &Entry,
    chat: Chat,
    arrived: Instant,
) -> Result<Started, ApiError> {
    let loaded = ready(entry)?;
    let (place, presence) = entry.gate.admit()?;
    let rendered = render(chat, Arc::clone(&loaded), place, state.log_prompts).await?;
    let Rendered {
        chat,
        prompt,
        prediction,
        place,
    } = rendered;
    let max_tokens = answer_room(&chat, prompt.len(), loaded.context())?;
    let info = loaded.model.info();
    let (sender, events) = channel(max_tokens);
    let job = Job {
        prompt: prompt.into(),
        max_tokens,
        sampling: chat.sampling.resolve(&info.sampling, random_seed()),
        stops: chat.stops,
        stop_tokens: chat.stop_tokens,
        prediction,
        class: chat.class.unwrap_or_default(),
        ignore_end: chat.ignore_end,
        arrived,
        place: Some(place),
        span: Span::current(),
        events: sender,
    };
    loaded
        .submit(job)
        .map_err(|_| ApiError::ModelUnavailable(entry.id.clone()))?;
    Ok(Started {
        events,
        presence,
        header: Header::new(&entry.id, &info.digest, unix_seconds(), chat.class),
    })
}

/// A request and its prompt.
struct Rendered {
    chat: Chat,
    prompt: Vec<Token>,
    prediction: Option<Vec<Token>>,
    place: Place,
}

/// Templates and tokenizers may take a while over a long prompt: off the runtime's threads.
/// The place goes along, because the work goes on when the client has left.
async fn render(
    chat: Chat,
    loaded: Arc<Loaded>,
    place: Place,
    log_prompts: bool,
) -> Result<Rendered, ApiError> {
    let longest_piece = loaded.model.info().longest_piece;
    let least = chat.least_tokens(longest_piece);
    if least >= loaded.context() {
        return Err(too_long(&format!("at least {least}"), loaded.context()));
    }
    let predicted = chat.prediction.as_ref().map_or(0, String::len);
    if predicted / longest_piece.max(1) >= loaded.context() {
        return Err(prediction_too_long(loaded.context()));
    }
    let span = Span::current();
    let rendered = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        if log_prompts {
            tracing::info!(messages = ?chat.conversation.messages, "prompt");
        }
        let prompter = loaded.prompter.as_ref().map_err(ApiError::from)?;
        let prompt = prompter
            .tokens(&chat.conversation, &*loaded.model)
            .map_err(|error| ApiError::from(&error))?;
        if prompt.is_empty() {
            let message = "the messages give an empty prompt: write something";
            return Err(ApiError::invalid("messages", message));
        }
        let prediction = chat.prediction.as_ref();
        let prediction = prediction.map(|text| loaded.model.encode(text));
        if prediction
            .as_ref()
            .is_some_and(|tokens| tokens.len() >= loaded.context())
        {
            return Err(prediction_too_long(loaded.context()));
        }
        Ok(Rendered {
            chat,
            prompt,
            prediction,
            place,
        })
    });
    rendered.await.map_err(|_| ApiError::Internal)?
}

fn prediction_too_long(context: usize) -> ApiError {
    ApiError::invalid(
        "prediction.content",
        format!(
            "`prediction.content` is longer than the model's context of {context} tokens, \
             hence than any answer: shorten it"
        ),
    )
}

fn too_long(prompt: &str, context: usize) -> ApiError {
    ApiError::ContextLength(format!(
        "the messages have {prompt} tokens; the model's context is {context} tokens, \
         and at least one must be left for the answer: shorten the messages"
    ))
}

/// How many tokens the answer may have: what was asked for, as far as the context allows.
fn answer_room(chat: &Chat, prompt: usize, context: usize) -> Result<u32, ApiError> {
    if prompt >= context {
        return Err(too_long(&prompt.to_string(), context));
    }
    let room = u32::try_from(context - prompt).unwrap_or(u32::MAX);
    Ok(chat.max_tokens.map_or(room, |wanted| wanted.min(room)))
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// The whole answer as one object.
async fn whole(
    mut generation: Generation,
    mut answer: Answer,
) -> Result<serde_json::Value, ApiError> {
    loop {
        match generation.next().await {
            Ok(Event::Text(text)) => answer.collect(&text),
            Ok(Event::Finished(finished)) => {
                let body = answer.complete(&finished);
                generation.finished(body.finish_reason, &finished);
                return Ok(body.json);
            }
            Ok(Event::Failed(error)) => {
                let error = ApiError::Job(error);
                generation.failed(&error);
                return Err(error);
            }
            Err(error) => {
                generation.failed(&error);
                return Err(error);
            }
        }
    }
}

/// The answer as server-sent events. Dropping the stream cancels the request.
fn chunks(
    generation: Generation,
    answer: Answer,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let first = answer.first_chunk();
    let state = Streaming {
        generation,
        answer,
        pending: vec![first].into(),
        ended: false,
    };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(data) = state.pending.pop_front() {
                return Some((Ok(sse::Event::default().data(data)), state));
            }
            if state.ended {
                return None;
            }
            state.advance().await;
        }
    })
}

struct Streaming {
    generation: Generation,
    answer: Answer,
    /// Chunks ready to be sent.
    pending: std::collections::VecDeque<String>,
    ended: bool,
}

impl Streaming {
    async fn advance(&mut self) {
        match self.generation.next().await {
            Ok(Event::Text(text)) => self.pending.extend(self.answer.chunks(&text)),
            Ok(Event::Finished(finished)) => self.finish(&finished),
            Ok(Event::Failed(error)) => self.fail(&ApiError::Job(error)),
            Err(error) => self.fail(&error),
        }
    }

    fn finish(&mut self, finished: &Finished) {
        let end = self.answer.last_chunks(finished);
        self.pending.extend(end.chunks);
        self.pending.push_back("[DONE]".to_owned());
        self.generation.finished(end.finish_reason, finished);
        self.ended = true;
    }

    fn fail(&mut self, error: &ApiError) {
        self.pending.push_back(error.body().to_string());
        self.generation.failed(error);
        self.ended = true;
    }
}
