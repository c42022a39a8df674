//! The bare engine: what llama.cpp gives when nothing stands around it. Up to sixteen sequences
//! decode together, each with a prompt of its own, and the likeliest token of each is fed back.
//!
//! `EDGELLM_BENCH_MODEL` names another GGUF than the one that ships, `EDGELLM_BENCH_THREADS`
//! another number of threads than one, `EDGELLM_BENCH_ATTENTION` (`plain`, `flash`) another
//! attention than suits the model; `EDGELLM_BENCH_OTHERS` fills so many cells with a conversation
//! that has no part in it; `EDGELLM_BENCH_BANKS` spreads the sequences over so many partitions of the
//! cache, where it has them.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgellm::engine::{
    Attention, Engine, EngineOptions, LlamaEngine, LoadWatch, Row, SeqId, Token, Weights,
    load_model,
};
use edgellm::sampling::{Sampler, SamplingParams};

const MOST_SEQUENCES: u32 = 16;
const PROMPT: u32 = 120;
/// Tokens of a sequence at most; then it starts over behind its prompt.
const DEPTH: u32 = 168;
const CHUNK: u32 = 256;

struct Loop<'model> {
    sequences: Vec<SeqId>,
    engine: LlamaEngine<'model>,
    samplers: Vec<Sampler>,
    last: Vec<Token>,
    depth: u32,
}

impl<'model> Loop<'model> {
    fn new(weights: &'model Weights, options: EngineOptions, sequences: u32, others: u32) -> Self {
        let mut engine = LlamaEngine::new(weights, options).expect("a context");
        for from in (0..others).step_by(CHUNK as usize) {
            prompt(
                &mut engine,
                SeqId(sequences),
                from..others.min(from + CHUNK),
            );
        }
        let partitions = number("EDGELLM_BENCH_BANKS", 1).min(engine.shape().partitions);
        let in_a_partition = engine.shape().sequences;
        let sequences: Vec<SeqId> = (0..sequences)
            .map(|number| SeqId(number % partitions * in_a_partition + number / partitions))
            .collect();
        for sequence in &sequences {
            prompt(&mut engine, *sequence, 0..PROMPT);
        }
        let greedy = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        Self {
            engine,
            samplers: (sequences.iter())
                .map(|_| Sampler::new(greedy.clone(), &[], None))
                .collect(),
            last: vec![Token(300); sequences.len()],
            sequences,
            depth: PROMPT,
        }
    }

    fn step(&mut self) {
        if self.depth == DEPTH {
            for sequence in &self.sequences {
                self.engine.truncate(*sequence, PROMPT);
            }
            self.depth = PROMPT;
        }
        let rows: Vec<Row> = (self.sequences.iter())
            .zip(&self.last)
            .map(|(sequence, token)| Row {
                token: *token,
                position: self.depth,
                sequence: *sequence,
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

/// Computes some of the prompt of a sequence.
fn prompt(engine: &mut LlamaEngine<'_>, sequence: SeqId, positions: std::ops::Range<u32>) {
    let rows: Vec<Row> = positions
        .map(|position| Row {
            token: Token(i32::try_from(300 + (7 * sequence.0 + position) % 700).expect("small")),
            position,
            sequence,
            logits: false,
        })
        .collect();
    engine.decode(&rows).expect("a prompt");
}

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn benches(criterion: &mut Criterion) {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
    let path = std::env::var_os("EDGELLM_BENCH_MODEL").map_or(shipped.into(), PathBuf::from);
    let others = number("EDGELLM_BENCH_OTHERS", 0);
    let options = EngineOptions {
        cells: MOST_SEQUENCES * DEPTH + others,
        sequences: MOST_SEQUENCES + 1,
        batch_rows: 512,
        threads: number("EDGELLM_BENCH_THREADS", 1),
        threads_per_partition: number("EDGELLM_BENCH_THREADS", 1),
        memory: 4 << 30,
        attention: std::env::var("EDGELLM_BENCH_ATTENTION").ok().map(|name| {
            if name == "plain" {
                Attention::Plain
            } else {
                Attention::Flash
            }
        }),
        deterministic: false,
    };
    let model = load_model(&path, &LoadWatch::default());
    let (weights, _) = model.expect("a model");
    let mut group = criterion.benchmark_group("a token for each of so many sequences");
    group.sample_size(20);
    for sequences in [1, 2, 3, 4, 5, 6, 7, 8, 12, 15, MOST_SEQUENCES] {
        let mut endless = Loop::new(&weights, options, sequences, others);
        group.throughput(Throughput::Elements(sequences.into()));
        group.bench_function(sequences.to_string(), |bench| bench.iter(|| endless.step()));
    }
    group.finish();
}

criterion_group!(engine, benches);
criterion_main!(engine);
