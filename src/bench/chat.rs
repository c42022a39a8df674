//! One streamed chat completion, with its clock.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde::Deserialize;

use super::http::{self, HttpError, ServerAddress};

/// Texts that arrive closer together than this arrived at once. A server that sends the tokens
/// of one step one by one would otherwise seem to have no gaps where another has few.
const AT_ONCE: Duration = Duration::from_micros(500);

/// When what of an answer came.
#[derive(Debug, Clone)]
pub(super) struct AnswerTimings {
    pub(super) sent: Instant,
    /// When text came, `AT_ONCE` apart at least.
    pub(super) arrivals: Vec<Instant>,
    /// Pieces of text, however they arrived.
    pieces: u64,
    usage: Option<StreamUsage>,
    /// How long the server said that it would take.
    pub(super) estimate: Option<Duration>,
    /// Whether the server says that the deadline cut it off.
    pub(super) is_cut_off: bool,
    pub(super) ended: Instant,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct StreamUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// A 401 or 403, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub(super) struct Denial {
    status: u16,
    message: String,
}

impl Denial {
    /// Reads an answer; `None` if it is no denial.
    pub(super) fn of(status: u16, body: &str) -> Option<Self> {
        if !matches!(status, 401 | 403) {
            return None;
        }
        let body = body.trim();
        let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
        let message = json
            .as_ref()
            .and_then(|json| json["error"]["message"].as_str());
        let message = message.unwrap_or(body).to_owned();
        Some(Self { status, message })
    }
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerFailure {
    /// The server says that it has enough to do: 429 or 503.
    #[error("refused with {status}: {body}")]
    Refused { status: u16, body: String },
    /// The server gave it up in the midst of the stream, because its deadline had passed.
    #[error("the deadline passed before the answer began")]
    DeadlinePassed,
    /// Another status.
    #[error("{status}: {body}")]
    Status { status: u16, body: String },
    /// The server does not take the key, or it may not ask for this: no other request would fare better.
    #[error("{0}")]
    Denied(Denial),
    /// An error in the midst of the stream.
    #[error("the answer ended with an error: {0}")]
    StreamError(String),
    #[error("not a chunk of a chat completion: {0}")]
    NotAChunk(#[from] serde_json::Error),
    #[error("the answer broke off: {0}")]
    Broken(String),
    #[error("the answer had no text")]
    Empty,
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl AnswerTimings {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self {
            sent: now,
            arrivals: Vec::new(),
            pieces: 0,
            usage: None,
            estimate: None,
            is_cut_off: false,
            ended: now,
        }
    }

    pub(super) fn text_came(&mut self, now: Instant) {
        self.pieces += 1;
        let later = |last: &Instant| now.duration_since(*last) >= AT_ONCE;
        if self.arrivals.last().is_none_or(later) {
            self.arrivals.push(now);
        }
    }

    pub(super) fn time_to_first_token(&self) -> Option<Duration> {
        Some(self.arrivals.first()?.duration_since(self.sent))
    }

    /// Begin and end of every silence between two texts.
    pub(super) fn gaps(&self) -> impl Iterator<Item = (Instant, Instant)> {
        self.arrivals.windows(2).map(|pair| (pair[0], pair[1]))
    }

    /// As the server counts them; a chunk may have several.
    pub(super) fn generated_tokens(&self) -> u64 {
        let counted = self.usage.and_then(|usage| usage.completion_tokens);
        counted.unwrap_or(self.pieces)
    }

    pub(super) fn prompt_tokens(&self) -> Option<u64> {
        self.usage?.prompt_tokens
    }

    /// From the first text to the last, for each token but the first.
    pub(super) fn time_per_token(&self) -> Option<Duration> {
        let took = self
            .arrivals
            .last()?
            .duration_since(*self.arrivals.first()?);
        let steps = u32::try_from(self.generated_tokens().checked_sub(1)?).ok()?;
        took.checked_div(steps)
    }
}

/// The part of a chunk that is read here.
#[derive(Debug, Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<StreamUsage>,
    #[serde(borrow)]
    error: Option<StreamError<'a>>,
    edgellm: Option<AnswerNotes>,
}

/// What edgellm says of an answer beside what OpenAI has words for.
#[derive(Debug, Deserialize)]
struct AnswerNotes {
    #[serde(default)]
    deadline: bool,
}

#[derive(Debug, Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Delta<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    /// What models with a thinking phase say before they answer.
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    tool_calls: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct StreamError<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
}

impl Delta<'_> {
    fn has_text(&self) -> bool {
        let any = |text: &Option<Cow<str>>| text.as_ref().is_some_and(|text| !text.is_empty());
        any(&self.content) || any(&self.reasoning_content) || self.tool_calls.is_some()
    }
}

/// The code of the error with which edgellm refuses what cannot be answered in time.
pub(super) const DEADLINE_UNREACHABLE: &str = "deadline_unreachable";

