//! Model files with something wrong in them: each is loaded or refused in words, and none ends the process that
//! asks, hangs it, or takes memory without bounds.
//!
//! Mutants are made of the shipped model: bits of its header are flipped, counts, lengths, types and offsets are
//! replaced by hostile ones, values by others that are well formed, and the file is cut off. The same seed makes
//! the same mutants. They go the server's way: the header's checks, a trial in a child process, and what passes
//! is loaded and computes in another child, which must survive.
//!
//! `EDGELLM_MUTANTS=10000 cargo test --release --test mutants` makes more of them; `EDGELLM_MUTANT=17` makes that
//! one alone and says what became of it.

#![cfg(target_os = "linux")]
// Children and people read what is printed; a test binary has no outside for `pub` to reach.
#![allow(clippy::print_stdout, unreachable_pub)]

mod mutate;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use edgellm::engine::{
    Engine, EngineOptions, LlamaEngine, LoadWatch, ModelTrial, Row, SeqId, Token, load_model,
    load_tried_model, read_header, route_logs,
};

use mutate::Mutator;

const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
/// Names the file to a process that is to load it.
const FILE: &str = "EDGELLM_MUTANT_FILE";
const MUTANTS: u64 = 300;
/// A mutant of a model of 6 MB that takes longer, on a busy machine, hangs.
const LONGEST: Duration = Duration::from_secs(60);
/// Bytes of memory that reading headers may add to the process that asks.
const MOST_GROWTH: u64 = 64 << 20;

/// Started by the test below: loads the file as the server does after the trial, and computes with it.
#[test]
fn a_process_that_loads() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    route_logs();
    let trial = ModelTrial::of(env!("CARGO_BIN_EXE_edgellm").into(), None);
    match load_tried_model(Path::new(&path), &trial, &LoadWatch::default()) {
        Ok((weights, _)) => {
            let options = EngineOptions {
                cells: 512,
                sequences: 4,
                batch_rows: 64,
                threads: 1,
                threads_per_partition: 1,
                memory: 0,
                attention: None,
                deterministic: false,
            };
            match LlamaEngine::new(&weights, options) {
                Ok(mut engine) => {
                    let row = Row {
                        token: Token(1),
                        position: 0,
                        sequence: SeqId(0),
                        logits: true,
                    };
                    let decoded = engine.decode(&[row]);
                    println!("verdict loaded, {decoded:?}");
                }
                Err(error) => println!("verdict refused: {error}"),
            }
        }
        Err(error) => println!("verdict refused: {error}"),
    }
}

/// What becomes of a file.
fn verdict(path: &Path) -> Result<String, String> {
    // The server's own process reads the header, which is refused here or in the child.
    if let Err(error) = read_header(path) {
        return Ok(format!("refused: {error}"));
    }
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_process_that_loads", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let started = Instant::now();
    let id = child.id();
    let output = thread::spawn(move || {
        let status = child.wait_with_output();
        status.expect("it was started")
    });
    while !output.is_finished() {
        if started.elapsed() > LONGEST {
            let killed = Command::new("kill").args(["-9", &id.to_string()]).status();
            return Err(format!("it hangs ({killed:?})"));
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    let output = output.join().expect("no panic");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = said.lines().find_map(|line| line.split_once("verdict "));
    match verdict {
        Some((_, verdict)) if output.status.success() => Ok(verdict.to_owned()),
        _ => Err(format!(
            "{}: {said} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Whether a refusal says the file and what to do.
fn is_told(verdict: &str) -> bool {
    let Some(message) = verdict.strip_prefix("refused: ") else {
        return verdict.starts_with("loaded");
    };
    let remedies = [
        "compare",
        "convert",
        "pass a model",
        "needs less memory",
        "give the first one",
    ];
    message.contains(".gguf") && remedies.iter().any(|remedy| message.contains(remedy))
        || message.contains("needs less memory")
}

fn own_memory() -> u64 {
    edgellm::engine::status_bytes("VmHWM").expect("Linux")
}

#[test]
fn a_mutant_is_loaded_or_refused_in_words() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mutator = Mutator::of(&std::fs::read(KIOSK).expect("the shipped model"));
    let range = match number("EDGELLM_MUTANT") {
        Some(only) => only..only + 1,
        None => 0..number("EDGELLM_MUTANTS").unwrap_or(MUTANTS),
    };
    let before = own_memory();
    let next = std::sync::atomic::AtomicU64::new(range.start);
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let verdicts: Vec<(u64, String, Result<String, String>)> = thread::scope(|scope| {
        let work = |worker: usize| {
            let (folder, mutator, next, range) = (&folder, &mutator, &next, &range);
            move || {
                let mut verdicts = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end {
                        return verdicts;
                    }
                    let path = folder.path().join(format!("mutant-{worker}.gguf"));
                    let (what, bytes) = mutator.mutant(seed);
                    std::fs::write(&path, bytes).expect("written");
                    verdicts.push((seed, what, verdict(&path)));
                }
            }
        };
        let workers: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(work(worker)))
            .collect();
        let verdicts = workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"));
        verdicts.collect()
    });
    let grown = own_memory() - before;
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (seed, what, verdict) in &verdicts {
        let kind = match verdict {
            Ok(verdict) if verdict.starts_with("loaded") => "loaded",
            Ok(verdict) if verdict.contains("process of its own") => "refused, on trial",
            Ok(verdict) if is_told(verdict) => "refused",
            _ => "wrong",
        };
        *kinds.entry(kind).or_default() += 1;
        if kind == "wrong" || kind.ends_with("trial") || range.end - range.start == 1 {
            println!("{seed} ({what}): {verdict:?}");
        }
        if kind == "wrong" {
            wrong.push(*seed);
        }
    }
    println!("{kinds:?}, {} MiB more at most", grown >> 20);
    assert!(
        wrong.is_empty(),
        "mutants {wrong:?}; EDGELLM_MUTANT={} shows one",
        wrong[0]
    );
    assert!(grown < MOST_GROWTH, "{grown} bytes for headers");
    // Otherwise nothing was tried.
    if range.end - range.start > 100 {
        assert!(kinds["loaded"] > 0 && kinds["refused"] > 50, "{kinds:?}");
    }
}

/// The mutants' own base, so that what is refused is not refused for being what it is made of.
#[test]
fn a_mutant_without_a_change_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("same.gguf");
    let mutator = Mutator::of(&std::fs::read(KIOSK).expect("the shipped model"));
    std::fs::write(&path, mutator.unchanged()).expect("written");
    load_model(&path, &LoadWatch::default()).expect("loads");
}
