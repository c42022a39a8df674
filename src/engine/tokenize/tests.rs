//! Every pre-tokenizer that llama.cpp knows, under the vocabulary of the model that ships.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::gguf_editor::GgufEditor;
use super::super::{Pieces as _, Tokenizer, Vocabulary as _};
use super::fuzzing::{NAMES, UNITS, reads_everything, repeated};
use super::*;

const PLAIN: TokenizeOptions = TokenizeOptions {
    bounds: false,
    markup: false,
};

fn model_of(edited: GgufEditor) -> Tokenizer {
    edited.load().expect("loads")
}

fn model(name: &str) -> Tokenizer {
    model_of(GgufEditor::kiosk().text("tokenizer.ggml.pre", name))
}

/// The bytes that tokens stand for.
fn bytes(model: &Tokenizer, tokens: &[Token]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|&token| model.piece(token))
        .copied()
        .collect()
}

/// What llama.cpp makes of a text as a whole.
fn undivided(model: &Tokenizer, text: &str) -> Vec<Token> {
    on_a_large_stack(text.chars().count(), || {
        let mut buffer = Vec::new();
        known(call(model.vocab(), text, &mut buffer)).collect()
    })
    .expect("a thread")
}

/// What comes of a text that is divided at each place where that may be done.
fn divided(model: &Tokenizer, text: &str) -> Vec<Token> {
    let encoder = model.encoder();
    let pieces = encoder.special_tokens.split(text, false);
    let plan = TokenizePlan::of(&pieces, encoder.habit, LONGEST_MATCH, 1);
    let mut tokens = Vec::new();
    read(model.vocab(), &plan.portions, &mut tokens);
    tokens
}

/// With less stack than any thread of the server has.
fn on_a_small_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .stack_size(512 << 10)
            .spawn_scoped(scope, work);
        thread.expect("a thread").join().expect("no panic")
    })
}

#[test]
fn long_runs_are_read_whole_with_every_pre_tokenizer() {
    for name in NAMES {
        let model = model(name);
        on_a_small_stack(|| {
            for unit in UNITS {
                // The longest that stays on the caller's stack, and one that does not.
                for length in [IN_PLACE, 3_000] {
                    let text = repeated(unit, length) + "1";
                    let tokens = model.tokenize(&text, PLAIN);
                    if reads_everything(name) {
                        let read = bytes(&model, &tokens);
                        assert_eq!(read, text.as_bytes(), "{name}: {unit:?} × {length}");
                    }
                }
            }
        });
    }
}

/// The largest body of the default configuration is made of what the pattern takes longest for.
#[test]
fn the_largest_body_takes_seconds_where_a_pattern_is_at_its_worst() {
    for (name, unit) in [
        ("gpt-4o", "a"),
        ("deepseek-llm", " "),
        ("jais-2", " "),
        ("superbpe", "7"),
    ] {
        let model = model(name);
        let half = 2 << 20;
        let runs = (repeated(unit, 38) + "é1").repeat(half / 40);
        let text = runs + &repeated(unit, half) + "1";
        let begun = Instant::now();
        let tokens = on_a_small_stack(|| model.tokenize(&text, PLAIN));
        let took = begun.elapsed();
        assert!(bytes(&model, &tokens) == text.as_bytes(), "{name}");
        assert!(took < Duration::from_secs(60), "{name} took {took:?}");
    }
}

#[test]
fn thousands_of_special_tokens_take_no_longer_than_other_text() {
    let model = model("gpt-4o");
    let text = "<|im_start|>user".repeat(100_000);
    let markup = TokenizeOptions {
        markup: true,
        ..PLAIN
    };
    let begun = Instant::now();
    let tokens = model.tokenize(&text, markup);
    assert_eq!(model.detokenize(&tokens), text);
    assert!(tokens.len() >= 200_000 && begun.elapsed() < Duration::from_secs(20));
}

/// Texts as people write them, and the requests that the fuzzer starts from.
fn ordinary_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "The quick brown fox jumps over the lazy dog. It's 3 o'clock, they'll say; we've seen 1,234.56!",
        "Der Süßwasserfisch kostet 12,99 €.\n\nBitte wählen Sie  Regal 7.\n\t- Öl\n\t- Äpfel\r\nEnde",
        "fn main() {\n    let total: u64 = (0..10).map(|x| x * x).sum();\n\n    println!(\"{total:>8}\");\n}\n",
        "{\"items\": [{\"name\": \"Oat milk\", \"price\": 3.49, \"tags\": [\"vegan\", \"1l\"]}], \"total\": null}",
        "他说：“今天天气很好，我们去公园吧。”\n她回答：好的！ 价格是 128 元。",
        "これは日本語の文章です。 カタカナ と 漢字 12345 個。\n次の段落。",
        "오늘은 날씨가 좋네요. 가격은 3,500원입니다.",
        "Сегодня хорошая погода, цена 45 руб.\nКонец  строки ",
        "यह एक वाक्य है। कीमत ४५ रुपये है।  ไทยไม่มีช่องว่าง แต่มีวรรค  العربية لغة جميلة، والسعر ٥٠.",
        "😀 emoji 👩‍👩‍👧 and e\u{301} marks \u{A0} spaces\u{3000}here  \n \n  x  ",
        "#include <vector>\n/* a/b//c */\nint x=0xFF; // 'quoted' \"text\" don't I'M HE'LL\n\n\n",
        "SHOUTING WORDS and camelCaseWords, snake_case_words; https://example.com/a/b?c=1&d=2#e",
    ]
    .map(str::to_owned)
    .into();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for folder in ["answer", "body"] {
        for seed in fs::read_dir(seeds.join(folder)).expect("seeds") {
            let seed = fs::read(seed.expect("a file").path()).expect("readable");
            texts.push(String::from_utf8_lossy(&seed).into_owned());
        }
    }
    texts
}

