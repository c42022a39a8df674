//! Vocabularies over which llama.cpp would end the process, found before it reads them.
//!
//! llama.cpp (`llama-vocab.cpp`) throws or aborts where a vocabulary lacks what its kind should
//! have. While a model loads it catches what is thrown, but not what is aborted; and nothing is
//! caught later, when a client's text meets the gap. So each such vocabulary is refused here.
//! Tokens to put around a text that it announces and does not have are
//! [`Encoder`](super::tokenize::Encoder)'s to leave out.

use std::collections::HashSet;

use super::gguf::{Metadata, Value};

/// The tries of some kinds of vocabularies recurse once a byte of a token while they are built.
const LONGEST_TOKEN: usize = 4096;

/// Several times as many as the largest vocabularies have; llama.cpp takes some hundred bytes for each.
const MOST_TOKENS: usize = 1 << 20;

/// llama.cpp's number for a token that stands for a byte (`LLAMA_TOKEN_TYPE_BYTE`).
const BYTE_TOKEN: i32 = 6;

/// Says why the vocabulary cannot be used, with what to do.
pub(super) fn check(metadata: &Metadata) -> Result<(), &'static str> {
    let Some(kind) = metadata.text("tokenizer.ggml.model") else {
        // llama.cpp says so itself, or that it does not know the architecture, which comes first.
        return Ok(());
    };
    if matches!(kind, b"" | b"no_vocab" | b"none" | b"test") {
        return Err(
            "it has no vocabulary (tokenizer.ggml.model), so it can read no text; convert it again \
             together with its tokenizer",
        );
    }
    let Some(tokens) = metadata.texts("tokenizer.ggml.tokens") else {
        // llama.cpp says so itself, without ending the process.
        return Ok(());
    };
    check_lists(metadata, tokens.len())?;
    let mut texts: HashSet<&[u8]> = HashSet::new();
    let mut empty = 0;
    for text in tokens.iter() {
        if text.len() > LONGEST_TOKEN {
            return Err(
                "its vocabulary has a token of more than 4096 bytes, which no text needs; convert \
                 it again from the original",
            );
        }
        // llama.cpp gives each of those a text of its own.
        if text.is_empty() {
            empty += 1;
        } else if !texts.insert(text) {
            return Err(
                "its vocabulary has the same token twice, so ids would be ambiguous; convert it \
                 again from the original",
            );
        }
    }
    if empty > 0 && texts.iter().any(|text| text.starts_with(b"[EMPTY_")) {
        return Err("its vocabulary has empty tokens; convert it again from the original");
    }
    match kind {
        b"llama" => has_byte_tokens(&texts),
        b"bert" => {
            let types = metadata.numbers("tokenizer.ggml.token_type");
            if types.is_some_and(|types| types.contains(&BYTE_TOKEN)) {
                return Err(
                    "its vocabulary is WordPiece and marks tokens as bytes, which that kind does \
                     not have; convert it again from the original",
                );
            }
            Ok(())
        }
        b"t5" => {
            let map = metadata.bytes("tokenizer.ggml.precompiled_charsmap");
            map.map_or(Ok(()), charsmap::check)
        }
        b"rwkv" => has_single_bytes(&texts),
        b"whitespace" => Ok(()),
        _ if metadata.text("tokenizer.ggml.pre") == Some(b"whitespace") => Err(
            "its pre-tokenizer is `whitespace`, which llama.cpp has for vocabularies of that model \
             alone (tokenizer.ggml.model); convert it again with a current llama.cpp",
        ),
        _ => Ok(()),
    }
}

/// What is said of each token is said of all.
fn check_lists(metadata: &Metadata, tokens: usize) -> Result<(), &'static str> {
    if !(1..=MOST_TOKENS).contains(&tokens) {
        return Err(
            "its vocabulary (tokenizer.ggml.tokens) has no token, or more than 1048576; convert it \
             again from the original",
        );
    }
    let kinds = metadata.numbers("tokenizer.ggml.token_type");
    if kinds.is_some_and(|kinds| kinds.len() != tokens) {
        return Err(
            "its vocabulary has another number of tokens than of their kinds \
             (tokenizer.ggml.token_type); convert it again from the original",
        );
    }
    let (scores, are_numbers) = match metadata.get("tokenizer.ggml.scores") {
        Some(Value::F32s(scores)) => (scores.len(), scores.iter().all(|score| score.is_finite())),
        Some(Value::I32s(scores)) => (scores.len(), true),
        // Missing, or of a type that llama.cpp refuses.
        _ => (tokens, true),
    };
    if scores != tokens || !are_numbers {
        return Err(
            "its vocabulary has another number of tokens than of scores (tokenizer.ggml.scores), \
             or a score that is no finite number; convert it again from the original",
        );
    }
    Ok(())
}

