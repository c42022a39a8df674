//! Texts to tokens, whatever the text and whatever the vocabulary.
//!
//! Everything goes through [`Encoder::tokens`], because llama.cpp's own function is not made for
//! texts from strangers:
//!
//! - Pre-tokenizers that are a `std::regex` recurse once a character of a match, and a stack that
//!   overflows ends the process. [`cuts`] finds how long a match can get; a text with long ones is
//!   read on a thread whose stack is large enough.
//! - The search for special tokens takes time that is quadratic in how many a text has, so
//!   [`special_tokens`] does it here.
//! - A begin or end that a vocabulary announces and does not have ends the process, so both are
//!   added here.

mod cuts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod special_tokens;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::thread;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use self::cuts::{PreTokenizerQuirk, TokenizePlan};
use self::special_tokens::{SpecialTokens, TextPiece};
use super::context::raw_model;
use super::{Token, TokenizeOptions};

/// Bytes of stack that one character of a match takes: four times the 320 that were measured
/// (x86-64, libstdc++ 12, the same for every pattern that recurses).
const STACK_A_CHARACTER: usize = 1280;
/// For everything below the recursion.
const STACK_BASE: usize = 256 << 10;
/// So long a match may be on whatever stack the caller has, in characters: 160 KiB by measure.
const IN_PLACE: usize = 512;
/// Longer matches are cut, in characters. No natural text has such: its words end, and where a
/// script writes none apart, its paragraphs do. It takes 80 MiB of addresses, and of memory what is
/// used, which goes back with the thread.
const LONGEST_MATCH: usize = 64 << 10;
/// Texts are given to llama.cpp in portions of about so many bytes, for it takes some 30 (and up to
/// 90) bytes of memory for each.
const PORTION: usize = 1 << 20;
/// Portions up to this length are remembered within a text: compiling a pre-tokenizer's pattern,
/// which llama.cpp does for each, takes up to 0.8 ms, and what there are many of are few different
/// ones.
const REMEMBERED: usize = 32;

/// How one model's vocabulary reads texts.
#[derive(Debug)]
pub(super) struct Encoder {
    /// What its pre-tokenizer does; none where there is none, and nothing recurses.
    habit: Option<PreTokenizerQuirk>,
    special_tokens: SpecialTokens,
    begin: Option<Token>,
    end: Option<Token>,
}

impl Encoder {
    pub(super) fn of(model: &LlamaModel) -> Self {
        let vocab = model.vocab();
        let known =
            |token: llama_cpp_2::token::LlamaToken| (token.0 >= 0).then_some(Token(token.0));
        // SAFETY: the vocabulary lives as long as the model.
        let kind = unsafe { sys::llama_vocab_type(raw_vocab(model)) };
        // As `llama_vocab::impl::tokenize` has it for each kind.
        let (begins, ends) = match kind {
            sys::LLAMA_VOCAB_TYPE_WPM => (known(vocab.bos()), known(vocab.sep())),
            sys::LLAMA_VOCAB_TYPE_RWKV => (None, None),
            _ => (
                known(vocab.bos()).filter(|_| vocab.should_add_bos()),
                known(vocab.eos()).filter(|_| vocab.should_add_eos()),
            ),
        };
        Self {
            habit: (kind == sys::LLAMA_VOCAB_TYPE_BPE).then(|| {
                let value = |key| model.meta_val_str(key).unwrap_or_default();
                PreTokenizerQuirk::of(&value("tokenizer.ggml.model"), &value("tokenizer.ggml.pre"))
            }),
            special_tokens: SpecialTokens::of(&vocab),
            begin: begins,
            end: ends,
        }
    }

    /// Bytes of the longest text that stands for a token as a whole.
    pub(super) fn longest_special(&self) -> usize {
        self.special_tokens.longest()
    }

    /// The tokens of a text.
    pub(super) fn tokens(
        &self,
        vocab: &LlamaModel,
        text: &str,
        reading: TokenizeOptions,
    ) -> Vec<Token> {
        let pieces = self.special_tokens.split(text, reading.markup);
        let mut tokens = Vec::new();
        if reading.bounds {
            tokens.extend(self.begin);
        }
        self.read(vocab, &pieces, &mut tokens);
        if reading.bounds {
            tokens.extend(self.end);
        }
        tokens
    }

