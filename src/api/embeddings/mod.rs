//! `POST /v1/embeddings`, top to bottom.

mod vectors;
mod wire;

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use tracing::Span;

use crate::admission::{Place, Presence};
use crate::embedding::{Embedded, Job};
use crate::engine::{Reading, Token};
use crate::pool::{Entry, LoadedEmbedder, Serving};
use crate::scheduler::{JobError, Timings};

use super::access::Recorded;
#[cfg(any(test, fuzzing))]
use super::body::read_value;
use super::body::{Arrival, JsonBody, LargeBody};
use super::decoding::at_least;
use super::description::{Operation, Schemas};
use super::error::ApiError;
use super::generate::{refuse_deadline, refuse_if_all_do};
use super::generation::{Record, Spent};
use super::models::{embeds, find_embedder, serving};
use super::state::AppState;
use super::tokenize::{LONG_TEXT, known_tokens};
use vectors::{Encoding, unit};
use wire::{
    Datum, ENCODINGS, EmbeddingRequest, EmbeddingResponse, Input, LEAST_DIMENSIONS, MOST_TOKENS,
    Usage,
};

const ENDPOINT: &str = "/v1/embeddings";
/// Bytes of a token that is longer than most.
const LONG_TOKEN: usize = 16;

pub(super) async fn create(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    refuse_deadline(request.headers())?;
    refuse_if_all_do(&state)?;
    let JsonBody(request, arrival) =
        JsonBody::<EmbeddingRequest>::from_request(request, &state).await?;
    let form = Form::try_from(&request)?;
    let entry = Arc::clone(find_embedder(&state, request.model.as_deref())?);

    // From here on the request counts as one of this model's, however it ends.
    let mut record = Record::new(&state, &entry.id, ENDPOINT);
    let answer = answer(&state, &entry, request.input, form, arrival).await;
    let mut response = match answer {
        Ok((body, spent)) => {
            record.embedded(spent);
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => {
            record.failed(&error);
            error.into_response()
        }
    };
    response.extensions_mut().insert(Recorded);
    Ok(response)
}

pub(super) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("embed", "Makes vectors of texts.")
        .takes(&schemas.sent::<EmbeddingRequest>())
        .fails(&[404])
        .tells("application/json", &schemas.told::<EmbeddingResponse>())
}

/// Reads a body as far as no model is needed for it.
#[cfg(any(test, fuzzing))]
pub(super) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    Form::try_from(&read_value::<EmbeddingRequest>(body)?).map(drop)
}

/// How vectors are wanted.
#[derive(Debug, Clone, Copy)]
struct Form {
    encoding: Encoding,
    /// At least 1.
    dimensions: Option<usize>,
}

impl TryFrom<&EmbeddingRequest> for Form {
    type Error = ApiError;

    fn try_from(request: &EmbeddingRequest) -> Result<Self, ApiError> {
        let encoding = match request.encoding_format.as_deref() {
            None => Encoding::Float,
            Some(wanted) => {
                let found = ENCODINGS.into_iter().find(|(name, _)| *name == wanted);
                let message = "`encoding_format` must be `float` or `base64`";
                let (_, encoding) =
                    found.ok_or_else(|| ApiError::invalid("encoding_format", message))?;
                encoding
            }
        };
        let dimensions = request
            .dimensions
            .map(|count| at_least("dimensions", count, LEAST_DIMENSIONS))
            .transpose()?
            .map(|count| count as usize);
        Ok(Self {
            encoding,
            dimensions,
        })
    }
}

/// The body of the answer, and what it took. Dropping the future cancels the request.
async fn answer(
    state: &AppState,
    entry: &Entry,
    input: Input,
    form: Form,
    arrival: Arrival,
) -> Result<(Vec<u8>, Spent), ApiError> {
    let loaded = embedder(state, entry)?;
    let dimensions = dimensions(form, loaded.tokenizer.info().dimensions)?;
    let (place, _presence): (Place, Presence) = entry.gate.admit()?;
    let arrived = arrival.at;
    let held = (place, arrival.memory);
    let Read { texts, place } = read(state, input, Arc::clone(&loaded), held).await?;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let (answer, embedded) = oneshot::channel();
    let job = Job {
        texts,
        arrived,
        place: Some(place),
        span: Span::current(),
        answer,
    };
    loaded
        .submit(job)
        .map_err(|_| ApiError::ModelUnavailable(entry.id.clone()))?;
    // The channel to the model's thread may end with the thread only: by a defect.
    let embedded = embedded.await.map_err(|_| ApiError::Internal)?;
    let embedded = embedded.map_err(ApiError::Job)?;
    let spent = Spent {
        prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        energy_joules: embedded.energy_joules,
        timings: Timings {
            queue: embedded.queue,
            prefill: embedded.compute,
            decode: 0.0,
        },
        ..Spent::default()
    };
    let model = entry.id.clone();
    let written = tokio::task::spawn_blocking(move || {
        write(embedded, dimensions, form.encoding, &model, tokens)
    });
    let body = written.await.map_err(|_| ApiError::Internal)??;
    Ok((body, spent))
}