#[test]
fn dividing_ordinary_text_changes_no_token_with_any_pre_tokenizer() {
    let texts = ordinary_texts();
    for name in NAMES {
        let model = model(name);
        for text in &texts {
            let whole = undivided(&model, text);
            assert_eq!(model.tokenize(text, PLAIN), whole, "{name}: {text:?}");
            // Its tokens span words; the shipped vocabulary has none that do.
            assert_eq!(divided(&model, text), whole, "{name}, divided: {text:?}");
        }
        let longest = |text: &String| {
            let text = [TextPiece::Text(text.as_str())];
            TokenizePlan::of(&text, model.encoder().habit, LONGEST_MATCH, PORTION).longest_match
        };
        assert!(texts.iter().all(|text| longest(text) <= IN_PLACE), "{name}");
    }
}

/// Runs of white space and digits that are longer than a pattern may look through.
#[test]
fn dividing_long_blanks_and_numbers_changes_no_token() {
    for (name, units) in [
        ("deepseek-llm", " \t\u{A0}"),
        ("superbpe", "0123456789"),
        ("jais-2", " "),
    ] {
        let model = model(name);
        for length in [33, 34, 100, 101, 102, 600, 1200] {
            for end in ["7", "x", " x", "字", "!", "\nx", "", "é"] {
                let text = format!("a{}{end}", repeated(units, length));
                assert_eq!(
                    model.tokenize(&text, PLAIN),
                    undivided(&model, &text),
                    "{name}: {text:?}"
                );
            }
        }
    }
}

#[test]
fn bounds_are_added_once_and_markup_is_read_where_it_is_asked_for() {
    let with_bounds = |name| {
        GgufEditor::kiosk()
            .text("tokenizer.ggml.pre", name)
            .flag("tokenizer.ggml.add_bos_token", true)
            .flag("tokenizer.ggml.add_eos_token", true)
    };
    let model = model_of(with_bounds("gpt-4o"));
    let vocab = model.vocab().vocab();
    let (begin, end) = (Token(vocab.bos().0), Token(vocab.eos().0));
    let reading = |bounds, markup| TokenizeOptions { bounds, markup };
    for text in [
        String::new(),
        "milk and bread".into(),
        repeated("a", 200_000),
    ] {
        let plain = model.tokenize(&text, PLAIN);
        let bounded = model.tokenize(&text, reading(true, false));
        assert_eq!(bounded, [&[begin][..], &plain, &[end]].concat());
    }
    let text = "<|im_start|>user\nhi<|im_end|>";
    let special = |text: &str| {
        let special = model.specials().iter().find(|special| special.text == text);
        special.expect("a special token").token
    };
    let read = model.tokenize(text, reading(false, true));
    assert_eq!(read.first(), Some(&special("<|im_start|>")));
    assert_eq!(read.last(), Some(&special("<|im_end|>")));
    let plain = model.tokenize(text, PLAIN);
    assert_eq!(bytes(&model, &plain), text.as_bytes());
}

#[test]
fn markup_is_found_as_llama_cpp_finds_it() {
    let model = model("llama-bpe");
    let texts = [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_<|im_start|>|im_end|> <|im_end|><|im_end|>x",
        "no markup < | > at all",
        "<tool_call>\n{\"name\": \"f\"}\n</tool_call><|im_end|>",
    ];
    for text in texts {
        let theirs = model.vocab().vocab().tokenize(text.as_bytes(), true, true);
        let theirs: Vec<Token> = theirs.into_iter().map(|token| Token(token.0)).collect();
        let all = TokenizeOptions {
            bounds: true,
            markup: true,
        };
        assert_eq!(model.tokenize(text, all), theirs, "{text:?}");
    }
}

#[test]
fn ids_outside_the_vocabulary_have_no_text() {
    let model = model("dbrx");
    let beyond = i32::try_from(model.info().vocabulary).expect("a small number");
    for id in [-1, i32::MIN, beyond, i32::MAX] {
        assert_eq!(model.detokenize(&[Token(id)]), "");
        assert_eq!(model.token_text(Token(id)), "");
        assert_eq!(model.piece(Token(id)), b"");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn dividing_any_text_at_seams_changes_no_token(
        name in prop::sample::select(vec![
            "default", "gpt-4o", "deepseek-v3", "deepseek-coder", "exaone-moe", "poro-chat", "tekken",
            "chameleon", "youtu", "afmoe", "kimi-k2", "gemma4", "jais-2",
        ]),
        words in prop::collection::vec(prop::sample::select(vec![
            "a", "B", "word", "12", "1234", " ", "  ", "\n", "\r\n", "\t", ".", ",", "!?", "'s", "'", "é",
            "字", "가", "e\u{301}", "😀", "\u{A0}", "/", "_", "ไทย", "½", " the", " of",
        ]), 0..60),
    ) {
        thread_local! {
            static MODELS: std::cell::RefCell<HashMap<&'static str, Arc<Tokenizer>>> = std::cell::RefCell::default();
        }
        let model = MODELS.with_borrow_mut(|models| {
            Arc::clone(models.entry(name).or_insert_with(|| Arc::new(model(name))))
        });
        let text = words.concat();
        prop_assert_eq!(divided(&model, &text), undivided(&model, &text));
    }
}
