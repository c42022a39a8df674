//! Carries a script out against one server.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::chat::{self, AnswerFailure, AnswerTimings, Denial};
use super::http::ServerAddress;
use super::load::{Lane, LaneModel, LaneStart, LoadPart, LoadStep, Question};

/// A server under load.
#[derive(Debug, Clone)]
pub(super) struct BenchTarget {
    pub(super) server: ServerAddress,
    /// The same one, asked with the flood's key.
    pub(super) flooded: ServerAddress,
    pub(super) model: String,
    /// For loads of two models.
    pub(super) second_model: Option<String>,
    /// For one answer.
    pub(super) timeout: Duration,
    /// The time within which each answer is wanted.
    pub(super) deadline: Option<Duration>,
}

/// What became of one request.
#[derive(Debug)]
pub(super) struct RequestOutcome {
    pub(super) part: LoadPart,
    /// Of the script.
    pub(super) step: usize,
    pub(super) clock: AnswerTimings,
    pub(super) end: Result<AnswerEnd, AnswerFailure>,
}

/// How an answer ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerEnd {
    Whole,
    /// By us, because it was in the background.
    Cut,
}

/// How long a flood rests when it was refused. The test is of the server, not of how many refusals two programs on one
/// machine can exchange.
const REST_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// Runs every step; `progress` hears of every request that has ended, but of those of a flood, which have no number.
///
/// # Errors
/// The first denial, at once: all other requests would be denied as well.
pub(super) async fn play(
    target: &BenchTarget,
    script: &[LoadStep],
    progress: &dyn Fn(),
) -> Result<Vec<RequestOutcome>, Denial> {
    let mut outcomes = Vec::new();
    for (number, step) in script.iter().enumerate() {
        run_step(target, number, step, &mut |outcome| {
            if !step_floods(step, outcome.part) {
                progress();
            }
            outcomes.push(outcome);
        })
        .await?;
    }
    Ok(outcomes)
}

async fn run_step(
    target: &BenchTarget,
    number: usize,
    step: &LoadStep,
    done: &mut dyn FnMut(RequestOutcome),
) -> Result<(), Denial> {
    let sync = StepSync::new(step);
    let (mut foreground, mut background) = (JoinSet::new(), JoinSet::new());
    let began = Instant::now();
    for lane in step {
        let running = run_lane(target.clone(), number, lane.clone(), sync.clone(), began);
        if lane.background {
            background.spawn(running);
        } else {
            foreground.spawn(running);
        }
    }
    loop {
        if foreground.is_empty() {
            sync.foreground_done.send_replace(true);
        }
        let ended = tokio::select! {
            Some(ended) = foreground.join_next() => ended,
            Some(ended) = background.join_next() => ended,
            else => return Ok(()),
        };
        // Lanes are aborted only below, where nobody waits for them any more.
        let outcomes = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        for outcome in outcomes {
            if let Err(AnswerFailure::Denied(denial)) = outcome.end {
                return Err(denial);
            }
            done(outcome);
        }
    }
}

/// What the lanes of a step know of each other.
#[derive(Debug, Clone)]
struct StepSync {
    /// Background lanes that have not spoken yet.
    silent: Arc<watch::Sender<usize>>,
    /// Whether the background is to stop.
    foreground_done: Arc<watch::Sender<bool>>,
}

impl StepSync {
    fn new(step: &LoadStep) -> Self {
        let silent = step.iter().filter(|lane| lane.background).count();
        Self {
            silent: Arc::new(watch::Sender::new(silent)),
            foreground_done: Arc::new(watch::Sender::new(false)),
        }
    }

    async fn background_speaks(&self) {
        // Its sender is in `self`: it cannot be gone.
        let _ = self
            .silent
            .subscribe()
            .wait_for(|silent| *silent == 0)
            .await;
    }

    async fn foreground_ended(&self) {
        let _ = self
            .foreground_done
            .subscribe()
            .wait_for(|down| *down)
            .await;
    }
}

/// Counts a background lane as speaking, at its first text or at its end, whichever is first.
struct FirstTextSignal(Option<Arc<watch::Sender<usize>>>);

impl FirstTextSignal {
    fn speak(&mut self) {
        if let Some(silent) = self.0.take() {
            silent.send_modify(|silent| *silent -= 1);
        }
    }
}

impl Drop for FirstTextSignal {
    fn drop(&mut self) {
        self.speak();
    }
}

/// Whether requests of this part come again and again.
fn step_floods(step: &LoadStep, part: LoadPart) -> bool {
    step.iter().any(|lane| lane.floods && lane.part == part)
}

async fn ask(
    target: &BenchTarget,
    server: &ServerAddress,
    lane: &Lane,
    question: &Question,
    clock: &mut AnswerTimings,
    spoke: impl FnOnce(),
) -> Result<(), AnswerFailure> {
    let model = match lane.model {
        LaneModel::First => &target.model,
        LaneModel::Second => target.second_model.as_ref().unwrap_or(&target.model),
    };
    let body = question.to_json(model).to_string();
    if question.is_for_vectors() {
        chat::embed(server, body, clock, spoke).await
    } else {
        chat::ask(server, body, target.deadline, clock, spoke).await
    }
}

async fn run_lane(
    target: BenchTarget,
    step: usize,
    lane: Lane,
    sync: StepSync,
    began: Instant,
) -> Vec<RequestOutcome> {
    match lane.start {
        LaneStart::After(delay) => sleep_until(began + delay).await,
        LaneStart::WhenBackgroundSpeaks => sync.background_speaks().await,
    }
    let mut voice = FirstTextSignal(lane.background.then(|| Arc::clone(&sync.silent)));
    let server = if lane.floods {
        &target.flooded
    } else {
        &target.server
    };
    let mut outcomes = Vec::new();
    for question in lane.requests() {
        let mut clock = AnswerTimings::start();
        let spoke = || voice.speak();
        let asking = ask(&target, server, &lane, &question, &mut clock, spoke);
        let end = tokio::select! {
            answered = timeout(target.timeout, asking) => match answered {
                Ok(answered) => answered.map(|()| AnswerEnd::Whole),
                Err(_) => Err(AnswerFailure::TimedOut(target.timeout)),
            },
            () = sync.foreground_ended(), if lane.background => Ok(AnswerEnd::Cut),
        };
        let is_last = matches!(end, Err(AnswerFailure::Denied(_)) | Ok(AnswerEnd::Cut));
        let is_refused = matches!(end, Err(AnswerFailure::Refused { .. }));
        outcomes.push(RequestOutcome {
            part: lane.part,
            step,
            clock,
            end,
        });
        if is_last {
            break;
        }
        if lane.floods && is_refused {
            sleep(REST_AFTER_REFUSAL).await;
        }
    }
    outcomes
}
