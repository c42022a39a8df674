//! The bare engine: what llama.cpp gives when nothing stands around it. Sixteen sequences decode
//! together, each with a prompt of its own, and the likeliest token of each is fed back.
//!
//! `EDGELLM_BENCH_MODEL` names another GGUF than the one that ships, `EDGELLM_BENCH_THREADS`
//! another number of threads than one.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgellm::engine::{Engine, EngineOptions, LlamaEngine, Model, Row, SeqId, Token};
use edgellm::sampling::{Sampler, SamplingParams};

const SEQUENCES: u32 = 16;
const PROMPT: u32 = 100;
/// Tokens of a sequence at most; then it starts over behind its prompt.
const DEPTH: u32 = 200;

struct Loop<'model> {
    engine: LlamaEngine<'model>,
    samplers: Vec<Sampler>,
    last: Vec<Token>,
    depth: u32,
}

impl<'model> Loop<'model> {
    fn new(model: &'model Model, threads: u32) -> Self {
        let options = EngineOptions {
            cells: SEQUENCES * DEPTH,
            sequences: SEQUENCES,
            batch_rows: 512,
            threads,
            attention: None,
        };
        let mut engine = LlamaEngine::new(model, options).expect("a context");
        for sequence in 0..SEQUENCES {
            let rows: Vec<Row> = (0..PROMPT)
                .map(|position| Row {
                    token: Token(i32::try_from(300 + 7 * sequence + position).expect("small")),
                    position,
                    sequence: SeqId(sequence),
                    logits: false,
                })
                .collect();
            engine.decode(&rows).expect("a prompt");
        }
        let greedy = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        Self {
            engine,
            samplers: (0..SEQUENCES)
                .map(|_| Sampler::new(greedy.clone(), &[], None))
                .collect(),
            last: vec![Token(300); SEQUENCES as usize],
            depth: PROMPT,
        }
    }

    fn step(&mut self) {
        if self.depth == DEPTH {
            for sequence in 0..SEQUENCES {
                self.engine.truncate(SeqId(sequence), PROMPT);
            }
            self.depth = PROMPT;
        }
        let rows: Vec<Row> = (0..SEQUENCES)
            .zip(&self.last)
            .map(|(sequence, token)| Row {
                token: *token,
                position: self.depth,
                sequence: SeqId(sequence),
                logits: true,
            })
            .collect();
        self.engine.decode(&rows).expect("a step");
        for (row, (sampler, last)) in self.samplers.iter_mut().zip(&mut self.last).enumerate() {
            *last = sampler
                .sample(self.engine.logits(row), 0, 1)
                .expect("no grammar");
        }
        self.depth += 1;
    }
}

fn benches(criterion: &mut Criterion) {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
    let path = std::env::var_os("EDGELLM_BENCH_MODEL").map_or(shipped.into(), PathBuf::from);
    let threads = std::env::var("EDGELLM_BENCH_THREADS");
    let threads = threads.map_or(1, |threads| threads.parse().expect("a number"));
    let model = Model::load(&path, &Arc::new(AtomicBool::new(false))).expect("a model");
    let mut endless = Loop::new(&model, threads);
    let mut group = criterion.benchmark_group("bare engine");
    group.throughput(Throughput::Elements(SEQUENCES.into()));
    group.bench_function("a token for each of 16 sequences", |bench| {
        bench.iter(|| endless.step());
    });
    group.finish();
}

criterion_group!(engine, benches);
criterion_main!(engine);
