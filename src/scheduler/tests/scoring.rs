//! Prompts whose tokens are scored.

use super::*;

/// What a lone run says of its prompt.
fn scores(shape: Shape, prompt: &[Token]) -> Vec<f32> {
    let (mut job, mut events) = job(prompt, 0);
    job.prompt_logprobs = Some(1);
    let mut scheduler = scheduler(shape);
    scheduler.submit(job);
    run_dry(&mut scheduler);
    told(&mut events)
}

fn told(events: &mut EventReceiver) -> Vec<f32> {
    let Some(AnswerEvent::Prompt(scores)) = events.try_recv() else {
        panic!("no scores");
    };
    scores.iter().map(|score| score.logprob).collect()
}

#[test]
fn every_token_but_the_first_is_scored_before_the_answer() {
    let prompt = prompt(1, 30);
    let (mut job, mut events) = job(&prompt, 5);
    job.prompt_logprobs = Some(2);
    let mut scheduler = scheduler(SHAPE);
    scheduler.submit(job);
    run_dry(&mut scheduler);
    let Some(AnswerEvent::Prompt(scores)) = events.try_recv() else {
        panic!("no scores");
    };
    let tokens: Vec<Token> = scores.iter().map(|score| score.token).collect();
    assert_eq!(tokens, prompt[1..]);
    assert!(scores.iter().all(|score| score.top.len() == 2));
    let (text, end) = received(&mut events);
    assert_eq!(text, expected(&prompt, 5));
    assert!(matches!(end, Some(AnswerEvent::Finished(_))));
}

#[test]
fn without_an_answer_the_prompt_alone_is_computed() {
    let (job, mut events) = job(&prompt(1, 30), 0);
    let mut scheduler = scheduler(SHAPE);
    scheduler.submit(job);
    run_dry(&mut scheduler);
    let (text, end) = received(&mut events);
    assert_eq!(text, "");
    let Some(AnswerEvent::Finished(finished)) = end else {
        panic!("no end: {end:?}");
    };
    assert_eq!(finished.generated_tokens, 0);
    assert_eq!(finished.reason, FinishReason::Length);
}

/// A few rows a step, a cache that is too small for all, and prefixes that others
/// have computed: the scores are the same.
#[test]
fn scores_do_not_depend_on_who_else_is_there() {
    let shape = Shape {
        cells: 128,
        batch_rows: 16,
        ..SHAPE
    };
    let mut scheduler = scheduler(shape);
    // Half of it is what the engine expects, half is not.
    let mut prompt = prompt(2, 10);
    prompt.extend(FakeEngine::new(SHAPE).continuation(&prompt, 10));
    let mut scored = Vec::new();
    for _ in 0..3 {
        let (mut job, events) = job(&prompt, 60);
        job.prompt_logprobs = Some(0);
        scheduler.submit(job);
        scored.push(events);
        let (job, _left) = super::job(&prompt, 60);
        scheduler.submit(job);
    }
    run_dry(&mut scheduler);
    assert!(
        scheduler.metrics.preemptions.get() > 0,
        "the case is not hit"
    );
    let alone = scores(shape, &prompt);
    assert!(alone[0] < alone[15]);
    for events in &mut scored {
        assert_eq!(told(events), alone);
        assert_eq!(received(events).0, expected(&prompt, 60));
    }
}
