//! What grammars cost: ordinary and hostile schemas compiled and followed, and the sampling of rows
//! that are held to one beside that of free rows. It ends with an error where a bound is exceeded.
//!
//! `EDGELLM_BENCH_MODEL` names another GGUF than the one that ships, for its vocabulary.

#![allow(clippy::print_stdout)] // this is what it is for

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use edgellm::admission::ClientId;
use edgellm::engine::{LoadWatch, Token, load_model};
use edgellm::grammar::{
    Caller, Constraint, Grammar, GrammarError, Grammars, Schema, TrialCompiler,
};
use edgellm::sampling::{Sampler, SamplingParams};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

/// A client may take so much of one thread and of memory by a schema, before it is answered or
/// refused: on trial, and then here.
const LONGEST_COMPILE: Duration = Duration::from_secs(3);
const MOST_MEGABYTES: f64 = 100.0;
/// On the thread that everybody waits on.
const LONGEST_STEP: Duration = Duration::from_millis(20);
/// Tokens of an answer that is followed.
const STEPS: u32 = 300;

#[allow(clippy::needless_pass_by_value)] // reads better where it is called
fn object(properties: Map<String, Value>) -> Value {
    let required: Vec<_> = properties.keys().cloned().collect();
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}

fn named(count: usize, name: impl Fn(usize) -> String, value: &Value) -> Map<String, Value> {
    (0..count).map(|i| (name(i), value.clone())).collect()
}

fn optional(properties: Map<String, Value>) -> Value {
    let mut schema = object(properties);
    schema["required"] = json!([]);
    schema
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!({"type": "string"}), |inner, level| {
        object(named(1, |_| format!("level{level}"), &inner))
    })
}

fn text(key: &str, value: Value) -> Value {
    let mut string = json!({"type": "string"});
    string[key] = value;
    object(Map::from_iter([("text".to_owned(), string)]))
}

/// Each definition refers to all of them.
fn tangle(count: usize) -> Value {
    let all: Vec<_> = (0..count)
        .map(|i| json!({"$ref": format!("#/$defs/d{i}")}))
        .collect();
    let one = |i: usize| {
        let name = format!("n{i}");
        object(Map::from_iter([(name, json!({"anyOf": all}))]))
    };
    let definitions: Map<_, _> = (0..count).map(|i| (format!("d{i}"), one(i))).collect();
    json!({"type": "object", "properties": {"a": {"anyOf": all}}, "required": ["a"],
           "additionalProperties": false, "$defs": definitions})
}

