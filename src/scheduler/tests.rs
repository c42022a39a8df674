//! The scheduler's logic against the fake engine, one step at a time.

use std::cell::Cell;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::admission::{PrefixGroup, ServiceTier};
use crate::engine::fake::{BytePieces, FakeEngine};
use crate::engine::{Shape, ThreadLayout, Token};
use crate::telemetry::Metrics;

mod adapters;
mod deadlines;
mod fairness;
mod governed;
mod groups;
mod offloaded;
mod partitions;
mod placement;
mod repeatable;
mod scoring;

pub(super) const SHAPE: Shape = Shape {
    cells: 512,
    partitions: 1,
    threads: ThreadLayout::ONE,
    sequences: 8,
    batch_rows: 32,
    tile_rows: 0,
    row_group: 1,
    break_even_cells: None,
    most_copied: usize::MAX,
    exact_block: None,
    vocabulary: 256,
    shares_prefixes: true,
};

fn scheduler(shape: Shape) -> Scheduler<FakeEngine> {
    over(FakeEngine::new(shape))
}

fn over(engine: FakeEngine) -> Scheduler<FakeEngine> {
    with_parked_bytes(engine, 1 << 20)
}

fn with_parked_bytes(engine: FakeEngine, parked_bytes: usize) -> Scheduler<FakeEngine> {
    let metrics = Metrics::new().expect("metrics").for_model("fake");
    let limits = SchedulerLimits {
        max_running: 4,
        target_inter_token: Duration::from_millis(150),
        speculation: true,
        parked_bytes,
        deterministic: false,
    };
    Scheduler::new(engine, Arc::new(BytePieces::default()), limits, metrics)
}

fn prompt(seed: usize, length: usize) -> Vec<Token> {
    (0..length)
        .map(|i| Token(i32::try_from((seed * 31 + i * 7) % 200).expect("small")))
        .collect()
}

fn job(prompt: &[Token], max_tokens: u32) -> (GenerationJob, EventReceiver) {
    GenerationJob::greedy(prompt, max_tokens)
}

fn submit(
    scheduler: &mut Scheduler<FakeEngine>,
    prompt: &[Token],
    max_tokens: u32,
) -> EventReceiver {
    let (job, events) = job(prompt, max_tokens);
    scheduler.submit(job);
    events
}

/// The answer that a lone run gives.
fn expected(prompt: &[Token], max_tokens: u32) -> String {
    expected_of(&FakeEngine::new(SHAPE), prompt, max_tokens)
}

fn expected_of(engine: &FakeEngine, prompt: &[Token], max_tokens: u32) -> String {
    text_of(&engine.continuation(prompt, max_tokens as usize))
}

/// The text that is sent of these tokens.
fn text_of(tokens: &[Token]) -> String {
    let bytes: Vec<u8> = tokens
        .iter()
        .map(|token| u8::try_from(token.0).expect("a byte"))
        .collect();
    let mut assembler = text::TextAssembler::default();
    match assembler.push(&bytes, None) {
        text::PushOutcome::Text(text) => text.text + &assembler.finish(FinishReason::Length).text,
        text::PushOutcome::Stopped(_) => panic!("there is no stop string"),
    }
}

fn received(receiver: &mut EventReceiver) -> (String, Option<AnswerEvent>) {
    let mut text = String::new();
    while let Some(event) = receiver.try_recv() {
        match event {
            AnswerEvent::Text(more) => text.push_str(&more.text),
            end => return (text, Some(end)),
        }
    }
    (text, None)
}

fn check_integrity(scheduler: &Scheduler<FakeEngine>) {
    let running: Vec<_> = scheduler
        .sequences
        .running
        .iter()
        .map(|running| {
            let sequence = &running.sequence;
            let scope = scheduler.sequences.cache.scope_of(running.id);
            assert_eq!(scope, sequence.prefix().scope);
            let computed = sequence.tokens()[..sequence.computed()].to_vec();
            (running.id, computed)
        })
        .collect();
    scheduler.sequences.cache.check_integrity(&running);
    assert_eq!(
        scheduler.sequences.cache.engine().used(),
        scheduler.sequences.cache.used()
    );
}

