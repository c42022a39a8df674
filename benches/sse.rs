//! What it costs to send a token: the chunk's JSON, and the event around it.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::convert::Infallible;
use std::hint::black_box;

use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use edgellm::api::measured_chunks;
use futures_util::stream;
use http_body_util::BodyExt;

/// Of a long answer.
const TOKENS: u32 = 256;

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server-sent events");
    group.throughput(Throughput::Elements(TOKENS.into()));
    for (name, tools) in [
        ("256 chunks of a token", false),
        ("256 chunks of a token, with tools offered", true),
    ] {
        group.bench_function(name, |bench| {
            bench.iter(|| measured_chunks(black_box(TOKENS), tools));
        });
    }

    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    let ready = || measured_chunks(TOKENS, false);
    let send = |chunks: Vec<String>| {
        let events = chunks
            .into_iter()
            .map(|chunk| Ok::<_, Infallible>(Event::default().data(chunk)));
        let body = Sse::new(stream::iter(events)).into_response().into_body();
        runtime.block_on(body.collect())
    };
    group.bench_function("body of 256 ready chunks", |bench| {
        bench.iter_batched(ready, send, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(sse, benches);
criterion_main!(sse);
