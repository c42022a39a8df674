//! Adapters over the real engine, on a thread as a model has it.

use std::future::poll_fn;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::engine::test_adapters::write;
use crate::engine::{EngineOptions, LoadWatch, Vocabulary, load_model};
use crate::grammar::{Grammars, TrialCompiler};
use crate::pool::job_sender::JobSender;
use crate::prompt::Prompter;
use crate::scheduler::{AnswerEvent, EventReceiver, GenerationJob, SchedulerLimits};
use crate::telemetry::Metrics;
use crate::worker::{self, Heartbeat, WorkError};

const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
/// Enough to change what is answered.
const STRENGTH: f32 = 1.0;
const QUESTION: &str = "How much is the oat milk, and where do I find it?";

/// A model on its thread, and a folder for adapters.
struct Served {
    model: Arc<GenerationModel>,
    folder: TempDir,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// With an adapter that changes nothing, one that does, and a file that is none.
    fn start(deterministic: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        write(&file("zero"), 1, 0.0);
        write(&file("strong"), 2, STRENGTH);
        std::fs::write(file("broken"), "GGUF, or not").expect("written");
        let names = ["zero", "strong", "broken"];
        let configured = names.map(|name| (name.to_owned(), file(name))).to_vec();
        let (sender, started) = mpsc::channel();
        let run = move || run(&configured, deterministic, &sender);
        let thread = Some(thread::spawn(run));
        let model = started.recv().expect("it loads");
        Self {
            model,
            folder,
            thread,
        }
    }

    fn file(&self, name: &str, seed: usize) -> PathBuf {
        let path = self.folder.path().join(name);
        write(&path, seed, STRENGTH);
        path
    }

    fn ask(&self, adapter: Option<AdapterId>) -> EventReceiver {
        let prompt = self.model.tokenizer.encode(QUESTION);
        let (mut job, answer) = GenerationJob::greedy(prompt, 24);
        job.ignore_end = true;
        job.adapter = adapter;
        self.model.submit(job).expect("the scheduler runs");
        answer
    }

    fn named(&self, name: &str) -> EventReceiver {
        let id = self.model.adapter(name);
        self.ask(Some(id.expect("it is loaded")))
    }

    fn names(&self) -> Vec<String> {
        let adapters = self.model.adapters().into_iter();
        adapters.map(|adapter| adapter.name).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.model.jobs.close();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|end| end.is_ok()) || thread::panicking());
    }
}

/// What the thread of a model does.
fn run(
    configured: &[(String, PathBuf)],
    deterministic: bool,
    started: &mpsc::Sender<Arc<GenerationModel>>,
) {
    let (weights, tokenizer) = load_model(KIOSK.as_ref(), &LoadWatch::default()).expect("it ships");
    let tokenizer = Arc::new(tokenizer);
    let options = EngineOptions {
        cells: 1024,
        sequences: 16,
        batch_rows: 128,
        threads: 2,
        threads_per_partition: 1,
        memory: 128 << 20,
        attention: None,
        deterministic,
    };
    let engine = LlamaEngine::new(&weights, options).expect("contexts");
    let limits = SchedulerLimits {
        max_running: 4,
        target_inter_token: Duration::from_millis(100),
        speculation: true,
        parked_bytes: 1 << 20,
        deterministic,
    };
    let metrics = Metrics::new().expect("metrics").for_model("kiosk");
    let mut scheduler = Scheduler::new(engine, Arc::clone(&tokenizer) as _, limits, metrics);
    let (jobs, queue) = JobSender::new(64 + MOST_CHANGES);
    let info = weights.info();
    let template = info.chat_template.as_deref();
    let model = GenerationModel {
        grammars: Grammars::new(
            Arc::clone(&tokenizer),
            TrialCompiler::of("/bin/false".into()),
        ),
        prompter: Prompter::new(template, &info.bos_text, &info.eos_text),
        tokenizer,
        cells: 1024,
        load: scheduler.load_board(),
        adapters: Adapters::load("kiosk", configured, weights.adapter_base(), &mut scheduler),
        jobs,
    };
    started.send(Arc::new(model)).expect("somebody waits");
    worker::run(scheduler, &queue, &Heartbeat::default(), &|| false);
}