/// The model's inside, if it embeds.
fn embedder(state: &AppState, entry: &Entry) -> Result<Arc<LoadedEmbedder>, ApiError> {
    match serving(entry)? {
        Serving::Embedding(loaded) => Ok(loaded),
        Serving::Generation(_) => {
            let others = state.pool.entries().iter().filter(|entry| embeds(entry));
            let others: Vec<_> = others.map(|entry| format!("`{}`", entry.id)).collect();
            let remedy = if others.is_empty() {
                "this server has no embedding model: add one to its [[models]]".to_owned()
            } else {
                format!("embedding models of this server: {}", others.join(", "))
            };
            let message = format!("`{}` is no embedding model; {remedy}", entry.id);
            Err(ApiError::invalid("model", message))
        }
    }
}

fn dimensions(form: Form, model: usize) -> Result<usize, ApiError> {
    match form.dimensions {
        Some(wanted) if wanted > model => Err(ApiError::invalid(
            "dimensions",
            format!("`dimensions` is {wanted}; the model's vectors have {model}"),
        )),
        wanted => Ok(wanted.unwrap_or(model)),
    }
}

/// A request's texts as tokens.
struct Read {
    texts: Vec<Vec<Token>>,
    place: Place,
}

/// Off the runtime's threads; long texts of several requests one after the other. The place goes
/// along, because the work goes on when the client has left.
async fn read(
    state: &AppState,
    input: Input,
    loaded: Arc<LoadedEmbedder>,
    (place, memory): (Place, LargeBody),
) -> Result<Read, ApiError> {
    let bytes = match &input {
        Input::Text(text) => text.len(),
        Input::Texts(texts) => texts.iter().map(String::len).sum(),
        Input::Tokens(_) | Input::TokenLists(_) => 0,
    };
    let turn = if bytes > LONG_TEXT {
        // The semaphore is never closed.
        Arc::clone(&state.long_texts).acquire_owned().await.ok()
    } else {
        None
    };
    let log_prompts = state.log_prompts;
    let span = Span::current();
    let read = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let _held = (turn, memory);
        if log_prompts {
            tracing::info!(?input, "prompt");
        }
        let texts = tokens(&input, &loaded)?;
        Ok(Read { texts, place })
    });
    read.await.map_err(|_| ApiError::Internal)?
}

fn tokens(input: &Input, loaded: &LoadedEmbedder) -> Result<Vec<Vec<Token>>, ApiError> {
    let tokenizer = &loaded.tokenizer;
    let read = |param: &str, text: &str| {
        if text.is_empty() {
            let message = format!("`{param}` must not be an empty string");
            return Err(ApiError::invalid(param, message));
        }
        let reading = Reading {
            bounds: true,
            // Texts are data, whatever they look like.
            markup: false,
        };
        // Tokens of megabytes take seconds, and only to be refused.
        if let Some(beginning) = beginning(text, LONG_TEXT.max(loaded.context * LONG_TOKEN)) {
            let least = tokenizer.tokenize(beginning, reading).len();
            if least > loaded.context {
                return Err(too_long(
                    param,
                    &format!("at least {least}"),
                    loaded.context,
                ));
            }
        }
        Ok(tokenizer.tokenize(text, reading))
    };
    let known = |param: &str, ids: &[i64]| known_tokens(param, ids, tokenizer.info().vocabulary);
    let mut limits = Bounds {
        context: loaded.context,
        total: 0,
    };
    let indexed = |index: usize| format!("input[{index}]");
    match input {
        Input::Text(text) => Ok(vec![limits.check("input", read("input", text)?)?]),
        Input::Tokens(ids) => Ok(vec![limits.check("input", known("input", ids)?)?]),
        Input::Texts(texts) => (texts.iter().enumerate())
            .map(|(index, text)| {
                let param = indexed(index);
                limits.check(&param, read(&param, text)?)
            })
            .collect(),
        Input::TokenLists(lists) => (lists.iter().enumerate())
            .map(|(index, ids)| {
                let param = indexed(index);
                limits.check(&param, known(&param, ids)?)
            })
            .collect(),
    }
}

fn too_long(param: &str, tokens: &str, context: usize) -> ApiError {
    ApiError::InputTooLong {
        message: format!(
            "`{param}` has {tokens} tokens; the model reads at most {context}: split or shorten it"
        ),
        param: param.to_owned(),
    }
}

