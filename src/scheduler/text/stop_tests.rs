//! Where stop strings are looked for, in the markup of every family of models.

use proptest::prelude::*;

use super::*;
use crate::prompt::{AnswerPart, OutputParser, OutputPiece, ThoughtTags, ToolFormat};

const FORMATS: [ToolFormat; 4] = [
    ToolFormat::Hermes,
    ToolFormat::Llama,
    ToolFormat::Mistral,
    ToolFormat::MistralNamed,
];
/// Each stands somewhere in a call.
const STOPS: [&str; 12] = [
    "\n",
    "<",
    ">",
    " ",
    "\"",
    "}",
    "{",
    "tool_call",
    "name",
    "TOOL",
    ", ",
    "tea",
];

/// Calls as each family writes them.
fn calls(format: ToolFormat) -> Vec<String> {
    let json = r#"{"item": "tea", "note": "a\n}", "n": 1}"#;
    let hermes = format!("<tool_call>\n{{\"name\": \"add\", \"arguments\": {json}}}\n</tool_call>");
    match format {
        ToolFormat::Hermes => vec![
            hermes.clone(),
            format!("{hermes}\n{hermes}"),
            format!("<tool_call>{{\"arguments\": {json}, \"name\": \"add\"}}</tool_call>"),
        ],
        ToolFormat::Llama => vec![
            format!("{{\"name\": \"add\", \"parameters\": {json}}}"),
            format!("<|python_tag|>{{\"name\": \"add\", \"parameters\": {json}}}"),
        ],
        ToolFormat::Mistral => vec![format!(
            "[TOOL_CALLS] [{{\"name\": \"add\", \"arguments\": {json}}}, {{\"name\": \"add\", \"arguments\": {json}}}]"
        )],
        ToolFormat::MistralNamed => vec![
            format!("[TOOL_CALLS]add[ARGS]{json}"),
            format!("[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{json}"),
        ],
    }
}

fn thinking() -> Option<(ThoughtTags, bool)> {
    ThoughtTags::of("</think>").map(|tags| (tags, false))
}

/// What a client reads of `pieces` of an answer that ends by itself, and whether a stop string ended it.
fn read<'a>(
    parser: &OutputParser,
    stops: &[&str],
    pieces: impl IntoIterator<Item = &'a str>,
) -> (Vec<OutputPiece>, bool) {
    let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
    let mut assembler = TextAssembler::new(Stops::new(stops, parser));
    let mut parser = parser.clone();
    let mut read = Vec::new();
    let mut stopped = false;
    for piece in pieces {
        let (PushOutcome::Text(text) | PushOutcome::Stopped(text)) = &{
            let pushed = assembler.push(piece.as_bytes(), None);
            stopped = matches!(pushed, PushOutcome::Stopped(_));
            pushed
        };
        read.extend(parser.push(&text.text));
        if stopped {
            break;
        }
    }
    let rest = assembler.finish(FinishReason::Stop);
    read.extend(parser.push(&rest.text));
    read.extend(parser.finish());
    (joined(read), stopped)
}

fn joined(pieces: Vec<OutputPiece>) -> Vec<OutputPiece> {
    let mut all: Vec<OutputPiece> = Vec::new();
    for piece in pieces {
        match (all.last_mut(), piece) {
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
        }
    }
    all
}

fn letters(text: &str) -> impl Iterator<Item = &str> {
    text.split("").filter(|letter| !letter.is_empty())
}

fn said(text: &str) -> OutputPiece {
    OutputPiece::Part(AnswerPart::Text(text.to_owned()))
}

#[test]
fn no_stop_string_ends_a_call_of_any_family() {
    for format in FORMATS {
        for call in calls(format) {
            for parser in [
                OutputParser::new(None, Some(format)),
                OutputParser::new(None, Some(format)).only_calls(),
                OutputParser::new(thinking(), Some(format)),
            ] {
                let whole = read(&parser, &[], [call.as_str()]);
                assert!(
                    !whole
                        .0
                        .iter()
                        .any(|piece| matches!(piece, OutputPiece::Part(AnswerPart::Text(_))))
                );
                for stop in STOPS {
                    assert_eq!(
                        read(&parser, &[stop], [call.as_str()]),
                        whole,
                        "{stop:?} in {call}"
                    );
                    assert_eq!(
                        read(&parser, &[stop], letters(&call)),
                        whole,
                        "{stop:?} in {call}"
                    );
                }
                assert_eq!(read(&parser, &STOPS[..4], letters(&call)), whole, "{call}");
            }
        }
    }
}

#[test]
fn a_stop_string_before_or_behind_a_call_ends_the_answer_there() {
    let parser = OutputParser::new(None, Some(ToolFormat::Hermes));
    let call = &calls(ToolFormat::Hermes)[0];
    let answer = format!("Let me see. {call} There you are.");
    let (before, stopped) = read(&parser, &["see"], letters(&answer));
    assert_eq!((before, stopped), (vec![said("Let me ")], true));
    let (behind, stopped) = read(&parser, &[" you"], letters(&answer));
    assert_eq!(behind.first(), Some(&said("Let me see. ")));
    assert_eq!(behind.last(), Some(&said(" There")));
    assert!(stopped && behind.len() == 4, "{behind:?}");
    // Text on both sides of a call is no one text.
    assert!(!read(&parser, &[".  There"], letters(&answer)).1);
}

