//! Carries a script out against one server.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::chat::{self, Clock, Failure};
use super::http::Server;
use super::load::{Lane, Part, Start, Step};

/// A server under load.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) server: Server,
    pub(super) model: String,
    /// For one answer.
    pub(super) timeout: Duration,
}

/// What became of one request.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) part: Part,
    /// Of the script.
    pub(super) step: usize,
    pub(super) clock: Clock,
    pub(super) end: Result<End, Failure>,
}

/// How an answer ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// By us, because it was in the background.
    Cut,
}

/// Runs every step; `progress` hears of every request that has ended.
pub(super) async fn play(target: &Target, script: &[Step], progress: &dyn Fn()) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (number, step) in script.iter().enumerate() {
        run_step(target, number, step, &mut |outcome| {
            progress();
            outcomes.push(outcome);
        })
        .await;
    }
    outcomes
}

async fn run_step(target: &Target, number: usize, step: &Step, done: &mut dyn FnMut(Outcome)) {
    let stage = Stage::new(step);
    let (mut foreground, mut background) = (JoinSet::new(), JoinSet::new());
    let began = Instant::now();
    for lane in step {
        let running = run_lane(target.clone(), number, lane.clone(), stage.clone(), began);
        if lane.background {
            background.spawn(running);
        } else {
            foreground.spawn(running);
        }
    }
    for lanes in [&mut foreground, &mut background] {
        while let Some(ended) = lanes.join_next().await {
            // Nobody aborts a lane.
            let outcomes = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
            outcomes.into_iter().for_each(&mut *done);
        }
        // After the first of the two: the foreground has ended.
        stage.curtain.send_replace(true);
    }
}

/// What the lanes of a step know of each other.
#[derive(Debug, Clone)]
struct Stage {
    /// Background lanes that have not spoken yet.
    silent: Arc<watch::Sender<usize>>,
    /// Whether the background is to stop.
    curtain: Arc<watch::Sender<bool>>,
}

impl Stage {
    fn new(step: &Step) -> Self {
        let silent = step.iter().filter(|lane| lane.background).count();
        Self {
            silent: Arc::new(watch::Sender::new(silent)),
            curtain: Arc::new(watch::Sender::new(false)),
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
        let _ = self.curtain.subscribe().wait_for(|down| *down).await;
    }
}

/// Counts a background lane as speaking, at its first text or at its end, whichever is first.
struct Voice(Option<Arc<watch::Sender<usize>>>);

impl Voice {
    fn speak(&mut self) {
        if let Some(silent) = self.0.take() {
            silent.send_modify(|silent| *silent -= 1);
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.speak();
    }
}

async fn run_lane(
    target: Target,
    step: usize,
    lane: Lane,
    stage: Stage,
    began: Instant,
) -> Vec<Outcome> {
    match lane.start {
        Start::After(delay) => sleep_until(began + delay).await,
        Start::WhenBackgroundSpeaks => stage.background_speaks().await,
    }
    let mut voice = Voice(lane.background.then(|| Arc::clone(&stage.silent)));
    let mut outcomes = Vec::new();
    for question in &lane.questions {
        let body = question.to_json(&target.model).to_string();
        let mut clock = Clock::start();
        let asking = chat::ask(&target.server, body, &mut clock, || voice.speak());
        let end = tokio::select! {
            answered = timeout(target.timeout, asking) => match answered {
                Ok(answered) => answered.map(|()| End::Whole),
                Err(_) => Err(Failure::TimedOut(target.timeout)),
            },
            () = stage.foreground_ended(), if lane.background => Ok(End::Cut),
        };
        outcomes.push(Outcome {
            part: lane.part,
            step,
            clock,
            end,
        });
    }
    outcomes
}