/// The words within the first `bytes` of a longer text; all of those bytes where that is one word.
fn beginning(text: &str, bytes: usize) -> Option<&str> {
    if text.len() <= bytes {
        return None;
    }
    let part = (0..=bytes).rev().find_map(|end| text.get(..end))?;
    let words = part.rfind(char::is_whitespace).map(|end| &part[..end]);
    Some(words.filter(|words| !words.is_empty()).unwrap_or(part))
}

/// How much one text and all of them may have.
struct Bounds {
    context: usize,
    /// Tokens so far.
    total: usize,
}

impl Bounds {
    fn check(&mut self, param: &str, text: Vec<Token>) -> Result<Vec<Token>, ApiError> {
        if text.is_empty() {
            let message = format!("`{param}` has no tokens: write something");
            return Err(ApiError::invalid(param, message));
        }
        if text.len() > self.context {
            return Err(too_long(param, &text.len().to_string(), self.context));
        }
        self.total += text.len();
        if self.total > MOST_TOKENS {
            let message = format!(
                "`input` has more than {MOST_TOKENS} tokens in all: send it in several requests"
            );
            return Err(ApiError::invalid("input", message));
        }
        Ok(text)
    }
}

fn write(
    embedded: Embedded,
    dimensions: usize,
    encoding: Encoding,
    model: &str,
    tokens: usize,
) -> Result<Vec<u8>, ApiError> {
    let data = (0..).zip(embedded.vectors).map(|(index, vector)| {
        let vector = unit(vector, dimensions).ok_or_else(|| {
            tracing::error!(index, "the model gave numbers that are no vector");
            ApiError::Job(JobError::Engine)
        })?;
        Ok(Datum {
            object: "embedding",
            index,
            embedding: encoding.write(vector),
        })
    });
    let response = EmbeddingResponse {
        object: "list",
        data: data.collect::<Result<_, ApiError>>()?,
        model,
        usage: Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    serde_json::to_vec(&response).map_err(|error| {
        tracing::error!(%error, "vectors could not be written");
        ApiError::Internal
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn form(body: Value) -> Result<Form, ApiError> {
        Form::try_from(&serde_json::from_value::<EmbeddingRequest>(body).expect("typed"))
    }

    fn param(error: &ApiError) -> Value {
        error.body()["error"]["param"].clone()
    }

    #[test]
    fn numbers_are_written_as_floats_unless_asked_otherwise() {
        let plain = form(json!({"input": "a", "encoding_format": null})).expect("sound");
        assert_eq!((plain.encoding, plain.dimensions), (Encoding::Float, None));
        let other = form(json!({"input": "a", "encoding_format": "base64", "dimensions": 8}));
        let other = other.expect("sound");
        assert_eq!(
            (other.encoding, other.dimensions),
            (Encoding::Base64, Some(8))
        );
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        let error = form(json!({"input": "a", "encoding_format": "hex"})).expect_err("refused");
        assert_eq!(param(&error), "encoding_format");
        for count in [0, -5] {
            let error = form(json!({"input": "a", "dimensions": count})).expect_err("refused");
            assert_eq!(param(&error), "dimensions");
        }
        let wanted = form(json!({"input": "a", "dimensions": 385})).expect("sound");
        assert_eq!(
            param(&dimensions(wanted, 384).expect_err("too many")),
            "dimensions"
        );
        assert_eq!(dimensions(wanted, 385), Ok(385));
    }

    #[test]
    fn a_long_text_is_judged_by_its_first_words() {
        assert_eq!(beginning("two words", 9), None);
        assert_eq!(beginning("three more words", 12), Some("three more"));
        assert_eq!(beginning("oneword", 4), Some("onew"));
        assert_eq!(beginning("ééé", 3), Some("é"));
    }

    #[test]
    fn a_text_over_the_context_and_a_sum_over_the_limit_are_told_apart() {
        let mut bounds = Bounds {
            context: 100_000,
            total: 0,
        };
        let text = |length: usize| vec![Token(1); length];
        let long = bounds
            .check("input[3]", text(100_001))
            .expect_err("too long");
        assert_eq!(long.body()["error"]["code"], "context_length_exceeded");
        assert_eq!(param(&long), "input[3]");
        for _ in 0..3 {
            assert!(bounds.check("input[0]", text(100_000)).is_ok());
        }
        assert_eq!(
            param(&bounds.check("input[3]", text(1)).expect_err("full")),
            "input"
        );
        assert_eq!(
            param(&bounds.check("input[4]", text(0)).expect_err("empty")),
            "input[4]"
        );
    }
}