/// Every step takes a millisecond, however many rows it has and whatever other tests run.
fn step(scheduler: &mut Scheduler<FakeEngine>) {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    thread_local! { static ASKED: Cell<u64> = const { Cell::new(0) }; }
    let clock = || {
        ASKED.set(ASKED.get() + 1);
        *START + Duration::from_millis(ASKED.get())
    };
    scheduler.step(&clock);
    check_integrity(scheduler);
}

fn run_dry(scheduler: &mut Scheduler<FakeEngine>) {
    for _ in 0..100_000 {
        if scheduler.is_idle() {
            return;
        }
        step(scheduler);
    }
    panic!("the scheduler does not come to an end");
}

#[test]
fn an_answer_is_what_the_engine_says_and_ends_at_max_tokens() {
    let mut scheduler = scheduler(SHAPE);
    let prompt = prompt(1, 100);
    let mut events = submit(&mut scheduler, &prompt, 20);
    run_dry(&mut scheduler);
    let (text, end) = received(&mut events);
    assert_eq!(text, expected(&prompt, 20));
    let Some(AnswerEvent::Finished(finished)) = end else {
        panic!("no end: {end:?}");
    };
    assert_eq!(finished.reason, FinishReason::Length);
    assert_eq!(
        (finished.prompt_tokens, finished.generated_tokens),
        (100, 20)
    );
    assert_eq!(scheduler.sequences.cache.live(), 0);
}

#[test]
fn requests_that_join_late_decode_together_with_those_running() {
    let mut scheduler = scheduler(SHAPE);
    let prompts: Vec<_> = (0..4).map(|seed| prompt(seed, 10 + seed)).collect();
    let mut receivers = Vec::new();
    for prompt in &prompts {
        let receiver = submit(&mut scheduler, prompt, 50);
        receivers.push(receiver);
        step(&mut scheduler);
        step(&mut scheduler);
    }
    let before = scheduler.sequences.cache.engine().decodes;
    run_dry(&mut scheduler);
    // One at a time would take about 200 batches.
    assert!(scheduler.sequences.cache.engine().decodes - before < 60);
    for (prompt, receiver) in prompts.iter().zip(&mut receivers) {
        assert_eq!(received(receiver).0, expected(prompt, 50));
    }
}

#[test]
fn a_client_that_leaves_frees_its_cells_at_the_next_step() {
    let mut scheduler = scheduler(SHAPE);
    let (stays, mut events) = job(&prompt(1, 20), 30);
    let (leaves, gone) = job(&prompt(2, 20), 30);
    scheduler.submit(stays);
    scheduler.submit(leaves);
    for _ in 0..5 {
        step(&mut scheduler);
    }
    drop(gone);
    step(&mut scheduler);
    assert_eq!(scheduler.sequences.running.len(), 1);
    assert_eq!(scheduler.metrics.cancelled.get(), 1);
    run_dry(&mut scheduler);
    assert_eq!(received(&mut events).0, expected(&prompt(1, 20), 30));
}

#[test]
fn a_full_cache_preempts_the_latest_and_nobody_notices() {
    let mut scheduler = scheduler(Shape {
        cells: 128,
        ..SHAPE
    });
    let prompts: Vec<_> = (0..3).map(|seed| prompt(seed, 20)).collect();
    let mut receivers = Vec::new();
    for prompt in &prompts {
        let receiver = submit(&mut scheduler, prompt, 60);
        receivers.push(receiver);
    }
    run_dry(&mut scheduler);
    assert!(
        scheduler.metrics.preemptions.get() > 0,
        "the case is not hit"
    );
    for (prompt, receiver) in prompts.iter().zip(&mut receivers) {
        assert_eq!(received(receiver).0, expected(prompt, 60));
    }
}

