//! What counts as a call, however the answer is cut.

use proptest::prelude::*;

use super::ToolFormat;
use super::parser::{AnswerPart, CLOSE, MAX_BLANK, MAX_BLOCK, ToolCallParser};

const OPEN: &str = "<tool_call>";

/// The parts of `pieces`, neighbours of a kind joined.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Vec<AnswerPart> {
    parse_as(ToolFormat::Hermes, pieces)
}

fn parse_as<'a>(format: ToolFormat, pieces: impl IntoIterator<Item = &'a str>) -> Vec<AnswerPart> {
    let mut parser = ToolCallParser::new(format);
    let mut parts: Vec<AnswerPart> = Vec::new();
    for piece in pieces {
        parts.extend(push(&mut parser, piece));
    }
    parts.extend(rest(parser));
    let mut joined: Vec<AnswerPart> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(AnswerPart::Text(before)), AnswerPart::Text(more))
            | (Some(AnswerPart::Arguments(before)), AnswerPart::Arguments(more)) => {
                before.push_str(&more);
            }
            (_, part) => joined.push(part),
        }
    }
    joined
}

fn push(parser: &mut ToolCallParser, text: &str) -> Vec<AnswerPart> {
    parser
        .push(text)
        .into_iter()
        .map(|(_, part)| part)
        .collect()
}

fn rest(parser: ToolCallParser) -> Vec<AnswerPart> {
    parser.finish().into_iter().map(|(_, part)| part).collect()
}

fn text(text: &str) -> AnswerPart {
    AnswerPart::Text(text.into())
}

fn call(name: &str) -> AnswerPart {
    AnswerPart::Call { name: name.into() }
}

fn arguments(json: &str) -> AnswerPart {
    AnswerPart::Arguments(json.into())
}

#[test]
fn a_call_is_found_and_its_arguments_stay_as_generated() {
    let answer =
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\":  1.50, \"a\": \"é\"}}\n</tool_call>";
    let json = "{\"x\":  1.50, \"a\": \"é\"}";
    assert_eq!(parse([answer]), [call("f"), arguments(json)]);
}

#[test]
fn several_calls_follow_a_text_and_the_white_space_between_them_is_dropped() {
    let answer = "Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n \
                  <tool_call>{\"arguments\":{},\"name\":\"g\"}</tool_call>\n";
    assert_eq!(
        parse([answer]),
        [
            text("Let me see.\n"),
            call("f"),
            arguments("{}"),
            call("g"),
            arguments("{}"),
        ]
    );
}

#[test]
fn a_block_that_is_no_call_comes_out_as_generated() {
    for body in [
        "not json",
        "{\"name\": 1, \"arguments\": {}}",
        "{\"name\": \"f\"}",
        "[\"f\", {}]",
        "{\"name\": \"f\", \"arguments\": \"{}\"}",
        "",
    ] {
        let answer = format!(" {OPEN}{body}{CLOSE} after");
        assert_eq!(parse([answer.as_str()]), [text(&answer)]);
    }
}

#[test]
fn half_a_tag_is_held_back_until_it_is_decided() {
    let mut parser = ToolCallParser::new(ToolFormat::Hermes);
    assert_eq!(push(&mut parser, "so <tool"), [text("so ")]);
    assert_eq!(push(&mut parser, "_box> <"), [text("<tool_box> ")]);
    assert_eq!(rest(parser), [text("<")]);
}

#[test]
fn a_call_cut_off_before_its_closing_tag_still_counts_and_half_a_call_is_text() {
    let whole = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n";
    assert_eq!(parse([whole]), [call("f"), arguments("{}")]);
    let half = "<tool_call>\n{\"name\": \"f\", \"argu";
    assert_eq!(parse([half]), [text(half)]);
}

/// What a client is told of an answer that is cut off behind `text`.
fn cut_off(format: ToolFormat, text: &str, only_calls: bool) -> Vec<AnswerPart> {
    let parser = ToolCallParser::new(format);
    let mut parser = if only_calls {
        parser.only_calls()
    } else {
        parser
    };
    push(&mut parser, text)
}

