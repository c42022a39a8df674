//! Reading a JSON body: its declared type, its size, the time it may take, and
//! errors that name the field.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admission::Refusal;
use crate::engine::return_freed_soon;
use crate::field::FieldPath;
use crate::prompt::{vanishing_number, with_exact_numbers};

use crate::http::access::client;
use crate::http::error::ApiError;
use crate::http::json_count::{CountScope, MOST_BODY_VALUES, count_in_text};
use crate::http::state::HttpState;
use crate::inference::arrival::Arrival;

/// Larger bodies are parsed and checked off the runtime's threads, and take their memory from a
/// common store.
const LARGE_BODY_BYTES: usize = 64 << 10;
/// How long a large body waits for memory that others have.
const LONGEST_MEMORY_WAIT: Duration = Duration::from_secs(5);

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A body of type `T`, and the request that it came with.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T, pub(crate) Arrival);

/// What a large body holds of the memory and the turns for such; nothing of a small one.
#[derive(Debug, Default)]
struct LargeBody {
    _memory: Vec<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Drop for LargeBody {
    fn drop(&mut self) {
        if self.turn.is_some() {
            return_freed_soon();
        }
    }
}

/// What a body of JSON is read as.
pub(crate) trait Wire: DeserializeOwned + JsonSchema + Send + 'static {
    /// What counts towards the values that a body may hold.
    const COUNT_SCOPE: CountScope = CountScope::All;

    /// Keeps the `tools` of a body that has numbers which are rounded when they are read, with those
    /// numbers as they are written.
    fn keep_tools(&mut self, _written: Vec<Value>) {}
}

impl<T: Wire, S: Send + Sync> FromRequest<S> for JsonBody<T>
where
    HttpState: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let state = HttpState::from_ref(state);
        let (value, _, arrival) = read_json(request, &state, false, Ok).await?;
        Ok(Self(value, arrival))
    }
}

/// SHA-256 of a body.
pub(crate) type BodyDigest = [u8; 32];

/// What `check` makes of a body, and its digest where that is wanted.
pub(crate) async fn read_json<W: Wire, T: Send + 'static>(
    request: Request,
    state: &HttpState,
    wants_digest: bool,
    check: impl FnOnce(W) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, Option<BodyDigest>, Arrival), ApiError> {
    let (at, client) = (Instant::now(), client(&request));
    if !declares_json(request.headers()) {
        return Err(ApiError::NotJson);
    }
    let limit = state.body_limit;
    let read_in = move |bytes: &[u8]| -> Result<(T, Option<BodyDigest>), ApiError> {
        let digest = wants_digest.then(|| Sha256::digest(bytes).into());
        Ok((check(read_value(bytes)?)?, digest))
    };
    // One time limit for all of it: a byte now and then does not extend it.
    let reading = async {
        refuse_before_it_is_sent(request.headers(), limit)?;
        read(request.into_body(), limit, &state.large_bodies).await
    };
    let (bytes, memory) = tokio::time::timeout(state.body_timeout, reading)
        .await
        .map_err(|_| ApiError::BodyTimeout(state.body_timeout))?
        .inspect_err(|error| {
            if let ApiError::Refused(refusal) = error {
                state.metrics.request_rejected("", refusal.reason.as_str());
            }
        })?;
    if bytes.len() < LARGE_BODY_BYTES {
        let (value, digest) = read_in(&bytes)?;
        let memory = None;
        return Ok((value, digest, Arrival { at, client, memory }));
    }
    let memory = LargeBody {
        _memory: memory,
        // The semaphore is never closed.
        turn: Arc::clone(&state.large_values).acquire_owned().await.ok(),
    };
    // What it holds goes along: the parsing goes on when the client has left.
    let parsed = tokio::task::spawn_blocking(move || {
        let (value, digest) = read_in(&bytes)?;
        let memory: Option<Box<dyn Send>> = Some(Box::new(memory));
        Ok((value, digest, Arrival { at, client, memory }))
    });
    parsed.await.map_err(|_| ApiError::Internal)?
}

fn declares_json(headers: &HeaderMap) -> bool {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return false;
    }
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// A client that asks first (curl does for large bodies) is told before it sends anything.
fn refuse_before_it_is_sent(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let asks = headers.contains_key(header::EXPECT);
    if asks && announced.is_some_and(|length| length > limit) {
        return Err(ApiError::TooLarge { limit });
    }
    Ok(())
}