/// `SentencePiece` writes characters that it has no token for as bytes: `<0x0A>`, or the byte itself.
fn has_byte_tokens(texts: &HashSet<&[u8]>) -> Result<(), &'static str> {
    // Other bytes occur in no text.
    let mut needed = (0..=0xBF).chain(0xC2..=0xF4_u8);
    let found = |byte: u8| {
        texts.contains(format!("<0x{byte:02X}>").as_bytes()) || texts.contains([byte].as_slice())
    };
    if needed.all(found) {
        Ok(())
    } else {
        Err(
            "its vocabulary lacks tokens for single bytes (<0x00> to <0xFF>), so there are texts \
             that it could not read; convert it again from a tokenizer with byte fallback",
        )
    }
}

/// llama.cpp looks for the longest token at each place, and looks for ever if there is one that
/// begins so and none that ends.
fn has_single_bytes(texts: &HashSet<&[u8]>) -> Result<(), &'static str> {
    let mut begun = [false; 256];
    let mut whole = [false; 256];
    for text in texts {
        let bytes = unescape(text);
        if let Some(&first) = bytes.first() {
            begun[usize::from(first)] = true;
            whole[usize::from(first)] |= bytes.len() == 1;
        }
    }
    let newline = usize::from(b'\n');
    if begun == whole && begun[newline] {
        Ok(())
    } else {
        Err(
            "its vocabulary lacks tokens for single bytes, so there are texts that it could not \
             read; convert it again from the original",
        )
    }
}

