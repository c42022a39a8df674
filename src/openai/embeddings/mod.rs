//! `POST /v1/embeddings`, top to bottom.

mod vectors;
mod wire;

use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::http::access::Reply;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::estimate::estimated;
use crate::http::openapi::{Operation, Schemas};
#[cfg(any(test, fuzzing))]
use crate::http::parse::read_value;
use crate::http::precheck::{allowed_time, refuse_if_all_do};
use crate::inference::RequestAccount;
use crate::inference::checks::at_least;
use crate::inference::embed::Embeddings;
use crate::inference::error::InferenceError;
use crate::openai::AppState;
use crate::openai::names::EMBEDDINGS;
use crate::openai::served_by::served_by;
use crate::worker::WorkError;
use vectors::{VectorEncoding, unit};
use wire::{
    ENCODINGS, EmbeddingObject, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage,
    LEAST_DIMENSIONS,
};

const ENDPOINT: &str = "/v1/embeddings";

pub(crate) async fn create(
    State(state): State<AppState>,
    request: Request,
) -> Result<Reply, ApiError> {
    let allowed = allowed_time(request.headers())?;
    refuse_if_all_do(&state.inference, &request)?;
    let JsonBody(request, mut arrival) =
        JsonBody::<EmbeddingRequest>::from_request(request, &state).await?;
    arrival.answer_within(allowed);
    let form = EmbeddingFormat::try_from(&request)?;
    let model = state
        .inference
        .choose_embedder(request.model.as_deref(), &arrival.principal)?;
    let name = model.name();

    // From here on the request counts as one of this model's, however it ends.
    let summarize = |error: &InferenceError| EMBEDDINGS.summarize(error);
    let inference = &state.inference;
    let mut account = RequestAccount::new(inference, &name, ENDPOINT, summarize, &mut arrival);
    let input = request.input.into();
    let embedding = inference.embed(&model.entry, input, form.dimensions, arrival, &mut account);
    let answer = match embedding.await {
        Ok(embeddings) => {
            let (usage, estimate) = (embeddings.usage, embeddings.estimate);
            let written = write(embeddings, form.encoding, name).await;
            written.map(|body| (body, usage, estimate))
        }
        Err(error) => Err(EMBEDDINGS.api_error(error)),
    };
    let response = match answer {
        Ok((body, usage, estimate)) => {
            account.embedded(usage);
            let response = ([(CONTENT_TYPE, "application/json")], body).into_response();
            estimated(response, estimate)
        }
        Err(error) => {
            account.ended(error.summary());
            error.into_response()
        }
    };
    Ok(Reply::Accounted(served_by(response, &model)))
}

pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("embed", "Makes vectors of texts.")
        .accepts(&schemas.read::<EmbeddingRequest>())
        .fails(&[404])
        .responds("application/json", &schemas.written::<EmbeddingResponse>())
        .in_time()
}

/// Reads and checks a body as far as that needs no model.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_body(body: &[u8]) -> Result<(), ApiError> {
    EmbeddingFormat::try_from(&read_value::<EmbeddingRequest>(body)?).map(drop)
}

/// The encoding and size of vectors that a request asks for.
#[derive(Debug, Clone, Copy)]
struct EmbeddingFormat {
    encoding: VectorEncoding,
    /// At least 1.
    dimensions: Option<usize>,
}

impl TryFrom<&EmbeddingRequest> for EmbeddingFormat {
    type Error = ApiError;

    fn try_from(request: &EmbeddingRequest) -> Result<Self, ApiError> {
        let encoding = match request.encoding_format.as_deref() {
            None => VectorEncoding::Float,
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

/// Serializes the response's body on a blocking thread.
async fn write(
    embeddings: Embeddings,
    encoding: VectorEncoding,
    model: String,
) -> Result<Vec<u8>, ApiError> {
    let writing = tokio::task::spawn_blocking(move || to_json(embeddings, encoding, &model));
    writing.await.map_err(|_| ApiError::Internal)?
}

fn to_json(
    embeddings: Embeddings,
    encoding: VectorEncoding,
    model: &str,
) -> Result<Vec<u8>, ApiError> {
    let Embeddings {
        vectors,
        dimensions,
        tokens,
        ..
    } = embeddings;
    let data = (0..).zip(vectors).map(|(index, vector)| {
        let vector = unit(vector, dimensions).ok_or_else(|| {
            tracing::error!(index, "the model gave numbers that are no vector");
            ApiError::Job(WorkError::Engine)
        })?;
        Ok(EmbeddingObject {
            object: "embedding",
            index,
            embedding: encoding.write(vector),
        })
    });
    let response = EmbeddingResponse {
        object: "list",
        data: data.collect::<Result<_, ApiError>>()?,
        model,
        usage: EmbeddingUsage {
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

    fn form(body: Value) -> Result<EmbeddingFormat, ApiError> {
        EmbeddingFormat::try_from(&serde_json::from_value::<EmbeddingRequest>(body).expect("typed"))
    }

    fn param(error: &ApiError) -> Value {
        error.body()["error"]["param"].clone()
    }

    #[test]
    fn numbers_are_written_as_floats_unless_asked_otherwise() {
        let plain = form(json!({"input": "a", "encoding_format": null})).expect("sound");
        assert_eq!(
            (plain.encoding, plain.dimensions),
            (VectorEncoding::Float, None)
        );
        let other = form(json!({"input": "a", "encoding_format": "base64", "dimensions": 8}));
        let other = other.expect("sound");
        assert_eq!(
            (other.encoding, other.dimensions),
            (VectorEncoding::Base64, Some(8))
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
    }
}
