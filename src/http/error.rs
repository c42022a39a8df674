//! The one place where failures become HTTP: status, type, code and words.
//!
//! Details that a client cannot act on (paths, llama.cpp's messages, panics)
//! are logged and never sent.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admission::{
    AdmissionRefusal, LONGEST_RETRY_AFTER, MissedDeadline, QuotaLimit, QuotaRefusal, RefusalReason,
};
use crate::field::FieldPath;
use crate::inference::FailureSummary;
use crate::inference::checks::BoundsError;
use crate::inference::error::InferenceFailure;
use crate::worker::WorkError;

use super::estimate::estimated;
use super::precheck::DEADLINE;

/// Whatever a request can end in instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// A parameter is missing, of the wrong type or out of range.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what is expected.
        message: String,
        /// The parameter, as a path such as `messages[0].role`.
        param: Option<FieldPath>,
    },
    /// A parameter that is known and cannot be honoured.
    #[error("`{param}` {why}")]
    Unsupported {
        /// The parameter.
        param: FieldPath,
        /// What is not supported, and what to do instead.
        why: String,
    },
    /// A prompt, or a text to embed, does not fit into the model's context.
    #[error("{message}")]
    ContextLength {
        /// Which, such as `messages` or `input[3]`.
        param: FieldPath,
        /// How long it is and how long it may be.
        message: String,
    },
    /// There is no stored response of this id.
    #[error(
        "Response with id '{0}' not found: it was not stored, was deleted, or has expired, or the server \
         was restarted since"
    )]
    ResponseNotFound(String),
    /// There is no stored response of this id to go on from.
    #[error(
        "Previous response with id '{0}' not found: it was not stored, was deleted, or has expired, or the \
         server was restarted since; send the earlier items in `input`"
    )]
    PreviousResponseNotFound(String),
    /// No such model.
    #[error("the model `{name}` does not exist; this server has: {available}")]
    ModelNotFound {
        /// As asked for.
        name: String,
        /// The ids that exist.
        available: String,
    },
    /// No such route.
    #[error("there is nothing at {0}; see GET /v1/models and POST /v1/chat/completions")]
    NotFound(String),
    /// The route is for operators, who have a listener of their own.
    #[error(
        "this is for operators, and served at the addresses of `server.admin_listen` only, not at this one"
    )]
    ForOperators,
    /// The client speaks HTTP without TLS where TLS is spoken.
    #[error(
        "this port speaks TLS: ask it with https:// in place of http:// (docs/tls.md says how clients come to trust the \
         server's certificate)"
    )]
    PlainHttp,
    /// The route exists for other methods.
    #[error("{method} is not allowed here")]
    MethodNotAllowed {
        /// As asked for.
        method: String,
    },
    /// The body is larger than `server.max_body_bytes`.
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is larger than all that may wait to be sent.
    #[error(
        "the answer would have {bytes} bytes, and this server holds at most {limit} for its clients \
         (`server.max_unsent_bytes`): ask for less at once"
    )]
    AnswerTooLarge {
        /// Its size.
        bytes: usize,
        /// What is configured.
        limit: usize,
    },
    /// The body is not declared as JSON.
    #[error(
        "send the body as plain JSON with the header `content-type: application/json` and no content-encoding"
    )]
    NotJson,
    /// The client did not send its body in time.
    #[error("the request body did not arrive within {0:?}")]
    BodyTimeout(Duration),
    /// The request is for a host that is not known to be this server.
    #[error(
        "this server is not known by the name `{}`: ask it by its address or by a name of its own, or have whoever runs it \
         add this name to `server.allowed_hosts`",
        shortened(.0, 100)
    )]
    HostNotAllowed(String),
    /// The page of another server asks, and may not.
    #[error("{}", foreign_page_text(.0.as_deref()))]
    OriginNotAllowed(Option<String>),
    /// There is no key where one is needed.
    #[error(
        "this server needs an API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`; whoever runs \
         the server makes one with `edgellm keys add`"
    )]
    KeyMissing,
    /// The key is nobody's.
    #[error(
        "this API key is not known here, or was revoked: ask whoever runs the server for a new one"
    )]
    KeyUnknown,
    /// The key has ended.
    #[error("this API key has expired: ask whoever runs the server for a new one")]
    KeyExpired,
    /// The certificate is nobody's, and neither is a key.
    #[error(
        "this client certificate is not known here: its subject is `{}`, and no entry of the server's keys file has it as \
         `subject = \"…\"`; whoever runs the server adds one with `edgellm keys add NAME --subject …`",
        shortened(.0, 120)
    )]
    CertificateUnknown(String),
    /// The client's certificate has ended since it connected.
    #[error("the certificate of {0} has ended: ask whoever runs the server for a new one")]
    CertificateExpired(String),
    /// The key may not use this model.
    #[error("this API key may not use the model `{0}`; GET /v1/models lists those that it may use")]
    ModelNotAllowed(String),
    /// The key is no administrator's.
    #[error("this needs the key of an administrator")]
    AdminOnly,
    /// The key has used up what it may use.
    #[error("{}", quota_text(.0))]
    OverQuota(QuotaRefusal),
    /// There is nothing to resume.
    #[error(
        "there is no stream under this `x-request-id` and this body, byte for byte, to go on with: it ended over a minute \
         ago, began without an id of the client's, or the server was restarted since; ask again without `Last-Event-ID`"
    )]
    StreamGone,
    /// Not admitted.
    #[error("{}", refusal_text(.0))]
    Refused(AdmissionRefusal),
    /// Not admitted, because its deadline cannot be met.
    #[error("{}", missed_deadline_text(.0))]
    DeadlineUnreachable(MissedDeadline),
    /// The model could not be loaded or its thread has ended.
    #[error("the model `{0}` is not available; the server's log says why")]
    ModelUnavailable(String),
    /// There is not enough memory for the model.
    #[error("the model `{model}` cannot be loaded now: {shortage}")]
    ModelTooLarge {
        /// Its id.
        model: String,
        /// How much it needs, how much there is, and what to do.
        shortage: String,
    },
    /// The model's chat template fails on this conversation.
    #[error(
        "the model's chat template does not work with these messages; the server's log says why"
    )]
    Template,
    /// A request failed while it was computed.
    #[error("{0}")]
    Job(WorkError),
    /// A defect.
    #[error("an internal error; the server's log has the details under this request's id")]
    Internal,
}

