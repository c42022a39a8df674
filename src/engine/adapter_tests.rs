//! Adapters in the real engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::gguf_editor::KIOSK;
use super::test_adapters::{header, numbers, write, write_merged};
use super::*;

/// What the adapters of these tests do to the shipped model is plain to see, and it still computes.
const STRENGTH: f32 = 0.1;

fn options() -> EngineOptions {
    EngineOptions {
        cells: 1024,
        sequences: 8,
        batch_rows: 128,
        threads: 1,
        threads_per_partition: 1,
        memory: 128 << 20,
        attention: None,
        deterministic: false,
    }
}

fn weights(path: &Path) -> Weights {
    let (weights, _) = load_model(path, &LoadWatch::default()).expect("it loads");
    weights
}

/// Writes an adapter and opens it.
fn adapter(weights: &Weights, seed: usize, strength: f32) -> AdapterFile {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    write(&path, seed, strength);
    AdapterFile::open(&path, weights.adapter_base()).expect("an adapter")
}

fn add(engine: &mut LlamaEngine<'_>, weights: &Weights, seed: usize, strength: f32) -> u32 {
    let partition = engine.add_adapter(adapter(weights, seed, strength));
    u32::try_from(partition.expect("added")).expect("small")
}

/// Some sentences of its vocabulary's.
fn prompt() -> Vec<Token> {
    (0..40).map(|place| Token(300 + place * 13 % 700)).collect()
}

fn rows(sequence: SeqId, position: usize, tokens: &[Token]) -> Vec<Row> {
    let row = |(place, token): (usize, &Token)| Row {
        token: *token,
        position: u32::try_from(position + place).expect("small"),
        sequence,
        logits: place + 1 == tokens.len(),
    };
    tokens.iter().enumerate().map(row).collect()
}

fn best(logits: &[f32]) -> Token {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    Token(i32::try_from(best.expect("a vocabulary")).expect("small"))
}

/// The logits behind the prompt, and the greedy answer to it in a partition.
fn answer(engine: &mut LlamaEngine<'_>, partition: u32, length: usize) -> (Vec<f32>, Vec<Token>) {
    let sequence = SeqId(partition * engine.shape().sequences + 1);
    let mut tokens = prompt();
    let mut computed = 0;
    let mut first = Vec::new();
    for _ in 0..length {
        let next = rows(sequence, computed, &tokens[computed..]);
        engine.decode(&next).expect("computed");
        let logits = engine.logits(next.len() - 1);
        if first.is_empty() {
            first = logits.to_vec();
        }
        computed = tokens.len();
        tokens.push(best(logits));
    }
    engine.truncate(sequence, 0);
    (first, tokens.split_off(prompt().len()))
}

fn difference(logits: &[f32], others: &[f32]) -> f32 {
    let apart = logits.iter().zip(others).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

#[test]
fn an_adapter_whose_product_is_zero_answers_as_the_model_does_bit_for_bit() {
    for attention in [Attention::Plain, Attention::Flash] {
        let weights = weights(KIOSK.as_ref());
        let options = EngineOptions {
            attention: Some(attention),
            ..options()
        };
        let mut engine = LlamaEngine::new(&weights, options).expect("contexts");
        let without = answer(&mut engine, 0, 40);
        let zero = add(&mut engine, &weights, 1, 0.0);
        let other = add(&mut engine, &weights, 2, STRENGTH);
        assert_eq!(answer(&mut engine, zero, 40), without);
        assert_ne!(answer(&mut engine, other, 40), without);
        assert_eq!(answer(&mut engine, 0, 40), without);
    }
}

#[test]
fn an_adapter_answers_as_the_model_into_which_it_is_merged() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, seed, strength| {
        let path = folder.path().join(name);
        write_merged(&path, seed, strength);
        weights(&path)
    };
    let base = file("base.gguf", 0, 0.0);
    let mut adapted = LlamaEngine::new(&base, options()).expect("contexts");
    let (plain, _) = answer(&mut adapted, 0, 1);
    for seed in [1, 2] {
        let merged = file("merged.gguf", seed, STRENGTH);
        let mut merged = LlamaEngine::new(&merged, options()).expect("contexts");
        let (expected, expected_answer) = answer(&mut merged, 0, 40);
        let partition = add(&mut adapted, &base, seed, STRENGTH);
        let (logits, answered) = answer(&mut adapted, partition, 40);
        let changed = difference(&plain, &expected);
        let off = difference(&logits, &expected);
        assert!(changed > 0.5, "{changed}");
        assert!(off < 0.005 * changed, "{off} of {changed}");
        assert_eq!(answered, expected_answer);
    }
}

