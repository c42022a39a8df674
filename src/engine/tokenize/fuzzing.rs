//! What holds for the tokens of a text, whatever it is and whatever reads it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::Mutex;

use super::super::gguf_editor::GgufEditor;
use super::super::{Pieces as _, TokenizeOptions, Tokenizer};

/// One name for each of llama.cpp's kinds of pre-tokenizers (`llama-vocab.cpp`, behind
/// `tokenizer_pre ==`), and all that set something of their own. `whitespace` needs a vocabulary of
/// its own kind.
pub(super) const NAMES: [&str; 64] = [
    "default",
    "minicpm5",
    "llama-bpe",
    "falcon3",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "spark2_5",
    "youtu",
    "falcon",
    "mpt",
    "starcoder",
    "gpt-2",
    "jais-2",
    "gemma4",
    "granite-embed-multi-311m",
    "mmbert",
    "sarvam-moe",
    "jina-v1-en",
    "refact",
    "command-r",
    "qwen2",
    "qwen35",
    "stablelm2",
    "olmo",
    "dbrx",
    "smaug-bpe",
    "poro-chat",
    "chatglm-bpe",
    "glm4",
    "viking",
    "jais",
    "tekken",
    "smollm",
    "codeshell",
    "bloom",
    "gpt3-finnish",
    "exaone",
    "exaone4",
    "exaone-moe",
    "chameleon",
    "minerva-7b",
    "megrez",
    "gpt-4o",
    "granite-embed-multi-97m",
    "tiny_aya",
    "superbpe",
    "trillion",
    "granite-docling",
    "bailingmoe",
    "seed-coder",
    "hunyuan",
    "hunyuan-dense",
    "hy_v4",
    "joyai-llm",
    "kimi-k2",
    "ufakzeka",
    "grok-2",
    "afmoe",
    "laguna",
    "minimax-m2",
    "solar-open",
    "mellum2",
    "modern-bert",
];

/// Whether the shipped vocabulary, which writes bytes as other characters, has a token for every
/// text under this name.
pub(super) fn reads_everything(name: &str) -> bool {
    let without_bytes = ["gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe"];
    !without_bytes.contains(&name)
}

/// What long runs are made of.
pub(super) const UNITS: [&str; 24] = [
    "a",
    "A",
    "aB",
    " ",
    "\t",
    "\n",
    "\r\n",
    "!",
    "/",
    "?-",
    "'",
    "'s",
    "7",
    "字",
    "가",
    "e\u{301}",
    "\u{301}",
    "😀",
    "\u{A0}",
    "é",
    "aB7/",
    "   \n",
    "<|im_start|>",
    "\0",
];

/// More characters than are read in one go, so that long words are cut.
const MOST: usize = 128 << 10;

pub(super) fn repeated(unit: &str, characters: usize) -> String {
    unit.chars().cycle().take(characters).collect()
}

/// Reads runs of the units above: the first byte says which pre-tokenizer reads, the second how, and
/// then each three bytes what comes next and how long it is.
///
/// # Panics
/// When tokens are missing or stand for another text.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn read_runs(bytes: &[u8]) {
    let [name, how, runs @ ..] = bytes else {
        return;
    };
    let name = NAMES[usize::from(*name) % NAMES.len()];
    let mut text = String::new();
    let mut left = MOST;
    for run in runs.chunks_exact(3) {
        let length = usize::from(u16::from_le_bytes([run[1], run[2]])).min(left);
        let unit = usize::from(run[0]) % (UNITS.len() + 1);
        match UNITS.get(unit) {
            Some(unit) => text += &repeated(unit, length),
            // Two characters of the fuzzer's own.
            None => text.extend([char::from(run[1]), char::from(run[2])]),
        }
        left -= length;
    }
    let reading = TokenizeOptions {
        bounds: how & 1 == 1,
        markup: how & 2 == 2,
    };
    check(name, &text, reading);
}

fn check(name: &'static str, text: &str, reading: TokenizeOptions) {
    let model = model(name);
    let tokens = model.tokenize(text, reading);
    let vocabulary = i32::try_from(model.info().vocabulary).unwrap_or(i32::MAX);
    assert!(
        tokens
            .iter()
            .all(|token| (0..vocabulary).contains(&token.0))
    );
    drop(model.detokenize(&tokens));
    if reads_everything(name) && !reading.markup {
        let pieces = tokens.iter().map(|&token| model.piece(token));
        let read = pieces.collect::<Vec<_>>().concat();
        assert!(read == text.as_bytes(), "{name} reads another text");
    }
}

/// The shipped model under this pre-tokenizer, loaded once.
fn model(name: &'static str) -> Arc<Tokenizer> {
    static MODELS: Mutex<Option<HashMap<&str, Arc<Tokenizer>>>> = Mutex::new(None);
    let mut models = MODELS.lock();
    let models = models.get_or_insert_default();
    let load = || {
        let edited = GgufEditor::kiosk().text("tokenizer.ggml.pre", name);
        Arc::new(edited.load().expect("loads"))
    };
    Arc::clone(models.entry(name).or_insert_with(load))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn seeds_are_read_as_the_text_that_they_are() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/tokenize");
        let seeds: Vec<_> = fs::read_dir(seeds).expect("seeds").collect();
        assert!(seeds.len() > 5);
        for seed in seeds {
            read_runs(&fs::read(seed.expect("a file").path()).expect("readable"));
        }
    }
}