/// As `llama_unescape_rwkv_token` does: `\n`, `\x0A` and so on.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next() {
            Some(b't') => out.push(b'\t'),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b'x') => {
                let digits: Option<String> = [rest.next(), rest.next()]
                    .into_iter()
                    .map(|digit| digit.map(char::from))
                    .collect();
                let byte = digits.and_then(|digits| u8::from_str_radix(&digits, 16).ok());
                out.extend(byte);
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// `SentencePiece`'s table of what to write for which characters: a double array whose entries name
/// each other by index (`llm_tokenizer_ugm_session::xcda_array_view`).
mod charsmap {
    use std::collections::HashSet;

    pub(super) fn check(map: &[u8]) -> Result<(), &'static str> {
        is_sound(map).then_some(()).ok_or(
            "its table of characters (tokenizer.ggml.precompiled_charsmap) is damaged; convert it \
             again from the original",
        )
    }

    fn is_sound(map: &[u8]) -> bool {
        let Some((length, rest)) = map.split_first_chunk() else {
            return false;
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((entries, replacements)) = rest.split_at_checked(length) else {
            return false;
        };
        let entries: Vec<u32> = entries
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        // Every text that is pointed to ends before the table does.
        let ends = replacements.last() == Some(&0);
        entries.is_empty() || (ends && every_path_stays_inside(&entries, replacements.len()))
    }

    /// Follows each byte from each entry that can be reached, as llama.cpp would.
    fn every_path_stays_inside(entries: &[u32], replacements: usize) -> bool {
        let base = |entry: u32| ((entry >> 10) << ((entry & (1 << 9)) >> 6)) as usize;
        let mut nodes = vec![base(entries[0])];
        let mut seen = HashSet::new();
        while let Some(node) = nodes.pop() {
            if !seen.insert(node) {
                continue;
            }
            for byte in 1..=255_u8 {
                let index = node ^ usize::from(byte);
                let Some(&entry) = entries.get(index) else {
                    return false;
                };
                if entry & ((1 << 31) | 0xFF) != u32::from(byte) {
                    continue;
                }
                let child = index ^ base(entry);
                let is_leaf = entry >> 8 & 1 == 1;
                if is_leaf {
                    let place = entries.get(child).map(|entry| entry & !(1 << 31));
                    if place.is_none_or(|place| place as usize >= replacements) {
                        return false;
                    }
                }
                nodes.push(child);
            }
        }
        true
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// A table in which "a" becomes "b".
        fn table() -> Vec<u8> {
            let mut entries = vec![0_u32; 512];
            // The root's base is 256; entry 256 ^ 'a' is checked by 'a', is a leaf, and its own base
            // leads to entry 256, which holds the place of the text.
            entries[0] = 256 << 10;
            let leaf = 256 ^ usize::from(b'a');
            entries[leaf] = (u32::from(b'a') << 10) | (1 << 8) | u32::from(b'a');
            entries[256] = 1 << 31;
            let mut map = (2048_u32).to_le_bytes().to_vec();
            map.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
            map.extend(b"b\0");
            map
        }

        fn with(index: usize, entry: u32) -> Vec<u8> {
            let mut map = table();
            map[4 + 4 * index..][..4].copy_from_slice(&entry.to_le_bytes());
            map
        }

        #[test]
        fn a_sound_table_passes_and_each_way_out_of_one_does_not() {
            assert!(is_sound(&table()));
            let leaf = 256 ^ usize::from(b'a');
            let leaf_to = |base: u32| (base << 10) | (1 << 8) | u32::from(b'a');
            // The root, a leaf and a text outside.
            assert!(!is_sound(&with(0, 700 << 10)));
            assert!(!is_sound(&with(leaf, leaf_to(9000))));
            assert!(!is_sound(&with(256, (1 << 31) | 2)));
            let mut endless = table();
            *endless.last_mut().expect("bytes") = b'b';
            assert!(!is_sound(&endless));
            assert!(!is_sound(&[1, 2]) && !is_sound(&table()[..100]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::gguf_editor::GgufEditor;
    use super::super::{LoadError, TokenizeOptions, load_model};

    const TOKENS: &str = "tokenizer.ggml.tokens";
    const TYPES: &str = "tokenizer.ggml.token_type";

    fn refusal(edited: GgufEditor) -> String {
        let error = edited.load().expect_err("refused");
        assert!(matches!(error, LoadError::Unservable { .. }), "{error}");
        error.to_string()
    }

    /// As many tokens as the shipped model has.
    fn tokens(mut text: impl FnMut(usize) -> String) -> Vec<String> {
        let kiosk = load_model(
            Path::new(super::super::gguf_editor::KIOSK),
            &super::super::LoadWatch::default(),
        );
        let (_, tokenizer) = kiosk.expect("the shipped model");
        let count = tokenizer.info().vocabulary;
        (0..count).map(&mut text).collect()
    }

    fn sentence_piece(has_bytes: bool) -> GgufEditor {
        let texts = tokens(|id| match id {
            3..259 if has_bytes => format!("<0x{:02X}>", id - 3),
            0..3 => format!("<s{id}>"),
            _ => format!("word{id}"),
        });
        let kinds: Vec<i32> = (0..texts.len())
            .map(|id| match id {
                0..3 => 3,
                3..259 if has_bytes => 6,
                _ => 1,
            })
            .collect();
        GgufEditor::kiosk()
            .text("tokenizer.ggml.model", "llama")
            .texts(TOKENS, &texts)
            .numbers(TYPES, &kinds)
    }

    #[test]
    fn sentence_piece_without_byte_tokens_is_refused_and_with_them_reads_everything() {
        assert!(refusal(sentence_piece(false)).contains("byte fallback"));
        let model = sentence_piece(true).load().expect("loads");
        let reading = TokenizeOptions {
            bounds: false,
            markup: false,
        };
        let text = model.detokenize(&model.tokenize("é字\n", reading));
        // Behind the space that this kind puts in front.
        assert!(text.ends_with("é字\n"), "{text:?}");
    }

    #[test]
    fn vocabularies_that_would_end_the_process_are_refused_with_a_remedy() {
        let twice = tokens(|id| format!("t{}", id / 2));
        let long = tokens(|id| {
            if id == 0 {
                "x".repeat(100_000)
            } else {
                format!("t{id}")
            }
        });
        let bytes = vec![6; twice.len()];
        let some = tokens(|id| format!("t{id}"));
        let model = |name| GgufEditor::kiosk().text("tokenizer.ggml.model", name);
        let refusals = [
            (model("no_vocab"), "no vocabulary"),
            (model("none"), "no vocabulary"),
            (
                GgufEditor::kiosk().texts(TOKENS, &twice),
                "the same token twice",
            ),
            (model("t5").texts(TOKENS, &long), "4096 bytes"),
            (model("rwkv").texts(TOKENS, &some), "single bytes"),
            (
                model("bert").texts(TOKENS, &some).numbers(TYPES, &bytes),
                "WordPiece",
            ),
            (
                model("t5").bytes("tokenizer.ggml.precompiled_charsmap", &[9; 64]),
                "damaged",
            ),
            (
                GgufEditor::kiosk().text("tokenizer.ggml.pre", "whitespace"),
                "`whitespace`",
            ),
        ];
        for (edited, reason) in refusals {
            let message = refusal(edited);
            assert!(message.contains(reason), "{message}");
            assert!(message.contains("convert it again"), "{message}");
        }
    }

    #[test]
    fn a_bound_that_is_announced_and_missing_is_left_out() {
        let edited = GgufEditor::kiosk()
            .text("tokenizer.ggml.pre", "chatglm-bpe")
            .without("tokenizer.ggml.bos_token_id")
            .without("tokenizer.ggml.add_bos_token")
            .flag("tokenizer.ggml.add_bos_token", true);
        let model = edited.load().expect("loads");
        let bounded = TokenizeOptions {
            bounds: true,
            markup: false,
        };
        assert_eq!(model.detokenize(&model.tokenize("milk", bounded)), "milk");
    }
}