/// Sends the request and notes in `clock` what comes; `spoke` hears of the first text. The answer is wanted
/// within `allowed`.
pub(super) async fn ask(
    server: &ServerAddress,
    body: String,
    allowed: Option<Duration>,
    clock: &mut AnswerTimings,
    spoke: impl FnOnce(),
) -> Result<(), AnswerFailure> {
    let mut spoke = Some(spoke);
    let deadline = allowed.map(|allowed| ("x-deadline-ms", allowed.as_millis().to_string()));
    let headers: Vec<_> = deadline.into_iter().collect();
    let response = server.post("/v1/chat/completions", &headers, body).await?;
    let status = response.status().as_u16();
    let estimate = response.headers().get("x-estimated-ms");
    let estimate = estimate.and_then(|value| value.to_str().ok()?.parse().ok());
    clock.estimate = estimate.map(Duration::from_millis);
    if status != 200 {
        return Err(failure(status, http::text(response).await?));
    }
    let mut events = response.into_body().into_data_stream().eventsource();
    while let Some(event) = events.next().await {
        let data = event
            .map_err(|error| AnswerFailure::Broken(error.to_string()))?
            .data;
        if data == "[DONE]" {
            clock.ended = Instant::now();
            return if clock.arrivals.is_empty() {
                Err(AnswerFailure::Empty)
            } else {
                Ok(())
            };
        }
        let now = Instant::now();
        let chunk: Chunk = serde_json::from_str(&data)?;
        if let Some(error) = chunk.error {
            if error.code.as_deref() == Some(DEADLINE_UNREACHABLE) {
                return Err(AnswerFailure::DeadlinePassed);
            }
            return Err(AnswerFailure::StreamError(error.message.into_owned()));
        }
        if chunk.choices.iter().any(|choice| choice.delta.has_text()) {
            clock.text_came(now);
            if let Some(spoke) = spoke.take() {
                spoke();
            }
        }
        clock.is_cut_off |= chunk.edgellm.is_some_and(|notes| notes.deadline);
        clock.usage = chunk.usage.or(clock.usage);
    }
    Err(AnswerFailure::Broken(
        "the stream ended without [DONE]".to_owned(),
    ))
}

/// Asks for vectors, and notes in `clock` when they have come; `spoke` hears of it.
pub(super) async fn embed(
    server: &ServerAddress,
    body: String,
    clock: &mut AnswerTimings,
    spoke: impl FnOnce(),
) -> Result<(), AnswerFailure> {
    let response = server.post("/v1/embeddings", &[], body).await?;
    let status = response.status().as_u16();
    let body = http::text(response).await?;
    if status != 200 {
        return Err(failure(status, body));
    }
    let now = Instant::now();
    clock.text_came(now);
    clock.ended = now;
    spoke();
    Ok(())
}

/// What an answer that is none says.
fn failure(status: u16, body: String) -> AnswerFailure {
    if let Some(denial) = Denial::of(status, &body) {
        return AnswerFailure::Denied(denial);
    }
    match status {
        429 | 503 => AnswerFailure::Refused { status, body },
        _ => AnswerFailure::Status { status, body },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(millis: &[u64], tokens: Option<u64>) -> AnswerTimings {
        let mut clock = AnswerTimings::start();
        for at in millis {
            clock.text_came(clock.sent + Duration::from_millis(*at));
        }
        clock.usage = Some(StreamUsage {
            prompt_tokens: None,
            completion_tokens: tokens,
        });
        clock
    }

    #[test]
    fn texts_at_one_instant_are_one_arrival_and_tokens_are_counted_by_the_server() {
        let bursts = clock(&[100, 100, 100, 200, 200, 200], Some(6));
        assert_eq!(bursts.arrivals.len(), 2);
        assert_eq!(bursts.time_per_token(), Some(Duration::from_millis(20)));
        let silent = clock(&[100, 100, 100, 200, 200, 200], None);
        assert_eq!(silent.generated_tokens(), 6);
    }

    #[test]
    fn one_chunk_for_all_and_a_chunk_for_each_token_take_as_long_a_token() {
        let single = clock(&[0, 10, 20, 30, 40], Some(5));
        let pairs = clock(&[0, 20, 40], Some(5));
        assert_eq!(single.time_per_token(), pairs.time_per_token());
        assert_eq!(clock(&[7], Some(1)).time_per_token(), None);
    }

    #[test]
    fn text_is_content_reasoning_or_a_tool_call_and_nothing_else() {
        let has_text = |delta: &str| {
            let json = format!(r#"{{"choices":[{{"delta":{delta}}}],"usage":null}}"#);
            let chunk: Chunk = serde_json::from_str(&json).expect("a chunk");
            chunk.choices[0].delta.has_text()
        };
        assert!(has_text(r#"{"content":"a\"b"}"#));
        assert!(has_text(r#"{"reasoning_content":"hm"}"#));
        assert!(has_text(r#"{"tool_calls":[{"index":0}]}"#));
        assert!(!has_text(r#"{"role":"assistant","content":null}"#));
        assert!(!has_text(r#"{"content":""}"#));
        assert!(!has_text("{}"));
    }
}
