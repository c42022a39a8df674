//! Answers that must have a form have it, however little the model understands of it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use edgellm::admission::ClientId;
use edgellm::engine::{Model, Pieces, Token, Vocabulary};
use edgellm::grammar::{Caller, Grammar, GrammarError, Grammars, Guide, Schema, Wall, Watch};
use edgellm::prompt::{Callable, OutputParser, Part, Piece, ToolFormat, calls, opened_calls};
use edgellm::sampling::{Sampler, SamplingParams};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::gateway::MODEL;

fn grammars() -> (Arc<Model>, Grammars) {
    let model = Model::load(Path::new(MODEL), &Arc::default()).expect("the shipped model");
    let model = Arc::new(model);
    (Arc::clone(&model), Grammars::new(model, wall()))
}

fn guide_of(grammars: &Grammars, grammar: &Grammar) -> Result<Guide, GrammarError> {
    let (caller, _here) = Caller::new(ClientId::of(([127, 0, 0, 1], 0).into()));
    runtime().block_on(grammars.guide(grammar, &caller))
}

/// One for all: processes behind the wall belong to it.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// The program that was built with this one tries grammars out.
fn wall() -> Wall {
    Wall::of(env!("CARGO_BIN_EXE_edgellm").into())
}

/// Noise that is the same at every run: what a model says that understands nothing.
fn noise(seed: u64, step: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ step;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(u16::try_from(state >> 48).expect("16 bits")) / 4096.0
    };
    (0..count).map(next).collect()
}

/// What comes out of noise that is held to `schema`, in at most `most` tokens.
fn answer(model: &Model, grammars: &Grammars, schema: &Schema, seed: u64, most: u32) -> String {
    let guide = guide_of(grammars, &Grammar::schema(schema));
    let bytes = guided(model, guide.expect("a sound schema"), None, seed, most);
    String::from_utf8(bytes).expect("whole characters")
}

/// What comes out of noise that is led by `guide`; of noise and `opener` at the tenth token.
fn guided(model: &Model, guide: Guide, opener: Option<Token>, seed: u64, most: u32) -> Vec<u8> {
    let params = SamplingParams {
        seed,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, &[], Some(guide));
    let mut bytes = Vec::new();
    for index in 0..most {
        let mut logits = noise(seed, index.into(), model.info().vocabulary);
        if let Some(Token(id)) = opener.filter(|_| index == 9) {
            logits[usize::try_from(id).expect("positive")] = 100.0;
        }
        let token = sampler
            .sample(&logits, index, most)
            .expect("not too complex");
        if model.is_end(token) {
            break;
        }
        bytes.extend_from_slice(model.piece(token));
        if sampler.is_complete() {
            break;
        }
    }
    bytes
}

#[test]
fn noise_becomes_json_that_fits_its_schema_and_its_tokens() {
    let (model, grammars) = grammars();
    let article = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "name": {"type": "string"},
            "kind": {"type": "string", "enum": ["food", "other"]},
            "price": {"type": "number"},
            "aisle": {"type": "integer", "minimum": 1, "maximum": 20},
            "since": {"type": ["string", "null"], "format": "date"},
            "parts": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
        },
        "required": ["name", "kind", "price", "aisle", "since", "parts"],
    });
    let strict = Schema::new(article, true).expect("strict");
    for seed in 0..20 {
        for most in [120, 200, 400] {
            let text = answer(&model, &grammars, &strict, seed, most);
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{error} in {most} tokens of seed {seed}: {text}"));
            assert!(["food", "other"].contains(&value["kind"].as_str().expect("a kind")));
            let aisle = value["aisle"].as_i64().expect("an integer");
            assert!((1..=20).contains(&aisle));
            assert!(value["price"].as_f64().is_some_and(f64::is_finite));
        }
    }
}