/// The whole body, and the memory that it may take. What is refused is read on and
/// thrown away: many clients look for an answer only after they have sent everything. A small
/// body needs no permit, so that large ones that never end keep no kiosk waiting.
async fn read(
    mut body: Body,
    limit: usize,
    memory: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), ApiError> {
    let (mut bytes, mut permits) = (Vec::new(), Vec::new());
    let (mut refusal, mut patience) = (None, LONGEST_MEMORY_WAIT);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Invalid {
            message: format!("the request body could not be read: {error}"),
            param: None,
        })?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            refusal = Some(ApiError::TooLarge { limit });
        }
        if refusal.is_some() {
            (bytes, permits) = (Vec::new(), Vec::new());
            continue;
        }
        bytes.extend_from_slice(data);
        let wanted = bytes
            .len()
            .saturating_sub(LARGE_BODY_BYTES)
            .div_ceil(1 << 10);
        let held: usize = permits.iter().map(OwnedSemaphorePermit::num_permits).sum();
        if wanted > held {
            let more = u32::try_from(wanted - held).unwrap_or(u32::MAX);
            let room = Arc::clone(memory).acquire_many_owned(more);
            let began = tokio::time::Instant::now();
            match tokio::time::timeout(patience, room).await {
                // The semaphore is never closed.
                Ok(room) => permits.extend(room.ok()),
                // Each keeps what it has while it waits for more: somebody has to give up.
                Err(_) => {
                    refusal = Some(ApiError::Refused(Refusal::memory()));
                }
            }
            patience = patience.saturating_sub(began.elapsed());
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok((bytes, permits)),
    }
}

/// What a body says, if it holds no more values than may be.
pub(crate) fn read_value<W: Wire>(bytes: &[u8]) -> Result<W, ApiError> {
    // A value takes a byte at least.
    if bytes.len() > MOST_BODY_VALUES && count_in_text(bytes, W::COUNT_SCOPE) > MOST_BODY_VALUES {
        let message = format!("the request body holds more than {MOST_BODY_VALUES} JSON values");
        return Err(ApiError::Invalid {
            message,
            param: None,
        });
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if let Some(number) = vanishing_number(text) {
        return Err(ApiError::Invalid {
            message: format!(
                "the request body has the number `{number:.40}`, which is too near to 0: write 0, or \
                 one that a double has"
            ),
            param: None,
        });
    }
    let mut value: W = parse(bytes)?;
    if let Some(tools) = tools_as_written(text) {
        value.keep_tools(tools);
    }
    Ok(value)
}

/// The `tools` of a body that has numbers which are rounded when they are read, which few have.
fn tools_as_written(body: &str) -> Option<Vec<Value>> {
    #[derive(serde::Deserialize, JsonSchema)]
    struct ToolsOnly {
        tools: Option<Vec<Value>>,
    }

    match with_exact_numbers(body) {
        Cow::Borrowed(_) => None,
        Cow::Owned(written) => parse::<ToolsOnly>(written.as_bytes()).ok()?.tools,
    }
}

/// A body as a `T`. Of a name that comes twice in one object the last one counts, as for OpenAI and in most
/// languages. serde does so in maps and refuses it in structs, so such a body is read once more.
fn parse<T: DeserializeOwned + JsonSchema>(bytes: &[u8]) -> Result<T, ApiError> {
    // RFC 8259 allows to ignore it, and some .NET clients write it.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    parse_once(bytes).or_else(|error| {
        let again = with_each_name_once(bytes).map(|once| parse_once(&once));
        match again {
            Some(Ok(value)) => Ok(value),
            // What is wrong with it beside the names.
            Some(Err(other)) => Err(other),
            None => Err(error),
        }
    })
}

/// A body without the members whose names come again. None where there are no such members, where it is no
/// JSON, or where it has more values than may be made of a body.
fn with_each_name_once(bytes: &[u8]) -> Option<Vec<u8>> {
    let values = count_in_text(bytes, CountScope::All);
    if values > MOST_BODY_VALUES {
        return None;
    }
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let once = serde_json::to_vec(&value).ok()?;
    (count_in_text(&once, CountScope::All) < values).then_some(once)
}

fn parse_once<T: DeserializeOwned + JsonSchema>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| misfit::<T>(&FieldPath::default(), error))?;
    json.end().map_err(|error| ApiError::Invalid {
        message: format!("the request body is not valid JSON: {error}"),
        param: None,
    })?;
    Ok(value)
}

/// A value that stands at `at` of a body as a `T`.
pub(crate) fn understand<T: DeserializeOwned + JsonSchema>(
    at: impl Into<FieldPath>,
    value: Value,
) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| misfit::<T>(&at.into(), error))
}

