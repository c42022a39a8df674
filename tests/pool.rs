//! Models are loaded and unloaded under fire, and no request is lost.

#![cfg(target_os = "linux")]

mod small_model;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use edgellm::admission::{Drain, Tenant};
use edgellm::engine::Vocabulary;
use edgellm::governor::GovernorHandle;
use edgellm::grammar::TrialCompiler;
use edgellm::pool::{
    EnterError, LoadedModel, ModelEntry, ModelState, ModelTerms, Pool, PoolNeighbours, PoolOptions,
    VersionEnd, Visit,
};
use edgellm::scheduler::{AnswerEvent, GenerationJob};
use edgellm::telemetry::Metrics;

const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
/// How long there is fire.
const FIRE: Duration = Duration::from_secs(8);
/// Longer than anything takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(120);

struct Fire {
    pool: Pool,
    drain: Drain,
    is_over: AtomicBool,
    answered: AtomicUsize,
    cancelled: AtomicUsize,
    /// For a number that looks random.
    state: AtomicU64,
}

impl Fire {
    fn random(&self, below: usize) -> usize {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bits = self.state.fetch_add(step, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % below as u64).expect("small")
    }

    fn any_model(&self) -> Arc<ModelEntry> {
        let entries = self.pool.entries();
        Arc::clone(&entries[self.random(entries.len())])
    }

    /// Asks one model after the other; some clients leave in the middle. Whoever stays gets all of its answer.
    async fn ask(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let entry = self.any_model();
            let leaves = self.random(4) == 0;
            let asked = self.answer(&entry);
            if leaves {
                let moment = Duration::from_micros(self.random(20_000) as u64);
                let _ = tokio::time::timeout(moment, asked).await;
                self.cancelled.fetch_add(1, Ordering::Relaxed);
            } else {
                asked.await;
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn answer(&self, entry: &ModelEntry) {
        let visit = Visit {
            tenant: Tenant::default(),
            slots: 1,
            drain_guard: self.drain.enter(),
            deadline: None,
        };
        let mut entered = match entry.enter(visit.clone()).await {
            Ok(entered) => entered,
            // It was unloaded while it was loading and this waited: the client is told to ask again.
            Err(EnterError::Ended(VersionEnd::Unloaded)) => return,
            Err(error) => panic!("{}: {error:?}", entry.id),
        };
        let LoadedModel::Generation(loaded) = entered.loaded else {
            unreachable!("it generates");
        };
        let prompt = loaded.tokenizer.encode("How much is the oat milk?");
        let (mut job, mut answer) = GenerationJob::greedy(prompt, 6);
        job.ignore_end = true;
        job.place = entered.slots.pop();
        loaded.submit(job).expect("who is inside is served");
        loop {
            match std::future::poll_fn(|context| answer.poll_recv(context)).await {
                Some(AnswerEvent::Finished(end)) => {
                    assert_eq!(end.generated_tokens, 6);
                    return;
                }
                Some(AnswerEvent::Failed(error)) => panic!("{}: {error}", entry.id),
                Some(_) => {}
                None => panic!("{}: lost", entry.id),
            }
        }
    }

    /// Loads and unloads what it likes.
    async fn command(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let entry = self.any_model();
            if self.random(2) == 0 {
                self.pool.load(&entry);
            } else {
                let _ = self.pool.unload(&entry);
            }
            tokio::time::sleep(Duration::from_micros(self.random(30_000) as u64)).await;
        }
    }
}

#[test]
fn models_are_loaded_and_unloaded_under_fire_and_no_request_is_lost() {
    edgellm::engine::route_logs();
    edgellm::engine::return_large_blocks();
    let ids = ["a", "b", "c", "d"];
    let models = ids.map(|id| {
        (
            small_model::spec(id, Path::new(KIOSK)),
            ModelTerms::default(),
        )
    });
    let drain = Drain::default();
    let neighbours = PoolNeighbours {
        metrics: Metrics::new().expect("metrics"),
        drain: drain.clone(),
        governed: GovernorHandle::default(),
        trial_compiler: TrialCompiler::of(env!("CARGO_BIN_EXE_edgellm").into()),
    };
    let one = models[0].0.expected_bytes().expect("a sound file");
    let options = PoolOptions {
        // Two fit and a third does not.
        budget: Some(one * 5 / 2),
        trial_program: Some(env!("CARGO_BIN_EXE_edgellm").into()),
        ..PoolOptions::of(models.to_vec())
    };
    let fire = Arc::new(Fire {
        pool: Pool::start(options, neighbours).expect("a thread"),
        drain,
        is_over: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        cancelled: AtomicUsize::new(0),
        state: AtomicU64::new(7),
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let fire = Arc::clone(&fire);
            tasks.spawn(async move { fire.ask().await });
        }
        let commanding = Arc::clone(&fire);
        tasks.spawn(async move { commanding.command().await });
        tokio::time::sleep(FIRE).await;
        fire.is_over.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(PATIENCE, async {
            while let Some(task) = tasks.join_next().await {
                task.expect("nobody panics");
            }
        });
        ended.await.expect("nobody waits for ever");
    });
    let [answered, cancelled] =
        [&fire.answered, &fire.cancelled].map(|count| count.load(Ordering::Relaxed));
    assert!(answered > 20 && cancelled > 5, "{answered} {cancelled}");

    let began = Instant::now();
    fire.pool.stop();
    assert!(began.elapsed() < PATIENCE);
    for entry in fire.pool.entries().iter() {
        let state = entry.state();
        assert!(matches!(state, ModelState::Cold), "{state:?}");
    }
}

#[test]
fn a_pool_that_hangs_is_seen_from_outside_and_one_that_waits_is_no_such() {
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = Arc::clone(&hangs);
    let options = PoolOptions {
        available: Box::new(move || {
            while hanging.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            None
        }),
        ..PoolOptions::of(Vec::new())
    };
    let neighbours = PoolNeighbours {
        metrics: Metrics::new().expect("metrics"),
        drain: Drain::default(),
        governed: GovernorHandle::default(),
        trial_compiler: TrialCompiler::of(env!("CARGO_BIN_EXE_edgellm").into()),
    };
    let pool = Pool::start(options, neighbours).expect("a thread");
    let eventually = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "never {what}");
            std::thread::yield_now();
        }
    };
    let second = Duration::from_secs(1);
    eventually("busy for longer than its looks are apart", &|| {
        let loops = pool.busy_loops();
        let manager = loops.iter().find(|one| one.name == "the loading of models");
        manager.is_some_and(|one| one.busy_for > second)
    });
    hangs.store(false, Ordering::Relaxed);
    eventually("at rest", &|| pool.busy_loops().is_empty());
    pool.stop();
}