/// Says which page may not ask, where its browser tells, and what to do.
fn foreign_page_text(origin: Option<&str>) -> String {
    let Some(origin) = origin else {
        return "a page of another server may only open the page of this one, or ask by `fetch` if its origin is in \
                `server.cors_origins`"
            .to_owned();
    };
    let origin = shortened(origin, 100);
    format!(
        "pages of \"{origin}\" may not ask this server: to let them, whoever runs it adds \"{origin}\" to \
         `server.cors_origins`"
    )
}

fn refusal_text(refusal: &AdmissionRefusal) -> &'static str {
    match refusal.reason {
        RefusalReason::QueueFull => {
            "too many requests are waiting; retry after the time in `retry-after`"
        }
        RefusalReason::Draining => "the server is shutting down",
        RefusalReason::Loading => {
            "the model is being loaded; retry after the time in `retry-after`"
        }
        RefusalReason::Power => {
            "the gateway is short of power; retry after the time in `retry-after`"
        }
        RefusalReason::Thermal => "the gateway is too hot; retry after the time in `retry-after`",
        RefusalReason::Memory => {
            "the gateway is short of memory; retry after the time in `retry-after`"
        }
        RefusalReason::DeadlineUnreachable => {
            "the deadline of this request cannot be met; retry after the time in `retry-after`"
        }
        RefusalReason::TooManyConnections => {
            "too many connections are open from this address; close some, or raise \
             `server.max_connections_per_address`"
        }
    }
}

/// Says how long the answer would take, how long it may, and what to do.
fn missed_deadline_text(missed: &MissedDeadline) -> String {
    let allowed = in_words(missed.allowed);
    let Some(estimated) = missed.estimated.map(in_words) else {
        return format!(
            "the deadline of this request passed before it could be computed: it allows {allowed} for the answer; \
             allow more time in `{DEADLINE}`"
        );
    };
    let remedy = if missed.even_alone {
        format!(
            "it would take too long even if no other request were here: ask for fewer tokens or allow more time in \
             `{DEADLINE}`"
        )
    } else {
        format!("retry after the time in `retry-after`, or allow more time in `{DEADLINE}`")
    };
    format!(
        "this request would be answered in about {estimated}, and its deadline allows {allowed}; {remedy}"
    )
}