#[allow(clippy::too_many_lines)] // a table
fn schemas() -> Vec<(&'static str, Value)> {
    let string = json!({"type": "string"});
    let words = |count: usize| {
        (0..count)
            .map(|i| json!(format!("word number {i}")))
            .collect::<Vec<_>>()
    };
    let article = object(Map::from_iter([
        ("name".to_owned(), string.clone()),
        ("price".to_owned(), json!({"type": "number"})),
        ("kind".to_owned(), json!({"enum": ["food", "other"]})),
        (
            "tags".to_owned(),
            json!({"type": "array", "items": {"type": "string"}}),
        ),
    ]));
    let list = json!({"type": "array", "items": article, "minItems": 64});
    let variants: Vec<_> = (0..1000)
        .map(|i| object(named(2, |p| format!("variant{i}_{p}"), &string)))
        .collect();
    let overlapping: Vec<_> = (0..200)
        .map(|i| object(named(3, |p| "a".repeat(i % 40 + p + 1), &string)))
        .collect();
    let patterns: Map<_, _> = (0..20)
        .map(|i| {
            (
                format!("^{}.*x{{0,{i}}}$", "a?".repeat(i)),
                json!({"type": "string"}),
            )
        })
        .collect();
    vec![
        ("an article", article),
        (
            "a list of articles",
            object(Map::from_iter([("articles".to_owned(), list)])),
        ),
        ("any object", json!({"type": "object"})),
        ("10 levels", nested(10)),
        ("60 levels", nested(60)),
        ("200 levels", nested(200)),
        (
            "1,000 enum values",
            object(named(
                1,
                |_| "word".to_owned(),
                &json!({"enum": words(1000)}),
            )),
        ),
        (
            "10,000 enum values",
            object(named(
                1,
                |_| "word".to_owned(),
                &json!({"enum": words(10_000)}),
            )),
        ),
        (
            "200 properties",
            object(named(200, |i| format!("p{i}"), &string)),
        ),
        (
            "200 optional properties",
            optional(named(200, |i| format!("p{i}"), &string)),
        ),
        (
            "500 optional properties",
            optional(named(500, |i| format!("p{i}"), &string)),
        ),
        (
            "5,000 properties",
            object(named(5000, |i| format!("p{i}"), &string)),
        ),
        (
            "5,000 optional properties",
            optional(named(5000, |i| format!("p{i}"), &string)),
        ),
        ("maxLength 1e9", text("maxLength", json!(1_000_000_000))),
        ("maxLength 10,000", text("maxLength", json!(10_000))),
        (
            "20 times maxLength 10,000",
            object(named(
                20,
                |i| format!("p{i}"),
                &json!({"type": "string", "maxLength": 10_000}),
            )),
        ),
        (
            "maxItems 10,000",
            object(named(
                1,
                |_| "list".to_owned(),
                &json!({"type": "array", "items": string, "maxItems": 10_000}),
            )),
        ),
        (
            "nested maxItems 10,000",
            object(named(
                1,
                |_| "list".to_owned(),
                &json!({"type": "array", "maxItems": 10_000, "items": {"type": "array", "maxItems": 10_000, "items": string}}),
            )),
        ),
        (
            "pattern (a{1000}){1000}",
            text("pattern", json!("^(a{1000}){1000}$")),
        ),
        (
            "pattern ((a{0,50}){0,50}){0,50}",
            text("pattern", json!("^((a{0,50}){0,50}){0,50}$")),
        ),
        ("pattern (.*a.{20})", text("pattern", json!("^.*a.{20}$"))),
        (
            "pattern (a|aa)+ and lookahead",
            text("pattern", json!("^(?=.*b)(a|aa)+$")),
        ),
        (
            "pattern of 100,000 letters",
            text("pattern", json!(format!("^{}$", "ab".repeat(50_000)))),
        ),
        (
            "pattern \\p{L}{1,1000}",
            text("pattern", json!("^\\p{L}{1,1000}$")),
        ),
        (
            "20 patterns in one list",
            json!({"type": "object", "patternProperties": patterns}),
        ),
        (
            "anyOf of 1,000",
            object(named(1, |_| "one".to_owned(), &json!({"anyOf": variants}))),
        ),
        (
            "anyOf of overlapping objects",
            object(named(
                1,
                |_| "one".to_owned(),
                &json!({"anyOf": overlapping}),
            )),
        ),
        ("refers to itself", json!({"$ref": "#"})),
        (
            "a circle",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        (
            "endless by need",
            json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": false}),
        ),
        (
            "allOf of itself",
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        ),
        ("30 definitions of each other", tangle(30)),
        ("300 definitions of each other", tangle(300)),
        (
            "oneOf of 200",
            json!({"oneOf": (0..200).map(|i| json!({"type": "object", "properties": {format!("p{i}"): {"type": "string"}}, "required": [format!("p{i}")]})).collect::<Vec<_>>()}),
        ),
        (
            "allOf of 200 anyOf",
            json!({"allOf": (0..200).map(|i| json!({"anyOf": [{"type": "object", "properties": {format!("p{i}"): {"type": "string"}}}, {"type": "object", "properties": {format!("q{i}"): {"type": "number"}}}]})).collect::<Vec<_>>()}),
        ),
        (
            "allOf of 8 anyOf of 8",
            json!({"allOf": (0..8).map(|i| json!({"anyOf": (0..8).map(|j| json!({"type": "object", "properties": {format!("p{i}_{j}"): {"type": "string"}}})).collect::<Vec<_>>()})).collect::<Vec<_>>()}),
        ),
        (
            "multipleOf 0.0000001",
            object(named(
                1,
                |_| "n".to_owned(),
                &json!({"type": "number", "multipleOf": 0.000_000_1}),
            )),
        ),
        (
            "5 times multipleOf 997",
            object(named(
                5,
                |i| format!("n{i}"),
                &json!({"type": "integer", "multipleOf": 997}),
            )),
        ),
        (
            "multipleOf 1,234,567",
            object(named(
                1,
                |_| "n".to_owned(),
                &json!({"type": "integer", "multipleOf": 1_234_567}),
            )),
        ),
        (
            "bounds of 15 digits",
            object(named(
                1,
                |_| "n".to_owned(),
                &json!({"type": "number", "exclusiveMinimum": -123_456_789_012.345, "maximum": 987_654_321_098.765}),
            )),
        ),
        (
            "a name of 1 MB",
            object(named(1, |_| "x".repeat(1 << 20), &string)),
        ),
        (
            "formats",
            object(
                [
                    "date-time",
                    "time",
                    "date",
                    "duration",
                    "email",
                    "hostname",
                    "ipv4",
                    "ipv6",
                    "uuid",
                ]
                .into_iter()
                .map(|f| (f.to_owned(), json!({"type": "string", "format": f})))
                .collect(),
            ),
        ),
    ]
}

/// The highest memory that this process has had since [`forget_peak`], in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1000.0
}