/// What is wrong with a `T` that stands at `at`; empty is the whole body.
fn misfit<T: JsonSchema>(
    at: &FieldPath,
    error: serde_path_to_error::Error<serde_json::Error>,
) -> ApiError {
    let path = error.path().clone();
    let inner = error.into_inner();
    let words = in_words(inner.to_string());
    if !inner.is_data() {
        return ApiError::Invalid {
            message: format!("the request body is not valid JSON: {inner}"),
            param: None,
        };
    }
    let names = names_in::<T>();
    let mut param = path
        .iter()
        .fold(at.clone(), |param, segment| match segment {
            Segment::Seq { index } => param.index(*index),
            // Of a struct or of a client's own map: which of both is not told here.
            Segment::Map { key } if names.contains(key) => param.known_name(key),
            Segment::Map { key } => param.key(key),
            Segment::Enum { .. } | Segment::Unknown => param,
        });
    // A missing field is reported at its parent; name the field itself.
    if let Some(name) = missing_field(&inner.to_string()) {
        param = param.known_name(&name);
    }
    if param.is_empty() {
        return ApiError::Invalid {
            message: words,
            param: None,
        };
    }
    let message = format!("`{param}`: {words}");
    ApiError::invalid(param, message)
}

/// The names of all fields within a `T`: what is none of them was a client's idea.
fn names_in<T: JsonSchema>() -> HashSet<String> {
    fn collect(schema: &Value, names: &mut HashSet<String>) {
        match schema {
            Value::Object(members) => {
                if let Some(Value::Object(properties)) = members.get("properties") {
                    names.extend(properties.keys().cloned());
                }
                members.values().for_each(|member| collect(member, names));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
            _ => {}
        }
    }
    let mut names = HashSet::new();
    collect(schema_for!(T).as_value(), &mut names);
    names
}

/// Without Rust's names of types.
fn in_words(message: String) -> String {
    const EXPECTED: &str = ", expected ";
    let Some((found, expected)) = message.rsplit_once(EXPECTED) else {
        return message;
    };
    let (kind, place) = expected
        .find(" at line ")
        .map_or((expected, ""), |at| expected.split_at(at));
    let is_out_of_range = found.starts_with("invalid value: integer");
    let kind = match kind {
        "i64" if is_out_of_range => "one from -9223372036854775808 to 9223372036854775807",
        "u32" if is_out_of_range => "one from 0 to 4294967295",
        "u64" | "usize" if is_out_of_range => "one from 0 to 18446744073709551615",
        "i64" | "u32" | "u64" | "usize" => "an integer",
        "f64" => "a number",
        kind if kind.starts_with("struct ") => "an object",
        kind => kind,
    };
    format!("{found}{EXPECTED}{kind}{place}")
}

fn missing_field(message: &str) -> Option<String> {
    let rest = message.strip_prefix("missing field `")?;
    Some(rest.split('`').next()?.to_owned())
}

/// Reads these structs, whose derived code is for a `remote` self, from objects only: serde would take
/// an array for them as well, field by field.
macro_rules! only_objects {
    ($($type:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;

                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $type;

                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        $type::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }

                deserializer.deserialize_map(Object)
            }
        }
    )+};
}
pub(crate) use only_objects;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Reason;
    use futures_util::{FutureExt, StreamExt};
    use serde::Deserialize;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Inner {
        role: String,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Outer {
        messages: Vec<Inner>,
    }

    impl Wire for Outer {}

    fn param(json: &str) -> Option<String> {
        match parse::<Outer>(json.as_bytes()).expect_err("bad input") {
            ApiError::Invalid { param, .. } => param.map(|param| param.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(param("{}").as_deref(), Some("messages"));
        assert_eq!(
            param(r#"{"messages":[{"role":1}]}"#).as_deref(),
            Some("messages[0].role")
        );
        assert_eq!(
            param(r#"{"messages":[{}]}"#).as_deref(),
            Some("messages[0].role")
        );
        assert_eq!(param("{"), None);
        assert_eq!(param(r#"{"messages":[]} x"#), None);
    }

    #[test]
    fn a_name_that_a_client_chose_is_told_and_not_logged() {
        #[derive(Debug, Deserialize, JsonSchema)]
        struct Maps {
            #[serde(rename = "biases")]
            _biases: std::collections::HashMap<String, f64>,
        }
        let error = parse::<Maps>(br#"{"biases": {"secret": "x"}}"#).expect_err("no number");
        assert_eq!(error.body()["error"]["param"], "biases.secret");
        assert_eq!(error.label(), "invalid_request_error: biases");
        let error = parse::<Outer>(br#"{"messages":[{"role":1}]}"#).expect_err("no string");
        assert_eq!(error.label(), "invalid_request_error: messages[0].role");
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_one_counts_wherever_it_stands() {
        let roles = |body: &str| {
            let read = parse::<Outer>(body.as_bytes());
            let roles = read.map(|read| read.messages.into_iter().map(|inner| inner.role));
            roles.map(Iterator::collect::<Vec<_>>)
        };
        let body = r#"{"messages": 5, "messages": [{"role": "a", "role": "b"}]}"#;
        assert_eq!(roles(body), Ok(vec!["b".to_owned()]));
        let body = r#"{"messages": [{"role": "a"}], "messages": 5}"#;
        assert_eq!(param(body).as_deref(), Some("messages"));
    }

    #[test]
    fn a_number_that_would_be_0_is_refused() {
        let read = |body: &str| read_value::<Outer>(body.as_bytes()).map(drop);
        assert_eq!(read(r#"{"messages": [], "x": {"const": 1e-300}}"#), Ok(()));
        let refused = read(r#"{"messages": [], "x": {"const": 1e-400}}"#).expect_err("refused");
        assert!(refused.to_string().contains("`1e-400`"), "{refused}");
    }

    #[test]
    fn a_byte_order_mark_is_left_out_where_a_body_begins_with_it() {
        let read = |body: &str| parse::<Outer>(body.as_bytes()).is_ok();
        assert!(read("\u{feff}{\"messages\": []}"));
        assert!(read(
            "\u{feff}\n {\"messages\": [{\"role\": \"\u{feff}\"}]}"
        ));
        for body in [
            "\u{feff}\u{feff}{\"messages\": []}",
            " \u{feff}{\"messages\": []}",
            "{\"messages\": []}\u{feff}",
            "\u{feff}",
        ] {
            assert!(!read(body), "{body:?}");
        }
    }

    #[test]
    fn errors_do_not_speak_rust() {
        let message = |json: &str| match parse::<Outer>(json.as_bytes()).expect_err("bad input") {
            ApiError::Invalid { message, .. } => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            message("null"),
            "invalid type: null, expected an object at line 1 column 4"
        );
        assert_eq!(
            message(r#"{"messages":[", expected i64"]}"#),
            "`messages[0]`: invalid type: string \", expected i64\", expected an object at line 1 column 29"
        );
        let number = serde_json::from_str::<i64>("1.5").expect_err("no integer");
        assert_eq!(
            in_words(number.to_string()),
            "invalid type: floating point `1.5`, expected an integer at line 1 column 3"
        );
        let number = serde_json::from_str::<u32>("-1").expect_err("too small");
        assert_eq!(
            in_words(number.to_string()),
            "invalid value: integer `-1`, expected one from 0 to 4294967295 at line 1 column 2"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_waits_for_memory_and_then_gives_its_own_back() {
        let memory = Arc::new(Semaphore::new(20));
        let body = || Body::from(vec![b' '; LARGE_BODY_BYTES + (12 << 10)]);
        let (_, held) = read(body(), 1 << 20, &memory).await.expect("room");
        let second = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move { read(body(), 1 << 20, &memory).await.map(drop) }
        });
        tokio::time::sleep(LONGEST_MEMORY_WAIT / 2).await;
        drop(held);
        assert_eq!(second.await.expect("no panic"), Ok(()));

        let held = Arc::clone(&memory).acquire_many_owned(19).await;
        let refused = tokio::spawn({
            let (memory, mut crumbs) = (Arc::clone(&memory), held.expect("not closed"));
            async move {
                let began = tokio::time::Instant::now();
                let pieces = futures_util::stream::iter(0..LARGE_BODY_BYTES / 1024 + 12)
                    .map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
                let reading =
                    read(Body::from_stream(pieces), 1 << 20, &memory).map(|it| it.map(drop));
                let others = async {
                    loop {
                        tokio::time::sleep(LONGEST_MEMORY_WAIT * 2 / 5).await;
                        drop(crumbs.split(1));
                    }
                };
                let result = tokio::select! {
                    result = reading => result,
                    () = others => unreachable!(),
                };
                (result, began.elapsed(), memory.available_permits())
            }
        });
        let (refused, after, free) = refused.await.expect("no panic");
        assert!(
            matches!(&refused, Err(ApiError::Refused(why)) if why.reason == Reason::Memory),
            "{refused:?}"
        );
        assert_eq!((after, free), (LONGEST_MEMORY_WAIT, 3));
    }

    #[test]
    fn json_may_be_declared_with_a_charset() {
        let mut headers = HeaderMap::new();
        assert!(!declares_json(&headers));
        let value = "Application/JSON; charset=utf-8".parse().expect("a header");
        headers.insert(header::CONTENT_TYPE, value);
        assert!(declares_json(&headers));
    }
}
