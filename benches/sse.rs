//! What it costs to send a token: the chunk's JSON, and the event around it.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgellm::bench_support::measured_stream;
use http_body_util::BodyExt;

/// Of a long answer.
const TOKENS: u32 = 256;

fn benches(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    let mut group = criterion.benchmark_group("server-sent events");
    group.throughput(Throughput::Elements(TOKENS.into()));
    for (name, tools) in [
        ("256 chunks of a token", false),
        ("256 chunks of a token, with tools offered", true),
    ] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let stream = measured_stream(black_box(TOKENS), tools);
                runtime.block_on(stream.into_body().collect())
            });
        });
    }
    group.finish();
}

criterion_group!(sse, benches);
criterion_main!(sse);