#[test]
fn what_only_looked_like_a_call_is_content_and_stops() {
    let parser = OutputParser::new(None, Some(ToolFormat::Hermes));
    let answer = "So <tool_call>no, thanks</tool_call> bye";
    for (stop, expected) in [
        ("<", "So "),
        ("tool", "So <"),
        ("thanks", "So <tool_call>no, "),
        ("bye", "So <tool_call>no, thanks</tool_call> "),
    ] {
        let whole = read(&parser, &[stop], [answer]);
        assert_eq!(whole.0, [said(expected)], "{stop}");
        assert_eq!(read(&parser, &[stop], letters(answer)).0, whole.0, "{stop}");
    }
    let (unclosed, _) = read(&parser, &["thanks"], letters("So <tool_call>no, thanks"));
    assert_eq!(unclosed, [said("So <tool_call>no, ")]);
}

#[test]
fn thoughts_are_ended_by_a_stop_string_and_their_tags_are_not() {
    let parser = OutputParser::new(thinking(), None);
    let answer = "<think>\nHm, well.\n</think>\n\nYes.\nNo.";
    let thought = |text: &str| OutputPiece::Thought(text.to_owned());
    for (stop, expected) in [
        ("think", vec![thought("Hm, well."), said("Yes.\nNo.")]),
        ("<", vec![thought("Hm, well."), said("Yes.\nNo.")]),
        ("\n\n", vec![thought("Hm, well."), said("Yes.\nNo.")]),
        ("\n", vec![thought("Hm, well."), said("Yes.")]),
        ("well", vec![thought("Hm,")]),
        (".Yes", vec![thought("Hm, well."), said("Yes.\nNo.")]),
    ] {
        assert_eq!(
            read(&parser, &[stop], letters(answer)).0,
            expected,
            "{stop:?}"
        );
    }
}

#[test]
fn a_control_token_is_never_part_of_a_stop_string_and_comes_out_whole() {
    let parser = OutputParser::new(None, Some(ToolFormat::Mistral));
    let stops = || Stops::new(vec!["[".to_owned(), "x]".to_owned()], &parser);
    let mut assembler = TextAssembler::new(stops());
    let mut all = String::new();
    for (tag, text) in [
        (false, "a"),
        (true, "[ARGS]"),
        (false, "b"),
        (true, "[TOOL_CALLS]"),
        (false, "no"),
    ] {
        let pushed = if tag {
            assembler.push_tag(text, None)
        } else {
            assembler.push(text.as_bytes(), None)
        };
        let PushOutcome::Text(text) = pushed else {
            panic!("stopped at {text}");
        };
        assert_eq!(
            text.text.matches('[').count(),
            text.text.matches(']').count(),
            "{text:?}"
        );
        all.push_str(&text.text);
    }
    all.push_str(&assembler.finish(FinishReason::Stop).text);
    assert_eq!(all, "a[ARGS]b[TOOL_CALLS]no");

    let mut assembler = TextAssembler::new(stops());
    let _ = assembler.push_tag("[TOOL_CALLS]", None);
    assert!(matches!(
        assembler.push(b"no [x", None),
        PushOutcome::Stopped(_)
    ));
}

#[test]
fn an_answer_that_is_cut_off_keeps_all_that_was_generated() {
    let parser = OutputParser::new(None, Some(ToolFormat::Hermes));
    let stops = Stops::new(vec!["name".to_owned()], &parser);
    let mut assembler = TextAssembler::new(stops);
    let cut = b"So <tool_call>\n{\"name\": \"f";
    let PushOutcome::Text(begun) = assembler.push(cut, None) else {
        panic!("it may be a call");
    };
    let rest = assembler.finish(FinishReason::Length);
    assert_eq!((begun.text + &rest.text).as_bytes(), cut);
}

proptest! {
    #[test]
    fn no_text_that_a_client_reads_holds_a_stop_string(
        format in prop::sample::select(FORMATS.to_vec()),
        thinks in any::<bool>(),
        words in prop::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]",
            "{\"name\": \"f\", \"arguments\": ", "{\"name\": \"f\", \"parameters\": ",
            "{}", "{", "}", "[", "]", ",", "a", "b", "é", " ", "\n", "<",
        ]), 0..16),
        stops in prop::collection::vec("[ab<}é\n\\[]{1,2}", 1..3),
    ) {
        let parser = OutputParser::new(thinking().filter(|_| thinks), Some(format));
        let answer = words.concat();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let (found, stopped) = read(&parser, &stops, words.iter().copied());
        let (whole, _) = read(&parser, &[], [answer.as_str()]);
        for (index, piece) in found.iter().enumerate() {
            if let OutputPiece::Thought(text) | OutputPiece::Part(AnswerPart::Text(text)) = piece {
                prop_assert!(!stops.iter().any(|stop| text.contains(stop)), "{found:?}");
            }
            // It is the beginning of what would have been said.
            match (piece, whole.get(index)) {
                (OutputPiece::Thought(text), Some(OutputPiece::Thought(all)))
                | (OutputPiece::Part(AnswerPart::Text(text)), Some(OutputPiece::Part(AnswerPart::Text(all)))) =>
                    prop_assert!(all.starts_with(text.as_str()), "{found:?} of {whole:?}"),
                (piece, other) => prop_assert_eq!(Some(piece), other),
            }
        }
        if !stopped && found.len() == whole.len() {
            let told = |pieces: &[OutputPiece]| format!("{pieces:?}").len();
            prop_assert!(told(&found) <= told(&whole));
        }
    }
}
