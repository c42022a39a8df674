//! What holds for the text of an answer, whatever it is.

use super::output::{OutputParser, OutputPiece};
use super::thinking::ThoughtTags;
use super::tools::{AnswerPart, ToolFormat};

/// An answer means the same however it is cut into the pieces that a model generates. The first two
/// bytes say how it is to be read and cut, the rest is the answer.
///
/// # Panics
/// When it does not.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn cut_answer(bytes: &[u8]) {
    let [kind, cuts, text @ ..] = bytes else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let whole = read(*kind, [&*text]);
    assert_eq!(whole, read(*kind, pieces(&text, *cuts)), "{text:?}");
    let mut in_call = false;
    for piece in whole {
        match piece {
            OutputPiece::Part(AnswerPart::Call { .. }) => in_call = true,
            OutputPiece::Part(AnswerPart::Arguments(_)) => {
                assert!(in_call, "arguments of no call: {text:?}");
            }
            OutputPiece::Part(AnswerPart::Text(_)) | OutputPiece::Thought(_) => {}
        }
    }
}

fn parser(kind: u8) -> OutputParser {
    let tags = match kind & 3 {
        0 => None,
        1 => ThoughtTags::of("[/THINK]"),
        _ => ThoughtTags::of("</think>"),
    };
    let format = match kind >> 2 & 3 {
        0 => None,
        1 => Some(ToolFormat::Hermes),
        2 => Some(ToolFormat::Llama),
        _ => Some(ToolFormat::Mistral),
    };
    OutputParser::new(tags.map(|tags| (tags, kind & 3 == 3)), format)
}

/// What a client gets in all: pieces that continue each other are one.
fn read<'t>(kind: u8, texts: impl IntoIterator<Item = &'t str>) -> Vec<OutputPiece> {
    let mut parser = parser(kind);
    let mut all: Vec<OutputPiece> = Vec::new();
    let mut add = |piece: OutputPiece| match (all.last_mut(), piece) {
        (Some(OutputPiece::Thought(before)), OutputPiece::Thought(more))
        | (
            Some(OutputPiece::Part(AnswerPart::Text(before))),
            OutputPiece::Part(AnswerPart::Text(more)),
        )
        | (
            Some(OutputPiece::Part(AnswerPart::Arguments(before))),
            OutputPiece::Part(AnswerPart::Arguments(more)),
        ) => {
            before.push_str(&more);
        }
        (_, piece) => all.push(piece),
    };
    for text in texts {
        parser.push(text).into_iter().for_each(&mut add);
    }
    parser.finish().into_iter().for_each(&mut add);
    all
}

/// `text` in pieces of a few characters, whose lengths follow from `seed`.
fn pieces(text: &str, seed: u8) -> Vec<&str> {
    let mut random = u32::from(seed);
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = 1 + (random >> 24) as usize % 7;
        let end = rest
            .char_indices()
            .nth(length)
            .map_or(rest.len(), |(at, _)| at);
        let (piece, more) = rest.split_at(end);
        pieces.push(piece);
        rest = more;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seeds_mean_the_same_however_they_are_cut() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/answer");
        let seeds: Vec<_> = fs::read_dir(seeds).expect("seeds").collect();
        assert!(seeds.len() > 5);
        for seed in seeds {
            let answer = fs::read(seed.expect("a file").path()).expect("readable");
            for kind in 0..16 {
                for cuts in 0..32 {
                    cut_answer(&[&[kind, cuts], &answer[2..]].concat());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn tags_and_braces_in_any_order_mean_the_same_however_they_are_cut(
            kind in 0..16_u8,
            cuts in any::<u8>(),
            words in prop::collection::vec(prop::sample::select(vec![
                "<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>", "[TOOL_CALLS]",
                "[ARGS]", "[CALL_ID]", "<|python_tag|>", "{\"name\": \"f\", \"arguments\": ",
                "{\"name\": \"f\", \"parameters\": ", "{", "}", "[", "]", ",", "\"", "\\", "a", "é", " ", "\n", "<",
            ]), 0..24),
        ) {
            cut_answer(&[&[kind, cuts], words.concat().as_bytes()].concat());
        }
    }
}