fn in_words(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn quota_text(refusal: &QuotaRefusal) -> String {
    let allowed = refusal.allowed;
    let reached = match refusal.limit {
        QuotaLimit::Requests => format!("{allowed} requests a minute"),
        QuotaLimit::Tokens => format!("{allowed} tokens a minute"),
        QuotaLimit::AtOnce => format!("{allowed} requests at once"),
    };
    if refusal.retry_after > LONGEST_RETRY_AFTER {
        let seconds = refusal.retry_after.as_secs();
        return format!(
            "this API key has reached its limit of {reached} and is in debt: it is admitted again in {seconds} seconds; \
             `retry-after` says less, as clients would give up"
        );
    }
    format!(
        "this API key has reached its limit of {reached}; retry after the time in `retry-after`"
    )
}

/// Columns of the table in the documentation.
struct ErrorRow {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
}

impl ApiError {
    /// A parameter that is not as it should be.
    pub fn invalid(param: impl Into<FieldPath>, message: impl Into<String>) -> Self {
        Self::Invalid {
            message: message.into(),
            param: Some(param.into()),
        }
    }

    /// A parameter that is known and cannot be honoured.
    pub fn unsupported(param: impl Into<FieldPath>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            param: param.into(),
            why: why.into(),
        }
    }

    /// The request does not say properly for which host it is.
    pub(crate) fn improper_host() -> Self {
        Self::Invalid {
            message: "send one `Host` header with this server's name or address".to_owned(),
            param: None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => Some(refusal.retry_after),
            Self::OverQuota(refusal) => Some(refusal.retry_after.min(LONGEST_RETRY_AFTER)),
            Self::DeadlineUnreachable(MissedDeadline { retry_after, .. })
            | Self::Job(
                WorkError::DeadlinePassed { retry_after } | WorkError::Displaced { retry_after },
            ) => Some(*retry_after),
            // By then whoever supervises this process should have started the next.
            Self::Job(WorkError::ShuttingDown | WorkError::Unread) => Some(Duration::from_secs(5)),
            // Others may have been unloaded by then.
            Self::ModelTooLarge { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    /// Returns the value of the header `retry-after`.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let after = self.retry_after()?;
        Some(after.as_secs() + u64::from(after.subsec_nanos() > 0)).map(|seconds| seconds.max(1))
    }

    /// Whom it refuses, as far as the client wrote that: the log must name what a setting would let in, as neither a page nor
    /// a kiosk shows its operator why it is refused.
    pub(crate) fn stranger(&self) -> Option<String> {
        let name = match self {
            Self::HostNotAllowed(name)
            | Self::CertificateUnknown(name)
            | Self::CertificateExpired(name) => name,
            Self::OriginNotAllowed(origin) => {
                origin.as_deref().unwrap_or("a page without an origin")
            }
            _ => return None,
        };
        Some(shortened(name, 100))
    }

    /// Returns the HTTP status of this error.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    fn row(&self) -> ErrorRow {
        let row = |status, kind, code| ErrorRow { status, kind, code };
        let invalid = "invalid_request_error";
        let unauthorized = |code| row(StatusCode::UNAUTHORIZED, "authentication_error", Some(code));
        let forbidden = |code| row(StatusCode::FORBIDDEN, "permission_error", Some(code));
        let overloaded = |reason: RefusalReason| {
            let code = Some(reason.as_str());
            row(StatusCode::SERVICE_UNAVAILABLE, "overloaded_error", code)
        };
        match self {
            Self::Invalid { .. } | Self::Job(WorkError::Grammar) => {
                row(StatusCode::BAD_REQUEST, invalid, None)
            }
            Self::Unsupported { .. } => row(
                StatusCode::BAD_REQUEST,
                invalid,
                Some("unsupported_parameter"),
            ),
            Self::ContextLength { .. } => row(
                StatusCode::BAD_REQUEST,
                invalid,
                Some("context_length_exceeded"),
            ),
            Self::ModelNotFound { .. } | Self::Job(WorkError::AdapterRemoved) => {
                row(StatusCode::NOT_FOUND, invalid, Some("model_not_found"))
            }
            Self::ResponseNotFound(_) => {
                row(StatusCode::NOT_FOUND, invalid, Some("response_not_found"))
            }
            Self::PreviousResponseNotFound(_) => row(
                StatusCode::BAD_REQUEST,
                invalid,
                Some("previous_response_not_found"),
            ),
            Self::ForOperators => row(StatusCode::NOT_FOUND, invalid, Some("for_operators")),
            Self::PlainHttp => row(StatusCode::BAD_REQUEST, invalid, Some("tls_required")),
            Self::KeyMissing => unauthorized("missing_api_key"),
            Self::KeyUnknown => unauthorized("invalid_api_key"),
            Self::KeyExpired => unauthorized("expired_api_key"),
            Self::CertificateUnknown(_) => unauthorized("unknown_certificate"),
            Self::CertificateExpired(_) => unauthorized("expired_certificate"),
            Self::ModelNotAllowed(_) => forbidden("model_not_allowed"),
            Self::AdminOnly => forbidden("admin_only"),
            Self::HostNotAllowed(_) => forbidden("host_not_allowed"),
            Self::OriginNotAllowed(_) => forbidden("origin_not_allowed"),
            Self::OverQuota(_) => row(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
            ),
            Self::StreamGone => row(StatusCode::NOT_FOUND, invalid, Some("stream_not_found")),
            Self::NotFound(_) => row(StatusCode::NOT_FOUND, invalid, Some("not_found")),
            Self::MethodNotAllowed { .. } => row(
                StatusCode::METHOD_NOT_ALLOWED,
                invalid,
                Some("method_not_allowed"),
            ),
            Self::TooLarge { .. } => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                invalid,
                Some("request_too_large"),
            ),
            Self::AnswerTooLarge { .. } => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                invalid,
                Some("answer_too_large"),
            ),
            Self::NotJson => row(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                invalid,
                Some("unsupported_media_type"),
            ),
            Self::BodyTimeout(_) => row(StatusCode::REQUEST_TIMEOUT, "timeout_error", None),
            Self::Refused(refusal) => overloaded(refusal.reason),
            Self::Job(WorkError::Unread) | Self::ModelTooLarge { .. } => {
                overloaded(RefusalReason::Memory)
            }
            Self::DeadlineUnreachable(_) | Self::Job(WorkError::DeadlinePassed { .. }) => {
                overloaded(RefusalReason::DeadlineUnreachable)
            }
            Self::Job(WorkError::Displaced { .. }) => overloaded(RefusalReason::QueueFull),
            Self::Job(WorkError::ShuttingDown) => overloaded(RefusalReason::Draining),
            Self::ModelUnavailable(_)
            | Self::Template
            | Self::Job(WorkError::Engine)
            | Self::Internal => row(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None),
        }
    }

    /// Returns what a log may say: type or code and the parameter, nothing that a client wrote.
    #[must_use]
    pub fn label(&self) -> String {
        let row = self.row();
        let what = row.code.unwrap_or(row.kind);
        match self {
            Self::Invalid {
                param: Some(param), ..
            }
            | Self::Unsupported { param, .. } => {
                format!("{what}: {}", shortened(&param.known().to_string(), 100))
            }
            _ => what.to_owned(),
        }
    }

    /// Returns what is counted and logged of this error.
    pub(crate) fn summary(&self) -> FailureSummary {
        FailureSummary {
            status: self.status().as_u16(),
            label: self.label(),
            // Not for a deadline, which is the client's own: refusing takes work.
            is_free: matches!(
                self,
                Self::Refused(_) | Self::Job(WorkError::Displaced { .. })
            ),
            refused: match self {
                Self::Refused(refusal) => Some(refusal.reason.as_str()),
                Self::OverQuota(refusal) => Some(refusal.limit.as_str()),
                Self::ModelNotAllowed(_) => Some("model_not_allowed"),
                Self::Job(WorkError::Unread) | Self::ModelTooLarge { .. } => {
                    Some(RefusalReason::Memory.as_str())
                }
                Self::DeadlineUnreachable(_) | Self::Job(WorkError::DeadlinePassed { .. }) => {
                    Some(RefusalReason::DeadlineUnreachable.as_str())
                }
                Self::Job(WorkError::Displaced { .. }) => Some(RefusalReason::QueueFull.as_str()),
                _ => None,
            },
        }
    }

    /// Returns the JSON body, also for a stream that breaks off.
    #[must_use]
    pub fn body(&self) -> Value {
        let row = self.row();
        let param = match self {
            Self::Invalid { param, .. } => param.as_ref().map(ToString::to_string),
            Self::Unsupported { param, .. } | Self::ContextLength { param, .. } => {
                Some(param.to_string())
            }
            Self::ModelNotFound { .. } | Self::ModelNotAllowed(_) => Some("model".to_owned()),
            Self::ResponseNotFound(_) => Some("response_id".to_owned()),
            Self::PreviousResponseNotFound(_) => Some("previous_response_id".to_owned()),
            _ => None,
        };
        json!(ErrorBody {
            error: ErrorObject {
                message: shortened(&self.to_string(), 400),
                kind: row.kind,
                param: param.map(|param| shortened(&param, 100)),
                code: row.code,
            },
        })
    }
}

