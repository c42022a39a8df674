//! What it costs to send a token: the chunk's JSON, and the event around it.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::convert::Infallible;
use std::hint::black_box;

use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use edgellm::{prompt, scheduler};
use futures_util::stream;
use http_body_util::BodyExt;

// Chunks are nobody's business but the chat handler's, so their source is compiled in here.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/api/chat/answer.rs"]
mod answer;

/// The two types that it takes from its neighbour, which reads requests.
#[allow(dead_code)]
mod validate {
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Output {
        pub(crate) stream: bool,
        pub(crate) usage_chunk: bool,
        pub(crate) tool_calls: ToolCalls,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum ToolCalls {
        None,
        One,
        Any,
    }
}

use answer::{Answer, Header};
use validate::{Output, ToolCalls};

/// Of a long answer.
const TOKENS: u32 = 256;

fn answer(tool_calls: ToolCalls) -> Answer {
    let output = Output {
        stream: true,
        usage_chunk: true,
        tool_calls,
    };
    Answer::new(
        Header::new("qwen2.5-0.5b", "0123456789abcdef", 0, None),
        output,
    )
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server-sent events");
    for (name, tool_calls) in [
        ("chunk of a token", ToolCalls::None),
        ("chunk of a token, with tools offered", ToolCalls::Any),
    ] {
        let mut answer = answer(tool_calls);
        group.bench_function(name, |bench| {
            bench.iter(|| answer.chunks(black_box(" word")));
        });
    }

    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    let ready = || -> Vec<String> {
        let mut answer = answer(ToolCalls::None);
        (0..TOKENS).flat_map(|_| answer.chunks(" word")).collect()
    };
    let send = |chunks: Vec<String>| {
        let events = chunks
            .into_iter()
            .map(|chunk| Ok::<_, Infallible>(Event::default().data(chunk)));
        let body = Sse::new(stream::iter(events)).into_response().into_body();
        runtime.block_on(body.collect())
    };
    group.throughput(Throughput::Elements(TOKENS.into()));
    group.bench_function("body of 256 ready chunks", |bench| {
        bench.iter_batched(ready, send, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(sse, benches);
criterion_main!(sse);