#[test]
fn a_call_that_noise_makes_of_itself_fits_the_schema_of_the_tool() {
    let (model, grammars) = grammars();
    let price = json!({
        "type": "object", "additionalProperties": false,
        "properties": {"article": {"enum": ["milk", "hose"]}, "number": {"type": "integer"}},
        "required": ["article", "number"],
    });
    let functions = [
        Callable {
            name: "price".to_owned(),
            arguments: Schema::new(price, true).expect("strict"),
        },
        Callable {
            name: "help".to_owned(),
            arguments: Schema::object(),
        },
    ];
    let format = ToolFormat::Hermes;
    let opener = format.opener().expect("a tag");
    let special = |text| model.specials().iter().find(|special| special.text == text);
    let token = special(opener).expect("a token").token;
    let mut prices = 0;
    for seed in 0..20 {
        let grammar = opened_calls(format, &functions, &*model);
        let guide = guide_of(&grammars, &grammar).expect("sound");
        let guide = guide.behind(Watch::new(opener));
        let text = guided(&model, guide, Some(token), seed, 200);
        let text = String::from_utf8_lossy(&text);
        let mut parser = OutputParser::new(None, Some(format));
        let mut pieces = parser.push(&text);
        pieces.extend(parser.finish());
        let named = pieces
            .iter()
            .position(|p| matches!(p, Piece::Part(Part::Call { .. })));
        let named = named.unwrap_or_else(|| panic!("no call of seed {seed}: {text}"));
        let Piece::Part(Part::Arguments(json)) = &pieces[named + 1] else {
            panic!("no arguments: {pieces:?}");
        };
        let arguments: Value = serde_json::from_str(json).expect("JSON");
        let is_price = pieces[named]
            == Piece::Part(Part::Call {
                name: "price".to_owned(),
            });
        if is_price {
            assert!(
                ["milk", "hose"].contains(&arguments["article"].as_str().expect("one of them"))
            );
            assert!(arguments["number"].is_i64());
            prices += 1;
        }
        assert!(arguments.is_object());
        // Before and behind it noise says what it likes.
        assert!(named > 0, "{text}");
    }
    assert!(prices > 0);
}

#[test]
fn any_object_is_whole_when_the_tokens_run_out() {
    let (model, grammars) = grammars();
    for seed in 0..20 {
        let text = answer(&model, &grammars, &Schema::object(), seed, 60);
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error} of seed {seed}: {text}"));
        assert!(value.is_object());
    }
}

#[test]
fn a_schema_that_nothing_fits_is_refused_in_words() {
    let (_, grammars) = grammars();
    let impossible = json!({"type": "integer", "minimum": 3, "maximum": 2});
    let schema = Schema::new(impossible, false).expect("well formed");
    let error = guide_of(&grammars, &Grammar::schema(&schema));
    assert!(
        error
            .expect_err("nothing fits")
            .to_string()
            .contains("minimum")
    );
}

#[test]
fn a_schema_without_end_is_refused_before_it_is_compiled() {
    let (_, grammars) = grammars();
    let values: Vec<String> = (0..1000).map(|value| format!("{value:0600}")).collect();
    let schema = Schema::new(json!({"enum": values}), false).expect("well formed");
    let error = guide_of(&grammars, &Grammar::schema(&schema));
    let message = error.expect_err("600 KB").to_string();
    assert!(message.contains("too long"), "{message}");
}

#[test]
fn calls_can_be_followed_in_every_format_one_or_several_of_them() {
    let (model, grammars) = grammars();
    let function = Callable {
        name: "f".to_owned(),
        arguments: Schema::object(),
    };
    for format in [
        ToolFormat::Hermes,
        ToolFormat::Llama,
        ToolFormat::Mistral,
        ToolFormat::MistralNamed,
    ] {
        for several in [false, true] {
            let grammar = calls(
                format,
                std::slice::from_ref(&function),
                several,
                None,
                &*model,
            );
            let guide = guide_of(&grammars, &grammar);
            assert!(
                guide.is_ok(),
                "{format:?}, several: {several}: {:?}",
                guide.err()
            );
        }
    }
}