#[test]
fn a_stop_token_ends_an_answer_without_its_text() {
    let mut scheduler = scheduler(SHAPE);
    let prompt = prompt(3, 12);
    let answer = FakeEngine::new(SHAPE).continuation(&prompt, 6);
    let (mut job, mut events) = job(&prompt, 50);
    job.stop_tokens = vec![answer[5]];
    scheduler.submit(job);
    run_dry(&mut scheduler);
    let (text, end) = received(&mut events);
    assert!(expected(&prompt, 5).starts_with(&text));
    assert!(matches!(
        end,
        Some(AnswerEvent::Finished(AnswerEnd {
            reason: FinishReason::Stop,
            ..
        }))
    ));
}

#[test]
fn when_the_grace_time_ends_everyone_is_told() {
    let mut scheduler = scheduler(SHAPE);
    let mut events = submit(&mut scheduler, &prompt(1, 20), 300);
    step(&mut scheduler);
    scheduler.fail_all(WorkError::ShuttingDown);
    check_integrity(&scheduler);
    let (_, end) = received(&mut events);
    assert_eq!(end, Some(AnswerEvent::Failed(WorkError::ShuttingDown)));
}

/// A store prompt of 300 tokens and a question of its own.
fn kiosk(question: usize) -> Vec<Token> {
    let mut tokens = prompt(1, 300);
    tokens.extend(prompt(100 + question, 10));
    tokens
}

#[test]
fn kiosks_at_once_compute_their_common_prompt_once() {
    let mut scheduler = scheduler(SHAPE);
    let mut receivers = Vec::new();
    for question in 0..4 {
        let receiver = submit(&mut scheduler, &kiosk(question), 5);
        receivers.push(receiver);
    }
    run_dry(&mut scheduler);
    // The prompt once, four questions, four answers but for their last token.
    assert_eq!(
        scheduler.sequences.cache.engine().rows,
        300 + 4 * 10 + 4 * 4
    );
    for (question, receiver) in receivers.iter_mut().enumerate() {
        let (text, end) = received(receiver);
        assert_eq!(text, expected(&kiosk(question), 5));
        let Some(AnswerEvent::Finished(finished)) = end else {
            panic!("no end: {end:?}");
        };
        assert_eq!(finished.cached_tokens, if question == 0 { 0 } else { 300 });
    }
}

#[test]
fn a_later_kiosk_finds_the_prompt_of_an_ended_one() {
    let mut scheduler = scheduler(SHAPE);
    for question in 0..3 {
        let mut events = submit(&mut scheduler, &kiosk(question), 5);
        run_dry(&mut scheduler);
        assert_eq!(received(&mut events).0, expected(&kiosk(question), 5));
    }
    assert_eq!(scheduler.metrics.prompt_tokens_cached.get(), 600);
    assert_eq!(scheduler.metrics.prefix_hits.get(), 2);
}

#[test]
fn the_next_turn_of_a_conversation_starts_where_the_last_ended() {
    let mut scheduler = scheduler(SHAPE);
    let first = kiosk(0);
    let _events = submit(&mut scheduler, &first, 5);
    run_dry(&mut scheduler);
    let mut second = first.clone();
    second.extend(FakeEngine::new(SHAPE).continuation(&first, 5));
    second.extend(prompt(9, 7));
    let mut events = submit(&mut scheduler, &second, 5);
    run_dry(&mut scheduler);
    let (text, end) = received(&mut events);
    assert_eq!(text, expected(&second, 5));
    // All of the first turn but its last token, which was never computed.
    assert!(matches!(end, Some(AnswerEvent::Finished(finished)) if finished.cached_tokens == 314));
}