/// Answers that call, as each family writes them.
fn calling() -> Vec<(ToolFormat, &'static str)> {
    vec![
        (
            ToolFormat::Hermes,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>",
        ),
        (
            ToolFormat::Llama,
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
        ),
        (
            ToolFormat::Llama,
            "{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
        ),
        (
            ToolFormat::Mistral,
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, \
             {\"name\": \"g\", \"arguments\": {}}]",
        ),
        (
            ToolFormat::MistralNamed,
            "[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
        ),
    ]
}

#[test]
fn a_call_that_is_cut_off_anywhere_shows_no_markup() {
    for (format, answer) in calling() {
        for only_calls in [false, true] {
            for end in 0..=answer.len() {
                let parts = cut_off(format, &answer[..end], only_calls);
                let is_text = |part: &AnswerPart| matches!(part, AnswerPart::Text(_));
                assert!(
                    !parts.iter().any(is_text),
                    "{parts:?} of {}",
                    &answer[..end]
                );
            }
            let whole = cut_off(format, answer, only_calls);
            assert!(whole.contains(&call("f")) && whole.contains(&arguments("{\"a\": 1}")));
        }
    }
}

#[test]
fn what_must_be_calls_is_never_text_however_it_ends() {
    for (format, answer) in calling() {
        for end in 0..=answer.len() {
            let mut parser = ToolCallParser::new(format).only_calls();
            let mut parts = push(&mut parser, &answer[..end]);
            parts.extend(rest(parser));
            let is_text = |part: &AnswerPart| matches!(part, AnswerPart::Text(_));
            assert!(
                !parts.iter().any(is_text),
                "{parts:?} of {}",
                &answer[..end]
            );
        }
    }
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut parser = ToolCallParser::new(ToolFormat::Hermes);
    assert_eq!(push(&mut parser, "<tool_call>{\"name\": \"f\", \"argu"), []);
    let begun = push(&mut parser, "ments\": {\"a\": ");
    assert_eq!(begun, [call("f"), arguments("{\"a\": ")]);
    assert_eq!(push(&mut parser, "\"}\"}"), [arguments("\"}\"}")]);
    assert_eq!(push(&mut parser, "}\n</tool_"), []);
    assert_eq!(push(&mut parser, "call> and"), [text(" and")]);
}

#[test]
fn what_follows_a_call_that_was_not_closed_is_text() {
    let answer = format!("{OPEN}{{\"name\": \"f\", \"arguments\": {{}}}} and so on");
    let expected = [call("f"), arguments("{}"), text("and so on")];
    assert_eq!(parse([answer.as_str()]), expected);
}

#[test]
fn llama_calls_are_the_whole_answer() {
    let one = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}";
    let expected = [call("f"), arguments("{\"a\": 1}")];
    assert_eq!(parse_as(ToolFormat::Llama, [one]), expected);
    let tagged = format!("<|python_tag|>{one}");
    assert_eq!(parse_as(ToolFormat::Llama, [tagged.as_str()]), expected);
    let two = format!("{one}; {one}");
    assert_eq!(parse_as(ToolFormat::Llama, [two.as_str()]).len(), 4);
    let said = format!("Here: {one}");
    assert_eq!(parse_as(ToolFormat::Llama, [said.as_str()]), [text(&said)]);
}

#[test]
fn mistral_calls_are_a_list_or_named() {
    let list =
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]";
    let expected = [call("f"), arguments("{}"), call("g"), arguments("{}")];
    assert_eq!(parse_as(ToolFormat::Mistral, [list]), expected);
    let named = "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}";
    assert_eq!(parse_as(ToolFormat::MistralNamed, [named]), expected);
}

#[test]
fn a_format_is_known_by_what_the_template_writes() {
    let of = ToolFormat::of;
    assert_eq!(of("{{ '<tool_call>' }}"), ToolFormat::Hermes);
    assert_eq!(of("no tools at all"), ToolFormat::Hermes);
    assert_eq!(
        of("'{\"name\": \"x\", ' + '\"parameters\": '"),
        ToolFormat::Llama
    );
    assert_eq!(of("[TOOL_CALLS] [AVAILABLE_TOOLS]"), ToolFormat::Mistral);
    assert_eq!(of("[TOOL_CALLS]f[ARGS]"), ToolFormat::MistralNamed);
}

#[test]
fn white_space_alone_is_an_answer_when_nothing_was_called() {
    assert_eq!(parse([" \n"]), [text(" \n")]);
    assert_eq!(parse(["\n\nHello\n"]), [text("\n\nHello\n")]);
    assert!(parse([""]).is_empty());
}