/// What every failure is told with.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody {
    error: ErrorObject,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ErrorObject {
    /// What is wrong, and what to do about it.
    message: String,
    /// Whose fault it is: `invalid_request_error`, `authentication_error`, `permission_error`,
    /// `rate_limit_error`, `timeout_error`, `overloaded_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The parameter that is wrong, as a path such as `messages[0].role`.
    param: Option<String>,
    /// A name for programs, where there is one.
    code: Option<&'static str>,
}

/// The beginning, with a sign that something is missing.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<AdmissionRefusal> for ApiError {
    fn from(refusal: AdmissionRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<QuotaRefusal> for ApiError {
    fn from(refusal: QuotaRefusal) -> Self {
        Self::OverQuota(refusal)
    }
}

impl From<InferenceFailure> for ApiError {
    fn from(failure: InferenceFailure) -> Self {
        match failure {
            InferenceFailure::UnknownModel { name, available } => Self::ModelNotFound {
                name,
                available: available.join(", "),
            },
            InferenceFailure::ModelNotAllowed(model) => Self::ModelNotAllowed(model),
            InferenceFailure::OverQuota(refusal) => Self::OverQuota(refusal),
            InferenceFailure::Refused(refusal) => Self::Refused(refusal),
            InferenceFailure::DeadlineUnreachable(missed) => Self::DeadlineUnreachable(missed),
            InferenceFailure::ModelUnavailable(model) => Self::ModelUnavailable(model),
            InferenceFailure::ModelTooLarge { model, shortage } => Self::ModelTooLarge {
                model,
                shortage: shortage.to_string(),
            },
            InferenceFailure::Template => Self::Template,
            InferenceFailure::Job(error) => Self::Job(error),
            InferenceFailure::Internal => Self::Internal,
        }
    }
}

impl From<BoundsError> for ApiError {
    fn from(error: BoundsError) -> Self {
        let message = error.to_string();
        Self::invalid(error.parameter, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        if let Some((after, seconds)) = self.retry_after().zip(self.retry_after_seconds()) {
            let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
            for (name, value) in [
                (header::RETRY_AFTER, seconds),
                (HeaderName::from_static("retry-after-ms"), ms),
            ] {
                response.headers_mut().insert(name, value.into());
            }
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"edgellm\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Self::DeadlineUnreachable(missed) = &self {
            response = estimated(response, missed.estimated);
        }
        // The access log and metrics read it back.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_back_in_whole_seconds() {
        let error = ApiError::Refused(AdmissionRefusal {
            reason: RefusalReason::QueueFull,
            retry_after: Duration::from_millis(2300),
        });
        assert_eq!(error.body()["error"]["code"], "queue_full");
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }

    #[test]
    fn a_deadline_that_cannot_be_met_says_what_was_estimated_and_what_to_do() {
        let missed = MissedDeadline::foreseen(
            Duration::from_millis(800),
            Duration::from_millis(12_340),
            false,
        );
        let error = ApiError::DeadlineUnreachable(missed);
        assert_eq!(error.summary().refused, Some("deadline_unreachable"));
        let body = error.body();
        assert_eq!(body["error"]["code"], "deadline_unreachable");
        let message = body["error"]["message"].as_str().expect("a text");
        for part in ["12.3 s", "800 ms", "`retry-after`", "`x-deadline-ms`"] {
            assert!(message.contains(part), "{message}");
        }
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "12");
        assert_eq!(response.headers()["x-estimated-ms"], "12340");
        let passed = WorkError::DeadlinePassed {
            retry_after: Duration::from_secs(3),
        };
        let response = ApiError::Job(passed).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }

    #[test]
    fn one_that_made_room_for_another_key_is_told_as_a_full_queue() {
        let retry_after = Duration::from_secs(7);
        let error = ApiError::from(InferenceFailure::Job(WorkError::Displaced { retry_after }));
        assert_eq!(error.body()["error"]["code"], "queue_full");
        assert_eq!(error.body()["error"]["type"], "overloaded_error");
        assert_eq!(error.summary().refused, Some("queue_full"));
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
    }

    #[test]
    fn what_a_client_wrote_is_cut_short_and_never_logged() {
        for known in [
            "logit_bias",
            "response_format.json_schema.schema",
            "tools[3].function.parameters",
        ] {
            let param = FieldPath::from(known).key("secret".repeat(1000));
            let error = ApiError::invalid(param, "secret".repeat(1000));
            assert!(error.body().to_string().len() < 1000);
            assert_eq!(error.label(), format!("invalid_request_error: {known}"));
        }
    }

    #[test]
    fn every_body_has_the_four_fields() {
        for error in [
            ApiError::Internal,
            ApiError::NotJson,
            ApiError::invalid("n", "no"),
        ] {
            let body = error.body();
            let fields = body["error"].as_object().expect("an object");
            assert_eq!(
                fields.keys().collect::<Vec<_>>(),
                ["message", "type", "param", "code"]
            );
        }
    }
}
