//! Candidate selection: a token for each of 16 rows out of 150,000 logits.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgellm::engine::Token;
use edgellm::sampling::{Sampler, SamplingParams};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const ROWS: u64 = 16;
const VOCABULARY: usize = 150_000;
/// The case whose model is not sure of anything.
const UNSURE: &str = "top-p, thousands of candidates";

/// Nearly normal with a deviation of 2.3, the sum of eight uniform numbers, and some tokens that
/// stand out, as after the prompt of a trained model.
fn logits(seed: u64) -> Vec<f32> {
    let mut logits = unsure(seed);
    for (place, stands_out) in (0..40_u8).enumerate() {
        logits[place * 3000] += 16.0 - 0.35 * f32::from(stands_out);
    }
    logits
}

/// None stands out: thousands of candidates.
fn unsure(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || f32::from((random.next_u32() >> 16) as u16) / 65_536.0 - 0.5;
    (0..VOCABULARY)
        .map(|_| (0..8).map(|_| uniform()).sum::<f32>() * 2.8)
        .collect()
}

fn cases() -> [(&'static str, SamplingParams); 7] {
    let greedy = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let warm = SamplingParams {
        temperature: 0.8,
        ..SamplingParams::default()
    };
    [
        ("greedy", greedy.clone()),
        ("temperature", warm.clone()),
        (
            "top-p",
            SamplingParams {
                top_p: 0.95,
                ..warm.clone()
            },
        ),
        (
            UNSURE,
            SamplingParams {
                top_p: 0.95,
                ..warm.clone()
            },
        ),
        (
            "top-k",
            SamplingParams {
                top_k: 40,
                ..warm.clone()
            },
        ),
        (
            "min-p",
            SamplingParams {
                min_p: 0.05,
                ..warm
            },
        ),
        (
            "penalties",
            SamplingParams {
                repeat_penalty: 1.1,
                frequency_penalty: 0.2,
                ..greedy
            },
        ),
    ]
}

fn benches(criterion: &mut Criterion) {
    let sure: Vec<_> = (0..ROWS).map(logits).collect();
    let unsure: Vec<_> = (0..ROWS).map(unsure).collect();
    let prompt: Vec<_> = (0..1000).map(Token).collect();
    let mut group = criterion.benchmark_group("16 rows of 150,000 logits");
    group.throughput(Throughput::Elements(ROWS));
    for (name, params) in cases() {
        let rows = if name == UNSURE { &unsure } else { &sure };
        let mut samplers: Vec<_> = rows
            .iter()
            .map(|_| Sampler::new(params.clone(), &prompt, None))
            .collect();
        let mut index = 0;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                index += 1;
                for (sampler, logits) in samplers.iter_mut().zip(rows) {
                    let _ = black_box(sampler.sample(black_box(logits), index, u32::MAX));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(sampling, benches);
criterion_main!(sampling);