/// From here on [`peak`] begins at what there is now.
fn forget_peak() {
    // See proc(5); without it the peak is only ever too high.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

struct Noise(ChaCha8Rng);

impl Noise {
    fn fill(&mut self, logits: &mut [f32]) {
        for logit in logits {
            *logit = f32::from((self.0.next_u32() >> 16) as u16) / 4096.0;
        }
    }
}

/// The longest step and the median one of an answer out of noise, every token of which is masked.
fn follow(
    mut constraint: Constraint,
    vocabulary: usize,
    seed: u64,
) -> (Duration, Duration, Option<&'static str>) {
    let mut noise = Noise(ChaCha8Rng::seed_from_u64(seed));
    let mut logits = vec![0.0; vocabulary];
    let mut steps = Vec::new();
    let mut end = None;
    for index in 0..STEPS {
        noise.fill(&mut logits);
        let started = Instant::now();
        let masked = constraint.mask(&mut logits, 4 * STEPS - index);
        let best = (0..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1));
        let token = Token(best.map_or(0, |(id, _)| id));
        let followed = masked.and_then(|()| constraint.accept(token));
        steps.push(started.elapsed());
        if followed.is_err() {
            end = Some("given up");
        }
        if followed.is_err() || constraint.is_complete() {
            break;
        }
    }
    steps.sort_unstable();
    (steps[steps.len() - 1], steps[steps.len() / 2], end)
}

fn hostile(grammars: &Grammars, vocabulary: usize) -> bool {
    let mut kept = true;
    println!(
        "{:34} {:>9} {:>7} {:>9} {:>9}  outcome",
        "schema", "compile", "MB", "step max", "median"
    );
    for (name, schema) in schemas() {
        forget_peak();
        let before = peak();
        let started = Instant::now();
        let constraint = Schema::new(schema, false)
            .map_err(|schema_error| format!("{}: {schema_error}", schema_error.path))
            .and_then(|schema| constraint_of(grammars, &schema).map_err(|e| e.to_string()));
        let compiled = started.elapsed();
        let (longest, median, outcome) = match constraint {
            Ok(constraint) => {
                let (longest, median, end) = follow(constraint, vocabulary, 7);
                (longest, median, end.unwrap_or("followed").to_owned())
            }
            Err(error) => (
                Duration::ZERO,
                Duration::ZERO,
                format!("refused: {error:.90}"),
            ),
        };
        let grown = peak() - before;
        let within = compiled < LONGEST_COMPILE && grown < MOST_MEGABYTES && longest < LONGEST_STEP;
        kept &= within;
        let mark = if within { "" } else { "EXCEEDED " };
        println!(
            "{name:34} {:>6.1} ms {grown:>7.1} {:>6.2} ms {:>6.0} µs  {mark}{outcome}",
            compiled.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
            median.as_secs_f64() * 1e6,
        );
    }
    kept
}

