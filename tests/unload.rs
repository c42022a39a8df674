//! A model that stops gives its memory back, whoever still holds an answer of it.
//!
//! A test program of its own, with one test: what it measures is the memory of its whole process.

#![cfg(target_os = "linux")]

mod small_model;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgellm::admission::Drain;
use edgellm::engine::Vocabulary;
use edgellm::governor::GovernorHandle;
use edgellm::grammar::TrialCompiler;
use edgellm::pool::{
    GenerationModel, LoadedModel, ModelSpec, ModelTerms, Pool, PoolNeighbours, PoolOptions,
    VersionState,
};
use edgellm::scheduler::{AnswerEvent, EventReceiver, GenerationJob};
use edgellm::telemetry::Metrics;
use tokio::runtime::Runtime;

const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
/// Longer than anything takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(20);
/// Blocks of the model that is stopped: some 210 MB of weights, most of which is not vocabulary.
const BLOCKS: u32 = 192;

/// A pool of one model, which is loaded.
struct Served {
    pool: Pool,
    loaded: Arc<GenerationModel>,
}

impl Served {
    fn start(runtime: &Runtime, path: &Path) -> Self {
        let spec = ModelSpec {
            context: 1024,
            max_running: 4,
            max_batch_tokens: 128,
            ..small_model::spec("model", path)
        };
        let neighbours = PoolNeighbours {
            metrics: Metrics::new().expect("metrics"),
            drain: Drain::default(),
            governed: GovernorHandle::default(),
            trial_compiler: TrialCompiler::of(env!("CARGO_BIN_EXE_edgellm").into()),
        };
        let options = PoolOptions {
            trial_program: Some(env!("CARGO_BIN_EXE_edgellm").into()),
            ..PoolOptions::of(vec![(spec, ModelTerms::default())])
        };
        let pool = Pool::start(options, neighbours).expect("a thread");
        let version = pool.load(&pool.entries()[0]);
        let reached = version.reaches(|state| matches!(state, VersionState::Ready(_)));
        let VersionState::Ready(LoadedModel::Generation(loaded)) = runtime.block_on(reached) else {
            panic!("it does not load: {:?}", pool.entries()[0].state());
        };
        Self { pool, loaded }
    }

    /// Stops the model while a client has begun to read an answer of it.
    fn begin_and_stop(&self) -> EventReceiver {
        let mut answer = self.ask();
        let has_begun = || matches!(answer.try_recv(), Some(AnswerEvent::Text(_)));
        eventually(|| "begun".to_owned(), has_begun);
        self.pool.stop();
        answer
    }

    /// An answer that goes on until the cells are full.
    fn ask(&self) -> EventReceiver {
        let prompt = self.loaded.tokenizer.encode("How much is the oat milk?");
        let (mut job, answer) = GenerationJob::greedy(prompt, 1000);
        job.ignore_end = true;
        self.loaded.submit(job).expect("the scheduler runs");
        answer
    }
}

/// Memory of this process that is in use, in bytes; pages of mapped files count.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.expect("a line").parse().expect("a number");
    kilobytes << 10
}

fn eventually(what: impl Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not {} in {PATIENCE:?}", what());
        std::thread::park_timeout(GLANCE);
    }
}

#[test]
fn a_stopped_model_gives_its_memory_back_while_a_client_still_reads_its_answer() {
    edgellm::engine::route_logs();
    // As the server does: without it glibc keeps what is free at the end of a thread's heap.
    edgellm::engine::return_large_blocks();
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep.gguf");
    deep::write(&path, BLOCKS);
    // Code, tables and threads that stay come with the first model and the first answer of a process.
    Served::start(&runtime, Path::new(KIOSK)).begin_and_stop();

    let before = resident();
    let served = Served::start(&runtime, &path);
    let added = resident().saturating_sub(before);
    let weights = served.loaded.tokenizer.info().size_bytes;
    assert!(added > weights, "{added} bytes for {weights} of weights");
    let mut answer = served.begin_and_stop();

    let kept = || resident().saturating_sub(before);
    let most = added / 20;
    eventually(
        || format!("given back: of {added} bytes {} are kept", kept()),
        || kept() <= most,
    );

    // The client reads on, and what it reads becomes text.
    let rest = std::iter::from_fn(|| answer.try_recv());
    assert!(
        matches!(rest.last(), Some(AnswerEvent::Failed(_))),
        "it was not finished"
    );
    let tokenizer = &served.loaded.tokenizer;
    assert_eq!(
        tokenizer.detokenize(&tokenizer.encode("oat milk")),
        "oat milk"
    );
}

