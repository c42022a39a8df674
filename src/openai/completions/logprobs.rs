//! Log-probabilities in the form of text completions: parallel lists with one entry per token.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::engine::{Token, Tokenizer};
use crate::sampling;

use super::wire::{CompletionLogprobs, TopLogprobs};

/// The position of the next token in a text, counted in code points, as clients count.
#[derive(Debug, Clone, Default)]
pub(super) struct TextPosition {
    characters: usize,
    /// The first bytes of a character that is not complete yet.
    begun: Vec<u8>,
}

impl TextPosition {
    /// Returns the position of a token with these bytes, and advances past it. A token in the middle of a
    /// character has the character's position.
    pub(super) fn pass(&mut self, piece: &[u8]) -> usize {
        let place = self.characters;
        self.begun.extend_from_slice(piece);
        self.characters += take_characters(&mut self.begun);
        place
    }

    /// Ends the text: an incomplete character counts as one U+FFFD.
    pub(super) fn end(&mut self) {
        let rest = std::mem::take(&mut self.begun);
        self.characters += String::from_utf8_lossy(&rest).chars().count();
    }
}

/// Removes complete characters from `bytes`, and bytes that can never become one, and counts them.
fn take_characters(bytes: &mut Vec<u8>) -> usize {
    let mut count = 0;
    loop {
        let (valid, broken) = match std::str::from_utf8(bytes) {
            Ok(text) => {
                count += text.chars().count();
                bytes.clear();
                return count;
            }
            Err(error) => (error.valid_up_to(), error.error_len()),
        };
        count += String::from_utf8_lossy(&bytes[..valid]).chars().count();
        bytes.drain(..valid + broken.unwrap_or(0));
        if broken.is_none() {
            return count;
        }
        // U+FFFD stands there.
        count += 1;
    }
}

/// Appends a token with the bytes `piece` at position `place` to the lists. `likelihood` is absent only for a
/// prompt's first token.
pub(super) fn add(
    all: &mut CompletionLogprobs,
    place: usize,
    piece: &[u8],
    likelihood: Option<&sampling::Logprobs>,
    tokenizer: &Tokenizer,
) {
    let name = name(piece);
    all.text_offset.push(place);
    all.token_logprobs
        .push(likelihood.map(|found| finite(found.logprob)));
    all.top_logprobs
        .push(likelihood.map(|found| rivals(found, &name, tokenizer)));
    all.tokens.push(name);
}

/// Returns the likeliest tokens and the chosen one, which `OpenAI` always includes, under distinct names.
fn rivals(found: &sampling::Logprobs, chosen: &str, tokenizer: &Tokenizer) -> TopLogprobs {
    let mut names = HashSet::from([chosen.to_owned()]);
    let mut rivals = Vec::with_capacity(found.top.len() + 1);
    for (token, logprob) in &found.top {
        let name = if *token == found.token {
            chosen.to_owned()
        } else {
            let name = distinct_name(*token, &names, tokenizer);
            names.insert(name.clone());
            name
        };
        rivals.push((name, finite(*logprob)));
    }
    if !found.top.iter().any(|(token, _)| *token == found.token) {
        rivals.push((chosen.to_owned(), finite(found.logprob)));
    }
    TopLogprobs(rivals)
}

/// Returns a name for `token` that is not in `others`. Several tokens may have the same text: a word with and
/// without a dropped leading space, or a letter and its byte token.
fn distinct_name(token: Token, others: &HashSet<String>, tokenizer: &Tokenizer) -> String {
    let piece = tokenizer.written(token);
    [name(&piece), byte_name(&piece)]
        .into_iter()
        .find(|name| !others.contains(name))
        .unwrap_or_else(|| format!("token_id:{}", token.0))
}

/// Returns a token's text, or its bytes as `OpenAI` writes them if they are not valid UTF-8.
fn name(piece: &[u8]) -> String {
    match std::str::from_utf8(piece) {
        Ok(text) => text.to_owned(),
        Err(_) => byte_name(piece),
    }
}

/// Writes bytes as in Python: `bytes: \xf0\x9f`.
fn byte_name(piece: &[u8]) -> String {
    let mut name = String::from("bytes:");
    for byte in piece {
        match byte {
            b'\\' => name.push_str("\\\\"),
            b' '..=b'~' => name.push(char::from(*byte)),
            byte => {
                // Writing to a string does not fail.
                let _ = write!(name, "\\x{byte:02x}");
            }
        }
    }
    name
}