#[test]
fn a_model_that_cannot_share_is_served_without() {
    let mut scheduler = scheduler(Shape {
        shares_prefixes: false,
        ..SHAPE
    });
    for question in 0..2 {
        let mut events = submit(&mut scheduler, &kiosk(question), 5);
        run_dry(&mut scheduler);
        assert_eq!(received(&mut events).0, expected(&kiosk(question), 5));
        assert_eq!(scheduler.sequences.cache.used(), 0);
    }
}

#[test]
fn a_question_does_not_wait_for_a_long_document() {
    let mut scheduler = scheduler(SHAPE);
    let (document, _unread) = job(&prompt(1, 400), 5);
    let (question, mut events) = job(&prompt(2, 20), 5);
    scheduler.submit(document);
    scheduler.submit(question);
    for _ in 0..3 {
        step(&mut scheduler);
    }
    assert!(!received(&mut events).0.is_empty(), "32 rows a step");
    run_dry(&mut scheduler);
}

#[test]
fn whoever_has_priority_is_taken_up_first() {
    let mut scheduler = scheduler(SHAPE);
    scheduler.limits.max_running = 1;
    let mut receivers = Vec::new();
    for class in [
        ServiceTier::Flex,
        ServiceTier::Default,
        ServiceTier::Priority,
    ] {
        let (mut job, receiver) = job(&prompt(1, 20), 3);
        job.class = class;
        scheduler.submit(job);
        receivers.push(receiver);
    }
    let mut order = Vec::new();
    while !scheduler.is_idle() {
        step(&mut scheduler);
        for (index, receiver) in receivers.iter_mut().enumerate() {
            if received(receiver).1.is_some() {
                order.push(index);
            }
        }
    }
    assert_eq!(order, [2, 1, 0]);
}

#[test]
fn a_question_goes_before_a_document_that_does_not_fit_yet() {
    let mut scheduler = scheduler(SHAPE);
    let _unread = submit(&mut scheduler, &prompt(1, 200), 100);
    step(&mut scheduler);
    let (document, mut late) = job(&prompt(2, 400), 5);
    let (question, mut soon) = job(&prompt(3, 20), 5);
    scheduler.submit(document);
    scheduler.submit(question);
    for _ in 0..20 {
        step(&mut scheduler);
    }
    assert!(matches!(
        received(&mut soon).1,
        Some(AnswerEvent::Finished(_))
    ));
    assert!(received(&mut late).0.is_empty());
    run_dry(&mut scheduler);
    assert!(matches!(
        received(&mut late).1,
        Some(AnswerEvent::Finished(_))
    ));
}

#[test]
fn flex_makes_way_and_goes_on_where_it_was() {
    let mut scheduler = scheduler(SHAPE);
    scheduler.limits.max_running = 1;
    let (mut patient, mut later) = job(&prompt(1, 60), 40);
    patient.class = ServiceTier::Flex;
    scheduler.submit(patient);
    for _ in 0..10 {
        step(&mut scheduler);
    }
    let mut soon = submit(&mut scheduler, &prompt(2, 20), 5);
    for _ in 0..8 {
        step(&mut scheduler);
    }
    assert!(matches!(
        received(&mut soon).1,
        Some(AnswerEvent::Finished(_))
    ));
    let rows = scheduler.sequences.cache.engine().rows;
    run_dry(&mut scheduler);
    assert_eq!(received(&mut later).0, expected(&prompt(1, 60), 40));
    // Its cells were kept: only what was missing was computed.
    assert!(scheduler.sequences.cache.engine().rows - rows < 40);
}

#[test]
fn a_prompt_is_read_however_much_others_draft() {
    for cells in [512, 200] {
        let mut scheduler = over(FakeEngine::forgetful(Shape { cells, ..SHAPE }));
        let mut receivers = Vec::new();
        for seed in 0..3 {
            let receiver = submit(&mut scheduler, &prompt(seed, 4), 25);
            receivers.push(receiver);
        }
        for _ in 0..8 {
            step(&mut scheduler);
        }
        let mut events = submit(&mut scheduler, &prompt(9, 64), 1);
        for _ in 0..5 {
            step(&mut scheduler);
        }
        assert!(!received(&mut events).0.is_empty(), "{cells} cells");
        run_dry(&mut scheduler);
    }
}