/// The shipped model with more blocks, which are copies of its first one.
mod deep {
    use std::path::Path;

    use super::KIOSK;

    const ALIGNMENT: usize = 32;

    pub(super) fn write(path: &Path, blocks: u32) {
        let kiosk = std::fs::read(KIOSK).expect("the shipped model");
        let (key, first) = (find(&kiosk, b"qwen3.block_count"), b"token_embd.weight");
        // Behind the key stands the type of its value.
        let count = key + b"qwen3.block_count".len() + 4;
        // Before a name stands its length.
        let start = find(&kiosk, first) - 8;
        let (tensors, end) = tensors(&kiosk, start);
        let data = &kiosk[end.next_multiple_of(ALIGNMENT)..];
        let place = |name: &[u8]| tensors.iter().position(|tensor| tensor.name == name);
        let [first, next] = [&b"blk.0.attn_norm.weight"[..], b"blk.1.attn_norm.weight"]
            .map(|name| place(name).expect("a block"));
        let block = &tensors[first..next];
        let [from, to] = [first, next].map(|index| tensors[index].offset);
        let bytes =
            &data[usize::try_from(from).expect("small")..usize::try_from(to).expect("small")];

        let there = u32::from_le_bytes(kiosk[count..count + 4].try_into().expect("4 bytes"));
        let added = blocks - there;
        let total = tensors.len() as u64 + u64::from(added) * block.len() as u64;
        let mut out = kiosk[..end].to_vec();
        out[8..16].copy_from_slice(&total.to_le_bytes());
        out[count..count + 4].copy_from_slice(&blocks.to_le_bytes());
        for index in 0..added {
            let at = data.len() as u64 + u64::from(index) * bytes.len() as u64;
            for tensor in block {
                tensor.write(there + index, at + tensor.offset - from, &mut out);
            }
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(data);
        out.extend(bytes.repeat(added as usize));
        std::fs::write(path, out).expect("written");
    }

    struct Tensor<'g> {
        name: &'g [u8],
        /// Dimensions and type, as they stand in the file.
        shape: &'g [u8],
        offset: u64,
    }

    impl Tensor<'_> {
        /// The same of another block.
        fn write(&self, block: u32, offset: u64, out: &mut Vec<u8>) {
            let name = std::str::from_utf8(self.name).expect("text");
            let name = name.replace("blk.0.", &format!("blk.{block}."));
            out.extend((name.len() as u64).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend(self.shape);
            out.extend(offset.to_le_bytes());
        }
    }

    /// Those whose list begins at `at`, and where it ends.
    fn tensors(gguf: &[u8], mut at: usize) -> (Vec<Tensor<'_>>, usize) {
        let count = number(gguf, 8);
        let list = (0..count)
            .map(|_| {
                let length = usize::try_from(number(gguf, at)).expect("small");
                let name = &gguf[at + 8..at + 8 + length];
                let start = at + 8 + length;
                let dimensions = usize::from(gguf[start]);
                let end = start + 4 + 8 * dimensions + 4;
                at = end + 8;
                Tensor {
                    name,
                    shape: &gguf[start..end],
                    offset: number(gguf, end),
                }
            })
            .collect();
        (list, at)
    }

    fn number(gguf: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(gguf[at..at + 8].try_into().expect("8 bytes"))
    }

    fn find(gguf: &[u8], text: &[u8]) -> usize {
        let found = gguf.windows(text.len()).position(|bytes| bytes == text);
        found.expect("it stands there")
    }
}
