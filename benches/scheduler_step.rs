//! What a step of the scheduler costs beside the engine: with an engine that computes nothing,
//! and answers under way whose 760-token prompts share their beginning.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use edgellm::engine::{
    AdapterError, DecodeError, Engine, KvCopy, Pieces, Row, SeqId, Shape, ThreadLayout, Token,
};
use edgellm::scheduler::{EventReceiver, GenerationJob, Scheduler, SchedulerLimits};
use edgellm::telemetry::{Metrics, ModelMetrics};

/// Steps that are timed before everything begins anew: sequences would grow without end.
const STEPS: u64 = 256;

/// Small, so that looking for the best of its logits hardly counts.
const VOCABULARY: usize = 64;

/// Says the same whatever it is asked.
struct IdleEngine {
    sequences: u32,
    logits: Vec<f32>,
}

impl IdleEngine {
    fn new(sequences: u32) -> Self {
        let mut logits = vec![0.0; VOCABULARY];
        logits[7] = 1.0;
        Self { sequences, logits }
    }
}

/// What such an engine keeps of a sequence.
struct Nothing;

impl KvCopy for Nothing {
    fn bytes(&self) -> usize {
        0
    }
}

impl Engine for IdleEngine {
    type KvCopy = Nothing;
    type AdapterFile = Infallible;

    fn shape(&self) -> Shape {
        Shape {
            cells: 1 << 20,
            partitions: 1,
            threads: ThreadLayout::ONE,
            sequences: self.sequences,
            batch_rows: 512,
            tile_rows: 0,
            row_group: 1,
            break_even_cells: None,
            most_copied: usize::MAX,
            exact_block: None,
            vocabulary: VOCABULARY,
            shares_prefixes: true,
        }
    }

    fn decode(&mut self, _rows: &[Row]) -> Result<(), DecodeError> {
        Ok(())
    }

    fn logits(&self, _row: usize) -> &[f32] {
        &self.logits
    }

    fn share(&mut self, _from: SeqId, _to: SeqId, _length: usize) {}

    fn copied_bytes(&self, _sequence: SeqId) -> Option<usize> {
        None
    }

    fn copy_out(&mut self, _sequence: SeqId, _length: usize) -> Option<Nothing> {
        None
    }

    fn copy_in(&mut self, _copied: &Nothing, _to: SeqId) -> bool {
        false
    }

    fn truncate(&mut self, _sequence: SeqId, _from: u32) {}

    fn give_back(&mut self, _partition: usize) {}

    fn add_adapter(&mut self, file: Infallible) -> Result<usize, AdapterError> {
        match file {}
    }

    fn remove_adapter(&mut self, _partition: usize) {}
}

struct Words;

impl Pieces for Words {
    fn piece(&self, _token: Token) -> &[u8] {
        b" word"
    }

    fn is_end(&self, _token: Token) -> bool {
        false
    }
}

fn job(number: usize) -> (GenerationJob, EventReceiver) {
    let max_tokens = 4 * u32::try_from(STEPS).unwrap_or(u32::MAX);
    let question = i32::try_from(1000 + number).unwrap_or(i32::MAX);
    let prompt: Vec<_> = (0..760).chain([question]).map(Token).collect();
    let (job, receiver) = GenerationJob::greedy(prompt, max_tokens);
    let job = GenerationJob {
        ignore_end: true,
        ..job
    };
    (job, receiver)
}

/// A scheduler with so many answers under way, and those who listen to them.
fn busy(sequences: usize, metrics: &ModelMetrics) -> (Scheduler<IdleEngine>, Vec<EventReceiver>) {
    let limits = SchedulerLimits {
        max_running: sequences,
        target_inter_token: Duration::from_millis(150),
        speculation: true,
        parked_bytes: 1 << 20,
        deterministic: false,
    };
    let ids = u32::try_from(sequences).unwrap_or(u32::MAX);
    let engine = IdleEngine::new(ids);
    let mut scheduler = Scheduler::new(engine, Arc::new(Words), limits, metrics.clone());
    let (jobs, mut listeners): (Vec<_>, Vec<_>) = (0..sequences).map(job).unzip();
    for job in jobs {
        scheduler.submit(job);
    }
    while listeners.iter_mut().any(|listener| listener.is_empty()) {
        scheduler.step(&Instant::now);
    }
    (scheduler, listeners)
}

fn benches(criterion: &mut Criterion) {
    let Ok(metrics) = Metrics::new() else {
        return;
    };
    let metrics = metrics.for_model("idle");
    for sequences in [16, 200] {
        let name = format!("scheduler step, {sequences} sequences");
        criterion.bench_function(&name, |bench| {
            bench.iter_custom(|steps| {
                let mut took = Duration::ZERO;
                let mut left = steps;
                while left > 0 {
                    let (mut scheduler, _listeners) = busy(sequences, &metrics);
                    let now = left.min(STEPS);
                    let started = Instant::now();
                    for _ in 0..now {
                        scheduler.step(&Instant::now);
                    }
                    took += started.elapsed();
                    left -= now;
                }
                took
            });
        });
    }
}

criterion_group!(scheduler_step, benches);
criterion_main!(scheduler_step);
