use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot::{Receiver, channel};

use super::*;
use crate::engine::EmbedderShape;
use crate::telemetry::Metrics;

/// A text's vector is the sum of its tokens and their number; a text with token 13 cannot be computed.
struct FakeEmbedder {
    batches: Vec<usize>,
}

impl Embedder for FakeEmbedder {
    fn shape(&self) -> EmbedderShape {
        EmbedderShape {
            rows: 100,
            sequences: 4,
        }
    }

    fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>, DecodeError> {
        assert!(texts.len() <= 4 && texts.iter().all(|text| !text.is_empty()));
        assert!(texts.iter().map(|text| text.len()).sum::<usize>() <= 100);
        if texts.iter().any(|text| text.contains(&Token(13))) {
            return Err(DecodeError::Failed(-3));
        }
        self.batches.push(texts.len());
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

#[allow(clippy::cast_precision_loss)]
fn vector(text: &[Token]) -> Vec<f32> {
    let sum: i32 = text.iter().map(|token| token.0).sum();
    vec![sum as f32, text.len() as f32]
}

fn batcher(max_running: usize) -> Batcher<FakeEmbedder> {
    let limits = EmbeddingLimits {
        max_running,
        fill: 20,
    };
    let metrics = Metrics::new()
        .expect("a sound table")
        .for_embedding_model("m");
    Batcher::new(
        FakeEmbedder {
            batches: Vec::new(),
        },
        limits,
        metrics,
    )
}

type Answer = Receiver<Result<EmbeddingResult, WorkError>>;

fn submit(batcher: &mut Batcher<FakeEmbedder>, texts: &[&[i32]]) -> Answer {
    let (answer, receiver) = channel();
    let tokens = |text: &&[i32]| text.iter().map(|id| Token(*id)).collect();
    batcher.accept(EmbeddingJob {
        texts: texts.iter().map(tokens).collect(),
        arrived: Instant::now(),
        deadline: None,
        forecast: None,
        place: None,
        span: tracing::Span::none(),
        answer,
    });
    receiver
}

fn run(batcher: &mut Batcher<FakeEmbedder>) {
    for _ in 0..100 {
        if !batcher.has_work() {
            return;
        }
        batcher.run_step(&Instant::now);
    }
    panic!("it does not come to an end");
}

fn vectors(answer: &mut Answer) -> Vec<Vec<f32>> {
    answer
        .try_recv()
        .expect("an answer")
        .expect("vectors")
        .vectors
}

#[test]
fn every_request_gets_its_own_vectors_in_its_own_order() {
    let mut batcher = batcher(8);
    let mut one = submit(&mut batcher, &[&[1, 2, 3]]);
    let mut many = submit(&mut batcher, &[&[4], &[5; 18], &[6, 7], &[8], &[9], &[10]]);
    run(&mut batcher);
    assert_eq!(vectors(&mut one), [[6.0, 3.0]]);
    let expected = [
        [4.0, 1.0],
        [90.0, 18.0],
        [13.0, 2.0],
        [8.0, 1.0],
        [9.0, 1.0],
        [10.0, 1.0],
    ];
    assert_eq!(vectors(&mut many), expected);
    assert_eq!(batcher.metrics.prompt_tokens.get(), 27);
    assert_eq!(batcher.embedder.batches.iter().sum::<usize>(), 7);
}

#[test]
fn one_text_does_not_wait_for_a_request_with_hundreds() {
    let mut batcher = batcher(8);
    let _many = submit(&mut batcher, &[&[1][..]; 300]);
    batcher.run_step(&Instant::now);
    let mut one = submit(&mut batcher, &[&[2]]);
    batcher.run_step(&Instant::now);
    assert_eq!(vectors(&mut one), [[2.0, 1.0]]);
}

#[test]
fn a_long_text_gets_its_turn_however_many_short_ones_come() {
    let mut batcher = batcher(8);
    let mut short: Vec<_> = (0..3).map(|_| submit(&mut batcher, &[&[1]])).collect();
    let mut long = submit(&mut batcher, &[&[2; 50]]);
    for _ in 0..4 {
        short.push(submit(&mut batcher, &[&[1]]));
        batcher.run_step(&Instant::now);
    }
    assert_eq!(vectors(&mut long), [[100.0, 50.0]]);
}

#[test]
fn a_client_that_left_is_not_computed() {
    let mut batcher = batcher(1);
    drop(submit(&mut batcher, &[&[1][..]; 50]));
    let mut stays = submit(&mut batcher, &[&[2]]);
    let leaves = submit(&mut batcher, &[&[3]]);
    batcher.run_step(&Instant::now);
    drop(leaves);
    run(&mut batcher);
    assert_eq!(vectors(&mut stays), [[2.0, 1.0]]);
    assert_eq!(batcher.embedder.batches, [1]);
    assert_eq!(batcher.metrics.cancelled.get(), 2);
}

#[test]
fn a_text_that_fails_fails_its_own_request_only() {
    let mut batcher = batcher(8);
    let mut sound = submit(&mut batcher, &[&[1], &[2]]);
    let mut broken = submit(&mut batcher, &[&[3], &[13]]);
    run(&mut batcher);
    assert_eq!(vectors(&mut sound), [[1.0, 1.0], [2.0, 1.0]]);
    assert_eq!(broken.try_recv(), Ok(Err(WorkError::Engine)));
}

#[test]
fn no_more_requests_are_under_way_than_may_be() {
    let mut batcher = batcher(2);
    let answers: Vec<_> = (0..5)
        .map(|_| submit(&mut batcher, &[&[1][..]; 9]))
        .collect();
    batcher.run_step(&Instant::now);
    assert_eq!(
        (batcher.metrics.running.get(), batcher.metrics.waiting.get()),
        (2, 3)
    );
    run(&mut batcher);
    assert_eq!(
        (batcher.metrics.running.get(), batcher.metrics.waiting.get()),
        (0, 0)
    );
    drop(answers);
}

#[test]
fn a_shutdown_tells_all_who_wait() {
    let mut batcher = batcher(1);
    let mut answers: Vec<_> = (0..2)
        .map(|_| submit(&mut batcher, &[&[1][..]; 9]))
        .collect();
    batcher.run_step(&Instant::now);
    batcher.abort_all(WorkError::ShuttingDown);
    assert!(!batcher.has_work());
    for answer in &mut answers {
        assert_eq!(answer.try_recv(), Ok(Err(WorkError::ShuttingDown)));
    }
}

#[test]
fn the_time_in_the_queue_ends_with_the_first_batch() {
    let start = Instant::now();
    let ticks = AtomicUsize::new(0);
    let clock = || start + Duration::from_secs(ticks.fetch_add(1, Relaxed) as u64 + 10);
    let mut batcher = batcher(1);
    let mut answer = submit(&mut batcher, &[&[1]]);
    batcher.run_step(&clock);
    let embedded = answer.try_recv().expect("an answer").expect("vectors");
    let waited = Duration::from_secs(9)..=Duration::from_secs(10);
    assert!(waited.contains(&embedded.queue), "{embedded:?}");
    assert_eq!(embedded.compute, Duration::from_secs(2));
}

#[test]
fn a_request_is_dropped_when_its_deadline_passes_whether_it_waits_or_runs() {
    let mut batcher = batcher(1);
    let now = Instant::now();
    let mut late = |texts: Vec<Vec<Token>>, allowed| {
        let (answer, receiver) = channel();
        batcher.accept(EmbeddingJob {
            texts,
            arrived: now,
            deadline: Some(now + allowed),
            forecast: None,
            place: None,
            span: tracing::Span::none(),
            answer,
        });
        receiver
    };
    let second = Duration::from_secs(1);
    let many = vec![vec![Token(1); 15]; 4];
    let mut running = late(many, 2 * second);
    let mut waiting = late(vec![vec![Token(1)]], second);
    let mut in_time = late(vec![vec![Token(2)]], 60 * second);
    batcher.run_step(&|| now);
    let is_late = |answer: &mut Answer| {
        matches!(answer.try_recv(), Ok(Err(WorkError::DeadlinePassed { .. })))
    };
    batcher.run_step(&|| now + second);
    assert!(is_late(&mut waiting));
    batcher.look_while_resting(now + 2 * second);
    assert!(is_late(&mut running));
    assert_eq!(batcher.metrics.late.get(), 2);
    run(&mut batcher);
    assert!(matches!(in_time.try_recv(), Ok(Ok(_))));
}