/// Clamps to -9999, which `OpenAI` writes for minus infinity, because JSON has no infinity.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::engine::{LoadWatch, Vocabulary, load_model};

    fn kiosk() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");
        let model = load_model(Path::new(path), &LoadWatch::default());
        model.expect("the shipped model").1
    }

    /// The places of pieces.
    fn places(pieces: &[&[u8]]) -> Vec<usize> {
        let mut place = TextPosition::default();
        pieces.iter().map(|piece| place.pass(piece)).collect()
    }

    #[test]
    fn places_are_counted_in_characters_and_parts_of_one_stand_where_it_does() {
        let smile = "😀".as_bytes();
        let (first, second, rest) = (&smile[..1], &smile[1..3], &smile[3..]);
        assert_eq!(places(&[b"a", first, second, rest, b"b"]), [0, 1, 1, 1, 2]);
        let (head, tail) = (&smile[..2], &smile[2..]);
        assert_eq!(
            places(&[&[b"a ", head].concat(), &[tail, b" b"].concat(), b"c"]),
            [0, 2, 5]
        );
        assert_eq!(places(&["日本".as_bytes(), b"", b"x"]), [0, 2, 2]);
        // No character can come of these: each is U+FFFD in the text.
        assert_eq!(places(&[&[0xFF], &[0xE3, b'a'], b"b"]), [0, 1, 3]);
    }

    #[test]
    fn what_is_begun_where_a_text_ends_counts_as_one_character() {
        let mut place = TextPosition::default();
        place.pass(&[b'a', 0xE3, 0x81]);
        place.end();
        assert_eq!(place.pass(b"b"), 2);
    }

    #[test]
    fn parts_of_characters_are_named_by_their_bytes() {
        assert_eq!(name("é".as_bytes()), "é");
        assert_eq!(name(&[b' ', 0xF0, 0x9F]), "bytes: \\xf0\\x9f");
        assert_eq!(name(&[b'\\', 0xE3, b'\n']), "bytes:\\\\\\xe3\\x0a");
    }

    fn written(found: &sampling::Logprobs, tokenizer: &Tokenizer) -> String {
        let mut all = CompletionLogprobs::default();
        add(
            &mut all,
            0,
            &tokenizer.written(found.token),
            Some(found),
            tokenizer,
        );
        serde_json::to_string(&all).expect("JSON")
    }

    #[test]
    fn the_chosen_token_is_told_among_its_rivals_even_where_it_is_none_of_the_likeliest() {
        let model = kiosk();
        let token = |text: &str| model.encode(text)[0];
        let found = sampling::Logprobs {
            token: token("a"),
            logprob: -7.1,
            top: vec![(token("b"), -0.1), (token("c"), f32::NEG_INFINITY)],
        };
        assert_eq!(
            written(&found, &model),
            r#"{"tokens":["a"],"token_logprobs":[-7.1],"top_logprobs":[{"b":-0.1,"c":-9999.0,"a":-7.1}],"text_offset":[0]}"#
        );
    }

    #[test]
    fn rivals_without_a_text_of_their_own_keep_apart() {
        let model = kiosk();
        let parts: Vec<Token> = model.encode("日本語の絵文字");
        let controls = model.specials().iter().map(|special| special.token);
        let mut all: Vec<Token> = parts.into_iter().chain(controls).collect();
        all.sort_unstable();
        all.dedup();
        let found = sampling::Logprobs {
            token: all[0],
            logprob: -1.0,
            top: all.iter().map(|token| (*token, -1.0)).collect(),
        };
        let told: Value = serde_json::from_str(&written(&found, &model)).expect("JSON");
        let names = told["top_logprobs"][0].as_object().expect("names");
        assert_eq!(names.len(), all.len(), "{names:?}");
    }

    #[test]
    fn of_two_tokens_with_the_same_text_one_is_named_by_its_bytes() {
        let model = kiosk();
        let token = model.encode("a")[0];
        let others = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(distinct_name(token, &others(&[]), &model), "a");
        assert_eq!(distinct_name(token, &others(&["a"]), &model), "bytes:a");
        assert_eq!(
            distinct_name(token, &others(&["a", "bytes:a"]), &model),
            format!("token_id:{}", token.0)
        );
    }
}