    /// The tokens of texts that follow each other, none of which spans two of them.
    pub(super) fn tokens_of_all(&self, vocab: &LlamaModel, texts: &[&str]) -> Vec<Token> {
        let pieces = texts
            .iter()
            .flat_map(|text| self.special_tokens.split(text, false))
            .collect::<Vec<_>>();
        let mut tokens = Vec::new();
        self.read(vocab, &pieces, &mut tokens);
        tokens
    }

    fn read(&self, vocab: &LlamaModel, pieces: &[TextPiece], tokens: &mut Vec<Token>) {
        let plan = TokenizePlan::of(pieces, self.habit, LONGEST_MATCH, PORTION);
        if plan.longest_match <= IN_PLACE {
            return read(vocab, &plan.portions, tokens);
        }
        if let Some(read) = on_a_large_stack(plan.longest_match, || {
            let mut tokens = Vec::new();
            read(vocab, &plan.portions, &mut tokens);
            tokens
        }) {
            tokens.extend(read);
            return;
        }
        // A token here and there is another where a long word was cut: better than no answer.
        tracing::warn!("the system gives no thread to read a long word on, so it is cut");
        let plan = TokenizePlan::of(pieces, self.habit, IN_PLACE, PORTION);
        read(vocab, &plan.portions, tokens);
    }
}

/// Does it on a thread of its own; none where the system gives none.
fn on_a_large_stack<T: Send>(characters: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("tokenizer".to_owned())
            .stack_size(STACK_BASE + characters * STACK_A_CHARACTER)
            .spawn_scoped(scope, work)
            .ok()?
            .join()
            .ok()
    })
}

fn read<'t>(vocab: &LlamaModel, portions: &[TextPiece<'t>], tokens: &mut Vec<Token>) {
    let mut buffer = Vec::new();
    let mut remembered: HashMap<&'t str, Vec<Token>> = HashMap::new();
    for portion in portions {
        match *portion {
            TextPiece::Special(token) => tokens.push(token),
            TextPiece::Text(text) if text.len() <= REMEMBERED && portions.len() > 1 => {
                let read = remembered
                    .entry(text)
                    .or_insert_with(|| known(call(vocab, text, &mut buffer)).collect());
                tokens.extend_from_slice(read);
            }
            TextPiece::Text(text) => tokens.extend(known(call(vocab, text, &mut buffer))),
        }
    }
}

/// Vocabularies without a token for what is unknown give −1 for it.
fn known(ids: &[sys::llama_token]) -> impl Iterator<Item = Token> {
    ids.iter().filter(|&&id| id >= 0).map(|&id| Token(id))
}

/// llama.cpp's own function, once or, where the tokens are more than the bytes, twice.
fn call<'b>(
    vocab: &LlamaModel,
    text: &str,
    buffer: &'b mut Vec<sys::llama_token>,
) -> &'b [sys::llama_token] {
    // Some kinds put a space in front.
    let mut room = text.len() + 8;
    loop {
        buffer.resize(room.max(buffer.len()), 0);
        let length = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
        // SAFETY: the vocabulary lives as long as the model; the text and the buffer are as long as
        // it is told. Vocabularies for which it would throw were refused when the model was loaded.
        let count = unsafe {
            sys::llama_tokenize(
                raw_vocab(vocab),
                text.as_ptr().cast(),
                length(text.len()),
                buffer.as_mut_ptr(),
                length(buffer.len()),
                false,
                false,
            )
        };
        match usize::try_from(count) {
            Ok(count) => return &buffer[..count],
            // So many it has for as long a text as this, or more than a number can say.
            Err(_) if buffer.len() >= count.unsigned_abs() as usize => return &[],
            Err(_) => room = count.unsigned_abs() as usize,
        }
    }
}

fn raw_vocab(vocab: &LlamaModel) -> *const sys::llama_vocab {
    // SAFETY: the model is alive.
    unsafe { sys::llama_model_get_vocab(raw_model(vocab)) }
}