#[test]
fn an_endless_block_or_endless_white_space_does_not_fill_memory() {
    let mut parser = ToolCallParser::new(ToolFormat::Hermes);
    assert!(push(&mut parser, OPEN).is_empty());
    let piece = "é".repeat(1000);
    let mut out = 0;
    for _ in 0..200 {
        out += push(&mut parser, &piece).len();
        assert!(parser.held() < MAX_BLOCK + CLOSE.len() + piece.len());
    }
    assert!(out > 0);

    let mut parser = ToolCallParser::new(ToolFormat::Hermes);
    assert!(!push(&mut parser, &" ".repeat(MAX_BLANK + 1)).is_empty());
    assert_eq!(parser.held(), 0);
}

#[test]
fn an_endless_block_comes_out_whole_however_it_is_cut() {
    let long = "x".repeat(MAX_BLOCK - 3);
    for extra in ["", "xxx", "xxxx", "é<é", "xxxxxxxxxxxxxxxxxxxxxx"] {
        let answer =
            format!("{OPEN}{long}{extra}{CLOSE} <tool_call>{{\"name\":\"f\",\"arguments\":{{}}}}");
        let whole = parse([answer.as_str()]);
        let mut cuts = answer.char_indices().map(|(at, _)| at).collect::<Vec<_>>();
        cuts.push(answer.len());
        assert_eq!(parse(cuts.windows(2).map(|w| &answer[w[0]..w[1]])), whole);
    }
}

fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        Just(OPEN.to_owned()),
        Just(CLOSE.to_owned()),
        Just("{\"name\": \"f\", \"arguments\": {\"a\": [1]}}".to_owned()),
        Just("<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>".to_owned()),
        Just("\n ".to_owned()),
        "[<tol_ca>/ é{}\"x\n]{0,6}",
    ];
    prop::collection::vec(fragment, 0..8).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn the_parts_do_not_depend_on_how_the_answer_is_cut(
        answer in fragments(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
        ends.retain(|&end| answer.is_char_boundary(end));
        ends.extend([0, answer.len()]);
        ends.sort_unstable();
        let pieces = ends.windows(2).map(|pair| &answer[pair[0]..pair[1]]);
        prop_assert_eq!(parse(pieces), parse([answer.as_str()]));
    }

    #[test]
    fn what_is_told_of_a_cut_answer_is_the_beginning_of_the_whole(
        answer in fragments(),
        end in any::<prop::sample::Index>(),
        format in prop::sample::select(vec![ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::MistralNamed]),
    ) {
        let end = end.index(answer.len() + 1);
        if answer.is_char_boundary(end) {
            let cut = cut_off(format, &answer[..end], false);
            let whole = parse_as(format, [answer.as_str()]);
            let content = |parts: &[AnswerPart]| -> String {
                let text = |part: &AnswerPart| match part {
                    AnswerPart::Text(text) => text.clone(),
                    AnswerPart::Call { name } => format!("[{name}]"),
                    AnswerPart::Arguments(json) => json.clone(),
                };
                parts.iter().map(text).collect()
            };
            prop_assert!(content(&whole).starts_with(&content(&cut)), "{cut:?} of {whole:?}");
        }
    }

    #[test]
    fn text_stands_in_the_answer_where_it_is_said_to(
        answer in fragments(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut parser = ToolCallParser::new(ToolFormat::Hermes);
        let at = at.index(answer.len() + 1);
        let cut = if answer.is_char_boundary(at) { at } else { 0 };
        let mut parts = parser.push(&answer[..cut]);
        let decided = cut - parser.undecided();
        let first = parts.len();
        parts.extend(parser.push(&answer[cut..]));
        parts.extend(parser.finish());
        for (index, (at, part)) in parts.iter().enumerate() {
            if let AnswerPart::Text(text) = part {
                prop_assert_eq!(&answer[*at..at + text.len()], text);
                prop_assert!(index >= first || at + text.len() <= decided);
                prop_assert!(index < first || *at >= decided, "what was decided has come");
            }
        }
    }

    #[test]
    fn no_text_is_lost(answer in fragments()) {
        let only_text: Vec<AnswerPart> = parse([answer.as_str()]);
        if only_text.iter().all(|part| matches!(part, AnswerPart::Text(_))) {
            let expected: Vec<AnswerPart> = [text(&answer)].into_iter().filter(|_| !answer.is_empty()).collect();
            prop_assert_eq!(only_text, expected);
        }
    }
}