/// How often llama.cpp says that it plans its buffers.
fn reserved(work: impl FnOnce()) -> usize {
    let lines = logs::lines_during(work);
    let plans = |line: &&String| line.contains("reserving ...");
    lines.iter().filter(plans).count()
}

/// Whether this test has a process to itself; else it is run in one.
fn is_alone(name: &str) -> bool {
    const ALONE: &str = "EDGELLM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("engine::adapter_tests::{name}");
    let program = std::env::current_exe().expect("this one");
    let mut command = Command::new(program);
    let output = command.args(["--exact", &name]).env(ALONE, "1").output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let is_passed = output.status.success() && text.contains("1 passed");
    assert!(
        is_passed,
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Alone, because other tests send llama.cpp's log elsewhere.
#[test]
fn no_step_plans_buffers_anew_while_adapters_and_the_model_alternate() {
    if !is_alone("no_step_plans_buffers_anew_while_adapters_and_the_model_alternate") {
        return;
    }
    let weights = weights(KIOSK.as_ref());
    let mut engine = LlamaEngine::new(&weights, options()).expect("contexts");
    let mut partitions = vec![0];
    let adding = reserved(|| {
        partitions.extend([1, 2].map(|seed| add(&mut engine, &weights, seed, STRENGTH)));
    });
    assert!(adding >= 2, "a context of its own each: {adding}");
    let alternating = reserved(|| {
        for position in 0..20 {
            for partition in &partitions {
                let sequence = SeqId(partition * engine.shape().sequences);
                let next = rows(sequence, position, &[Token(400)]);
                engine.decode(&next).expect("computed");
            }
            // All in one step.
            let all = partitions.iter().flat_map(|partition| {
                let sequence = SeqId(partition * engine.shape().sequences + 1);
                rows(sequence, position, &[Token(500)])
            });
            engine.decode(&all.collect::<Vec<_>>()).expect("computed");
        }
    });
    assert_eq!(alternating, 0);
}

#[test]
fn others_answer_the_same_whatever_adapters_come_and_go() {
    for threads in [1, 3] {
        let weights = weights(KIOSK.as_ref());
        let options = EngineOptions {
            threads,
            ..options()
        };
        let mut engine = LlamaEngine::new(&weights, options).expect("contexts");
        let alone = engine.shape().partitions;
        let without = answer(&mut engine, 0, 20);
        let first = add(&mut engine, &weights, 1, STRENGTH);
        let second = add(&mut engine, &weights, 2, STRENGTH);
        assert_eq!((first, second), (alone, alone + 1));
        let [with_first, with_second] = [first, second].map(|one| answer(&mut engine, one, 20));
        assert_ne!(with_first, with_second);
        engine.remove_adapter(first as usize);
        assert_eq!(answer(&mut engine, second, 20), with_second);
        let third = add(&mut engine, &weights, 1, STRENGTH);
        assert_eq!(third, first, "the place that was left");
        assert_eq!(answer(&mut engine, third, 20), with_first);
        assert_eq!(answer(&mut engine, 0, 20), without);
    }
}

#[test]
fn cells_copied_within_an_adapter_go_on_as_they_would_have() {
    let weights = weights(KIOSK.as_ref());
    let mut engine = LlamaEngine::new(&weights, options()).expect("contexts");
    let partition = add(&mut engine, &weights, 1, STRENGTH);
    let of = |number| SeqId(partition * 8 + number);
    let prompt = prompt();
    let (without, _) = answer(&mut engine, 0, 1);
    engine.decode(&rows(of(0), 0, &prompt)).expect("computed");
    let expected = engine.logits(prompt.len() - 1).to_vec();
    let copied = engine.copy_out(of(0), prompt.len() - 1).expect("copied");
    engine.share(of(0), of(1), prompt.len() - 1);
    assert!(engine.copy_in(&copied, of(2)));
    for sequence in [of(1), of(2)] {
        let last = rows(sequence, prompt.len() - 1, &prompt[prompt.len() - 1..]);
        engine.decode(&last).expect("computed");
        let off = difference(&expected, engine.logits(0));
        let changed = difference(&expected, &without);
        assert!(off < 0.25 * changed, "{off} of {changed}");
    }
}

#[test]
fn alone_in_its_partition_a_sequence_with_an_adapter_comes_out_bit_for_bit() {
    let weights = weights(KIOSK.as_ref());
    let mut engine = LlamaEngine::new(&weights, options()).expect("contexts");
    let partition = add(&mut engine, &weights, 1, STRENGTH);
    let block = engine.shape().exact_block.expect("attention is plain");
    let text: Vec<Token> = (0..97).map(|place| Token(300 + place * 13 % 700)).collect();
    let mut all = Vec::new();
    for chunks in [&[96_usize][..], &[32, 64], &[64, 32]] {
        let sequence = SeqId(partition * 8 + 3);
        let mut position = 0;
        for chunk in chunks {
            assert!(chunk.is_multiple_of(block));
            let mut batch = rows(sequence, position, &text[position..position + chunk]);
            batch.extend(rows(SeqId(2), position, &text[..7]));
            engine.decode(&batch).expect("computed");
            engine.truncate(SeqId(2), 0);
            position += chunk;
        }
        let last = rows(sequence, position, &text[position..]);
        engine.decode(&last).expect("computed");
        let bits = engine.logits(0).iter().map(|logit| logit.to_bits());
        all.push(bits.collect::<Vec<_>>());
        engine.truncate(sequence, 0);
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn an_adapter_with_which_nothing_is_a_number_is_refused() {
    let weights = weights(KIOSK.as_ref());
    let mut engine = LlamaEngine::new(&weights, options()).expect("contexts");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    let mut b = numbers(1, 4 * 256);
    b[77] = f32::NAN;
    header()
        .tensor(
            "blk.0.attn_q.weight.lora_a",
            &[384, 4],
            &numbers(2, 4 * 384),
        )
        .tensor("blk.0.attn_q.weight.lora_b", &[4, 256], &b)
        .write(&path);
    let file = AdapterFile::open(&path, weights.adapter_base()).expect("its head is right");
    let error = engine.add_adapter(file).expect_err("no numbers");
    assert!(matches!(
        error,
        AdapterError::Unfit {
            problem: AdapterProblem::NotFinite,
            ..
        }
    ));
    let next = add(&mut engine, &weights, 1, STRENGTH);
    assert_eq!(next, engine.shape().partitions, "it has left nothing");
}

/// Bytes that the process has for itself.
#[cfg(target_os = "linux")]
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * kilobytes
        .and_then(|text| text.parse::<u64>().ok())
        .expect("a number")
}

/// Alone, because other tests take memory meanwhile.
#[test]
#[cfg(target_os = "linux")]
fn adapters_that_come_and_go_leave_no_memory_behind() {
    if !is_alone("adapters_that_come_and_go_leave_no_memory_behind") {
        return;
    }
    let weights = weights(KIOSK.as_ref());
    let mut engine = LlamaEngine::new(&weights, options()).expect("contexts");
    let cycle = |engine: &mut LlamaEngine<'_>| {
        let before = anonymous_bytes();
        let partitions = [1, 2].map(|seed| add(engine, &weights, seed, STRENGTH));
        for partition in partitions {
            answer(engine, partition, 3);
        }
        let with = anonymous_bytes();
        for partition in partitions {
            engine.remove_adapter(partition as usize);
        }
        (before, with, anonymous_bytes())
    };
    // What is made once, such as the allocator's tables.
    cycle(&mut engine);
    let (first, with, mut last) = cycle(&mut engine);
    let added = with - first;
    assert!(added > 1 << 20, "{added}");
    // What leaks does so every time; that a thread's allocator takes another megabyte happens once.
    let mut left: Vec<_> = (0..9)
        .map(|_| {
            let before = std::mem::replace(&mut last, cycle(&mut engine).2);
            last.saturating_sub(before)
        })
        .collect();
    left.sort_unstable();
    assert!(
        left[4] < added / 100,
        "{left:?} of {added} bytes are left each time"
    );
}
