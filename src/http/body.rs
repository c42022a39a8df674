//! Reading a request's body: its size, the time it may take, and the memory that it holds.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admission::AdmissionRefusal;
use crate::engine::return_freed_soon;
use crate::inference::arrival::Arrival;

use super::access::counted_arrival;
use super::error::ApiError;
use super::parse::{Wire, read_value};
use super::state::HttpState;

/// Bodies of at least so many bytes are parsed and checked on a blocking thread, and take their memory
/// from a budget that all of them share.
const LARGE_BODY_BYTES: usize = 64 << 10;
/// How long a large body waits for memory that other bodies hold.
const LONGEST_MEMORY_WAIT: Duration = Duration::from_secs(5);

/// A body of type `T`, and the request that it came with.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T, pub(crate) Arrival);

/// What a large body holds until it is parsed: its share of the memory for large bodies and its turn to
/// be parsed. A small body holds neither.
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

impl<T: Wire, S: Send + Sync> FromRequest<S> for JsonBody<T>
where
    HttpState: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let state = HttpState::from_ref(state);
        let arrival = counted_arrival(&request)?;
        let (value, _, arrival) = read_json(request, arrival, &state, false, Ok).await?;
        Ok(Self(value, arrival))
    }
}

/// SHA-256 of a body.
pub(crate) type BodyDigest = [u8; 32];

/// Reads a JSON body and returns what `check` makes of it, with the body's digest if `wants_digest`.
pub(crate) async fn read_json<W: Wire, T: Send + 'static>(
    request: Request,
    mut arrival: Arrival,
    state: &HttpState,
    wants_digest: bool,
    check: impl FnOnce(W) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, Option<BodyDigest>, Arrival), ApiError> {
    if !declares_json(request.headers()) {
        return Err(ApiError::NotJson);
    }
    let limit = state.body_limit;
    let read_in = move |bytes: &[u8]| -> Result<(T, Option<BodyDigest>), ApiError> {
        let digest = wants_digest.then(|| Sha256::digest(bytes).into());
        Ok((check(read_value(bytes)?)?, digest))
    };
    // One time limit covers the whole body: a byte now and then does not extend it.
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
        return Ok((value, digest, arrival));
    }
    let memory = LargeBody {
        _memory: memory,
        // The semaphore is never closed.
        turn: Arc::clone(&state.large_values).acquire_owned().await.ok(),
    };
    // The memory moves along, because parsing continues even if the client leaves.
    let parsed = tokio::task::spawn_blocking(move || {
        let (value, digest) = read_in(&bytes)?;
        arrival.memory = Some(Box::new(memory));
        Ok((value, digest, arrival))
    });
    parsed.await.map_err(|_| ApiError::Internal)?
}

pub(super) fn declares_json(headers: &HeaderMap) -> bool {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return false;
    }
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    let media_type = media_type.to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// Refuses a body that is too large before it is sent, for clients that send `Expect: 100-continue`
/// (curl does for large bodies).
pub(super) fn refuse_before_it_is_sent(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let asks = headers.contains_key(header::EXPECT);
    if asks && announced.is_some_and(|length| length > limit) {
        return Err(ApiError::TooLarge { limit });
    }
    Ok(())
}

/// Reads the whole body and returns it with the permits for its memory, one per KiB above
/// [`LARGE_BODY_BYTES`].
///
/// A refused body is still read to its end and discarded: many clients look for the response only after
/// they have sent everything. A small body needs no permit, so large bodies that never end cannot block
/// small requests.
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
                // Bodies keep their permits while they wait for more, so one of them has to give up.
                Err(_) => {
                    refusal = Some(ApiError::Refused(AdmissionRefusal::memory()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::RefusalReason;
    use futures_util::{FutureExt, StreamExt};

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
            matches!(&refused, Err(ApiError::Refused(why)) if why.reason == RefusalReason::Memory),
            "{refused:?}"
        );
        assert_eq!((after, free), (LONGEST_MEMORY_WAIT, 3));
    }

    #[test]
    fn json_may_be_declared_with_a_charset() {
        let mut headers = HeaderMap::new();
        assert!(!declares_json(&headers));
        for value in ["Application/JSON; charset=utf-8", "application/Vendor+JSON"] {
            headers.insert(header::CONTENT_TYPE, value.parse().expect("a header"));
            assert!(declares_json(&headers), "{value}");
        }
        for (encoding, is_plain) in [("Identity", true), ("gzip", false)] {
            headers.insert(
                header::CONTENT_ENCODING,
                encoding.parse().expect("a header"),
            );
            assert_eq!(declares_json(&headers), is_plain, "{encoding}");
        }
    }
}