#[test]
fn an_answer_that_repeats_itself_takes_fewer_steps_and_stays_the_same() {
    let mut scheduler = over(FakeEngine::forgetful(SHAPE));
    let prompt = prompt(1, 20);
    let mut events = submit(&mut scheduler, &prompt, 200);
    run_dry(&mut scheduler);
    let (text, end) = received(&mut events);
    let right = expected_of(&FakeEngine::forgetful(SHAPE), &prompt, 200);
    assert_eq!(text, right);
    assert!(
        matches!(end, Some(AnswerEvent::Finished(finished)) if finished.generated_tokens == 200)
    );
    assert!(scheduler.sequences.cache.engine().decodes < 80);
    assert!(scheduler.metrics.accepted_tokens.get() > 120);
    assert!(scheduler.metrics.drafted_tokens.get() >= scheduler.metrics.accepted_tokens.get());
}

#[test]
fn a_stop_token_in_the_middle_of_a_draft_ends_the_answer_there() {
    let engine = FakeEngine::forgetful(SHAPE);
    let prompt = prompt(1, 20);
    let answer = engine.continuation(&prompt, 200);
    let mut scheduler = over(engine);
    let (mut job, mut events) = job(&prompt, 200);
    let stop = answer.last().copied().expect("an answer");
    let first = answer
        .iter()
        .position(|token| *token == stop)
        .expect("there");
    job.stop_tokens = vec![stop];
    scheduler.submit(job);
    run_dry(&mut scheduler);
    let Some(AnswerEvent::Finished(finished)) = received(&mut events).1 else {
        panic!("no end");
    };
    assert_eq!(finished.reason, FinishReason::Stop);
    assert_eq!(finished.generated_tokens as usize, first + 1);
}

#[test]
fn a_prediction_is_drafted_where_the_answer_follows_it_and_counted() {
    let prompt = prompt(3, 30);
    let mut prediction = FakeEngine::new(SHAPE).continuation(&prompt, 100);
    // Wrong from here on, but for what follows.
    prediction[60] = Token((prediction[60].0 + 1) % 255);
    let mut scheduler = scheduler(SHAPE);
    let (mut job, mut events) = job(&prompt, 100);
    job.prediction = Some(prediction);
    scheduler.submit(job);
    run_dry(&mut scheduler);
    let (text, end) = received(&mut events);
    assert_eq!(text, expected(&prompt, 100));
    let Some(AnswerEvent::Finished(finished)) = end else {
        panic!("no end");
    };
    let predicted = finished.predicted_tokens.expect("there was a prediction");
    assert_eq!(predicted.accepted + predicted.rejected, 100);
    assert!((90..=99).contains(&predicted.accepted), "{predicted:?}");
    let decodes = scheduler.sequences.cache.engine().decodes;
    assert!(decodes < 40, "{decodes}");
}

#[test]
fn nothing_is_drafted_when_speculation_is_off() {
    let mut scheduler = over(FakeEngine::forgetful(SHAPE));
    scheduler.limits.speculation = false;
    let _events = submit(&mut scheduler, &prompt(1, 20), 100);
    run_dry(&mut scheduler);
    assert_eq!(scheduler.metrics.drafted_tokens.get(), 0);
    assert_eq!(scheduler.sequences.cache.engine().decodes, 100);
}