async fn text(mut answer: EventReceiver) -> Result<String, WorkError> {
    let mut text = String::new();
    while let Some(event) = poll_fn(|context| answer.poll_recv(context)).await {
        match event {
            AnswerEvent::Text(more) => text.push_str(&more.text),
            AnswerEvent::Finished(_) => return Ok(text),
            AnswerEvent::Failed(error) => return Err(error),
            AnswerEvent::Prompt(_) => {}
        }
    }
    panic!("broken off behind {text:?}");
}

#[tokio::test]
async fn each_adapter_answers_in_its_own_way_and_one_that_changes_nothing_as_the_model() {
    for deterministic in [false, true] {
        let served = Served::start(deterministic);
        assert_eq!(served.names(), ["strong", "zero"]);
        let base = text(served.ask(None)).await.expect("an answer");
        let strong = text(served.named("strong")).await.expect("an answer");
        assert_ne!(strong, base);
        assert_eq!(text(served.named("zero")).await, Ok(base.clone()));
        if !deterministic {
            continue;
        }
        // All at once, several times: each finds what its own has computed.
        for _ in 0..3 {
            let all = [
                None,
                served.model.adapter("strong"),
                served.model.adapter("zero"),
            ];
            let [first, second, third] = all.map(|adapter| served.ask(adapter));
            assert_eq!(text(first).await, Ok(base.clone()));
            assert_eq!(text(second).await, Ok(strong.clone()));
            assert_eq!(text(third).await, Ok(base.clone()));
        }
    }
}

#[tokio::test]
async fn an_adapter_that_cannot_be_loaded_is_absent_and_its_reason_is_kept() {
    let served = Served::start(false);
    assert_eq!(served.model.adapter("broken"), None);
    let reason = served.model.adapter_failure("broken").expect("a reason");
    assert!(reason.to_string().contains("broken"), "{reason}");
    assert!(served.model.adapter_failure("zero").is_none());
    assert!(served.model.adapter_failure("nobody").is_none());
    // A good file under the same name takes its place.
    let path = served.file("broken", 3);
    served
        .model
        .add_adapter("broken", &path)
        .await
        .expect("added");
    assert!(served.model.adapter_failure("broken").is_none());
    text(served.named("broken")).await.expect("an answer");
}

#[tokio::test]
async fn adapters_come_and_go_while_requests_run() {
    let served = Served::start(true);
    let model = &served.model;
    let base = text(served.ask(None)).await.expect("an answer");
    let strong = text(served.named("strong")).await.expect("an answer");
    let path = served.file("hot", 2);
    for _ in 0..3 {
        let running = [served.ask(None), served.named("strong")];
        model.add_adapter("hot", &path).await.expect("added");
        let taken = model.add_adapter("hot", &path).await;
        assert!(matches!(taken, Err(AdapterChangeError::NameTaken(_))));
        let id = model.adapter("hot").expect("it is loaded");
        assert_eq!(text(served.ask(Some(id))).await, Ok(strong.clone()));
        let last = served.ask(Some(id));
        let removed = model.remove_adapter("hot").await;
        assert!(removed.expect("the thread is there"));
        assert_eq!(model.adapter("hot"), None);
        // It had joined when the adapter was to go, or it had not.
        assert!(matches!(
            text(last).await,
            Ok(_) | Err(WorkError::AdapterRemoved)
        ));
        let late = served.ask(Some(id));
        assert_eq!(text(late).await, Err(WorkError::AdapterRemoved));
        let [first, second] = running;
        assert_eq!(text(first).await, Ok(base.clone()));
        assert_eq!(text(second).await, Ok(strong.clone()));
    }
    assert!(
        !model
            .remove_adapter("hot")
            .await
            .expect("the thread is there")
    );
    let missing = served.folder.path().join("missing.gguf");
    let error = model
        .add_adapter("new", &missing)
        .await
        .expect_err("no file");
    assert!(error.to_string().contains("missing.gguf"), "{error}");
}