fn constraint_of(grammars: &Grammars, schema: &Schema) -> Result<Constraint, GrammarError> {
    let grammar = Grammar::schema(schema);
    let (caller, _here) = Caller::new(ClientId::of(([127, 0, 0, 1], 0).into()));
    runtime().block_on(grammars.constraint(&grammar, &caller))
}

/// One runtime for all: the child processes of the trial compiler belong to it.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// The program that was built with this one tries grammars out.
fn trial_compiler() -> TrialCompiler {
    TrialCompiler::of(env!("CARGO_BIN_EXE_edgellm").into())
}

/// Sampling of eight rows, free and held to a list of articles, as a share of a step's time.
fn rows(grammars: &Grammars, vocabulary: usize) {
    const ROWS: u64 = 8;
    let (_, list) = schemas().swap_remove(1);
    let schema = Schema::new(list, true).expect("strict");
    for (name, willing) in [("that seldom says what it may not", 0.9), ("of noise", 0.0)] {
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..9 {
            for held in [false, true] {
                let constraint = held.then(|| constraint_of(grammars, &schema).expect("sound"));
                let mut samplers: Vec<_> = (0..ROWS)
                    .map(|_| {
                        Sampler::new(
                            SamplingParams {
                                temperature: 0.0,
                                ..SamplingParams::default()
                            },
                            &[],
                            constraint.clone(),
                        )
                    })
                    .collect();
                // What a model that knows the schema would say: the same answer, guided.
                let mut tutors: Vec<_> = (0..ROWS)
                    .map(|_| constraint_of(grammars, &schema).expect("sound"))
                    .collect();
                let mut noise = Noise(ChaCha8Rng::seed_from_u64(round));
                let mut rows = vec![vec![0.0_f32; vocabulary]; 8];
                for index in 0..100 {
                    for (row, tutor) in rows.iter_mut().zip(&mut tutors) {
                        noise.fill(row);
                        if willing > 0.0 && held {
                            tutor.mask(row, 1000 - index).expect("sound");
                        }
                    }
                    let started = Instant::now();
                    let tokens: Vec<_> = samplers
                        .iter_mut()
                        .zip(&rows)
                        .map(|(sampler, row)| sampler.sample(row, index, 1000).expect("sound"))
                        .collect();
                    took[usize::from(held)].push(started.elapsed());
                    if willing > 0.0 && held {
                        for (tutor, token) in tutors.iter_mut().zip(tokens) {
                            tutor.accept(token).expect("what it allows");
                        }
                    }
                }
            }
        }
        let median = |steps: &mut Vec<Duration>| {
            steps.sort_unstable();
            steps[steps.len() / 2].as_secs_f64() * 1e6
        };
        let [free, held] = &mut took;
        println!(
            "8 rows of a model {name}: {:.0} µs a step free, {:.0} µs held to a schema",
            median(free),
            median(held)
        );
    }
}

fn main() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
    let path = std::env::var_os("EDGELLM_BENCH_MODEL").map_or(shipped.into(), PathBuf::from);
    let (_, tokenizer) = load_model(&path, &LoadWatch::default()).expect("a model");
    let vocabulary = tokenizer.info().vocabulary;
    let grammars = Grammars::new(Arc::new(tokenizer), trial_compiler());
    let started = Instant::now();
    let warm = constraint_of(&grammars, &Schema::object());
    println!(
        "{vocabulary} tokens; {:.0} ms for the first grammar",
        started.elapsed().as_secs_f64() * 1e3
    );
    drop(warm);
    rows(&grammars, vocabulary);
    let kept = hostile(&grammars, vocabulary);
    std::process::exit(i32::from(!kept));
}