#[derive(Debug, Clone)]
struct Arrival {
    after_steps: usize,
    prompt: usize,
    max_tokens: u32,
    leaves_after: Option<usize>,
    class: ServiceTier,
    group: PrefixGroup,
    /// How much of its true answer is predicted before a wrong token.
    predicted: Option<usize>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let leaves = prop::option::weighted(0.3, 0_usize..40);
    let class = prop::sample::select(vec![
        ServiceTier::Flex,
        ServiceTier::Default,
        ServiceTier::Priority,
    ]);
    let predicted = prop::option::weighted(0.3, 0_usize..40);
    (
        0_usize..6,
        1_usize..110,
        1_u32..60,
        leaves,
        class,
        (0_u32..3).prop_map(PrefixGroup),
        predicted,
    )
        .prop_map(
            |(after_steps, prompt, max_tokens, leaves_after, class, group, predicted)| Arrival {
                after_steps,
                prompt,
                max_tokens,
                leaves_after,
                class,
                group,
                predicted,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_arrives_and_leaves_no_cell_is_lost_and_every_answer_is_right(
        arrivals in prop::collection::vec(arrival(), 1..20),
        cells in 180_usize..360,
        parked_bytes in 0_usize..600,
        repeats in any::<bool>(),
        break_even_cells in prop::option::of(1_usize..3000),
        row_group in 1_usize..6,
        partitions in 1_u32..4,
        parallel_partitions in 1_u32..3,
        threads_per_partition in 1_u32..3,
        most_copied in prop::option::of(50_usize..200),
    ) {
        let threads = ThreadLayout { parallel_partitions, threads_per_partition };
        let most_copied = most_copied.unwrap_or(usize::MAX);
        let engine = || {
            let shape = Shape { cells, partitions, threads, row_group, break_even_cells, most_copied, ..SHAPE };
            if repeats { FakeEngine::forgetful(shape) } else { FakeEngine::new(shape) }
        };
        let mut scheduler = with_parked_bytes(engine(), parked_bytes);
        let mut clients = Vec::new();
        let mut asked: Vec<(PrefixGroup, Vec<Token>)> = Vec::new();
        for (seed, arrival) in arrivals.iter().enumerate() {
            for _ in 0..arrival.after_steps {
                step(&mut scheduler);
                clients.retain_mut(|(_, _, _, left): &mut (_, _, _, Option<usize>)| {
                    if let Some(steps) = left.as_mut() {
                        *steps = steps.saturating_sub(1);
                    }
                    *left != Some(0)
                });
            }
            // Half of them begin like others, and some are the same throughout.
            let prompt = if seed % 2 == 0 {
                let mut shared = prompt(7, 40);
                shared.truncate(arrival.prompt);
                shared.extend(prompt(seed % 4, arrival.prompt % 9));
                shared
            } else {
                prompt(seed % 6, arrival.prompt)
            };
            let (mut job, receiver) = job(&prompt, arrival.max_tokens);
            job.class = arrival.class;
            job.tenant.prefix_group = arrival.group;
            job.prediction = arrival.predicted.map(|right| {
                let mut tokens = engine().continuation(&prompt, right);
                tokens.extend([Token(1), Token(2), Token(3)]);
                tokens
            });
            scheduler.submit(job);
            let answer = engine().continuation(&prompt, arrival.max_tokens as usize);
            asked.push((arrival.group, [prompt, answer].concat()));
            clients.push((seed, arrival.max_tokens, receiver, arrival.leaves_after));
        }
        run_dry(&mut scheduler);
        prop_assert_eq!(scheduler.sequences.cache.live(), 0);
        for (seed, max_tokens, mut receiver, _) in clients {
            let (text, end) = received(&mut receiver);
            let (group, whole) = &asked[seed];
            let prompt = &whole[..whole.len() - max_tokens as usize];
            prop_assert_eq!(text, expected_of(&engine(), prompt, max_tokens));
            let Some(AnswerEvent::Finished(end)) = end else {
                panic!("no end: {end:?}");
            };
            let related = asked.iter().enumerate();
            let related = related.filter(|(other, (of, _))| *other != seed && of == group);
            let known = related.map(|(_, (_, other))| prefix::common_length(prompt, other)).max();
            prop_assert!(end.cached_tokens as usize <= known.unwrap_or(0));
        }
    }
}
