//! Tool calls in generated text, found while it is generated.
//!
//! The format is that of Hermes 2 Pro, which Qwen2.5 and Qwen3 share (Qwen documentation, "Function
//! Calling"): any number of
//! ```text
//! <tool_call>
//! {"name": "get_price", "arguments": {"article": "milk"}}
//! </tool_call>
//! ```
//! with text before or between. A block ends at the first closing tag. Another format (Llama's bare JSON,
//! Mistral's `[TOOL_CALLS]`) becomes a parser of its own beside this one with the same three functions.

use serde::Deserialize;
use serde_json::value::RawValue;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// The longest block; more is text.
const MAX_BLOCK: usize = 64 * 1024;
/// The longest white space that is held back until it is known whether text follows.
const MAX_BLANK: usize = 4 * 1024;

/// A piece of a parsed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What the client reads.
    Text(String),
    /// What the client runs.
    Call {
        /// The function.
        name: String,
        /// Its arguments: the JSON text of an object, as generated.
        arguments: String,
    },
}

/// Splits a generated answer into text and tool calls as it comes in.
///
/// Nothing is lost: a block that is not a call (JSON with a string `name` and an object `arguments`)
/// comes out as text, exactly as generated. White space that stands alone beside a call is dropped.
/// The parts joined do not depend on how the answer was cut into pushes.
#[derive(Debug, Default)]
pub struct ToolCallParser {
    /// Not yet decided: the start of a tag, or the open block behind its tag.
    pending: String,
    /// How much of `pending` was searched for a tag already.
    searched: usize,
    /// White space since the last call, held back while no text followed.
    blank: String,
    /// Whether text followed the last call.
    spoke: bool,
    in_block: bool,
    called: bool,
}

/// The object in a block.
#[derive(Deserialize)]
struct Call<'a> {
    name: String,
    #[serde(borrow)]
    arguments: &'a RawValue,
}

impl ToolCallParser {
    /// At the start of an answer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the answer and gives what is now certain.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.pending.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Gives the rest. A call that was complete but for its closing tag counts.
    #[must_use]
    pub fn finish(mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.pending);
        if self.in_block {
            self.block(&rest, "", &mut parts);
        } else {
            self.text(&rest, &mut parts);
        }
        if !self.called && !self.blank.is_empty() {
            emit(&mut parts, &self.blank);
        }
        parts
    }

    /// Decides one stretch of what is pending; false when more input is needed.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        let tag = if self.in_block { CLOSE } else { OPEN };
        // A block's closing tag must begin within the limit, however the input was cut.
        let from = self.searched.saturating_sub(tag.len() - 1);
        let found = find(&self.pending, tag, from).filter(|&at| !self.in_block || at <= MAX_BLOCK);
        self.searched = 0;
        if let Some(at) = found {
            let body: String = self.pending.drain(..at + tag.len()).collect();
            if self.in_block {
                self.block(&body[..at], CLOSE, parts);
            } else {
                self.text(&body[..at], parts);
            }
            self.in_block = !self.in_block;
            return true;
        }
        if !self.in_block {
            let certain = self.pending.len() - partial_tag(&self.pending);
            let text: String = self.pending.drain(..certain).collect();
            self.text(&text, parts);
            return false;
        }
        if self.pending.len() < MAX_BLOCK + CLOSE.len() {
            self.searched = self.pending.len();
            return false;
        }
        let mut end = MAX_BLOCK;
        while !self.pending.is_char_boundary(end) {
            end -= 1;
        }
        let text: String = self.pending.drain(..end).collect();
        self.text(OPEN, parts);
        self.text(&text, parts);
        self.in_block = false;
        true
    }

    /// A block without its tags; `close` is the closing tag as generated.
    fn block(&mut self, body: &str, close: &str, parts: &mut Vec<Part>) {
        match serde_json::from_str(body) {
            // Serde also takes a struct from an array, which is no call.
            Ok(Call { name, arguments })
                if body.trim_start().starts_with('{') && arguments.get().starts_with('{') =>
            {
                parts.push(Part::Call {
                    name,
                    arguments: arguments.get().into(),
                });
                self.blank.clear();
                self.spoke = false;
                self.called = true;
            }
            _ => {
                self.text(OPEN, parts);
                self.text(body, parts);
                self.text(close, parts);
            }
        }
    }

    fn text(&mut self, text: &str, parts: &mut Vec<Part>) {
        if self.spoke {
            return emit(parts, text);
        }
        self.blank.push_str(text);
        if !text.trim().is_empty() || self.blank.len() > MAX_BLANK {
            self.spoke = true;
            emit(parts, &std::mem::take(&mut self.blank));
        }
    }
}

fn emit(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.into())),
    }
}

/// Where `tag` first begins in `text` at or after the byte `from`, which need not begin a character.
fn find(text: &str, tag: &str, from: usize) -> Option<usize> {
    let mut windows = text.as_bytes().get(from..)?.windows(tag.len());
    windows
        .position(|window| window == tag.as_bytes())
        .map(|at| from + at)
}

/// How many bytes at the end of `text` may be the start of an opening tag.
fn partial_tag(text: &str) -> usize {
    (1..OPEN.len())
        .rev()
        .find(|&length| text.ends_with(&OPEN[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CLOSE, MAX_BLANK, MAX_BLOCK, OPEN, Part, ToolCallParser};

    /// The parts of `pieces`, neighbouring texts joined.
    fn parse<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Vec<Part> {
        let mut parser = ToolCallParser::new();
        let mut parts: Vec<Part> = Vec::new();
        for piece in pieces {
            parts.extend(parser.push(piece));
        }
        parts.extend(parser.finish());
        let mut joined: Vec<Part> = Vec::new();
        for part in parts {
            match (joined.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call {
            name: name.into(),
            arguments: arguments.into(),
        }
    }

    #[test]
    fn a_call_is_found_and_its_arguments_stay_as_generated() {
        let answer = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\":  1.50, \"a\": \"é\"}}\n</tool_call>";
        assert_eq!(parse([answer]), [call("f", "{\"x\":  1.50, \"a\": \"é\"}")]);
    }

    #[test]
    fn several_calls_follow_a_text_and_the_white_space_between_them_is_dropped() {
        let answer = "Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n \
                      <tool_call>{\"arguments\":{},\"name\":\"g\"}</tool_call>\n";
        assert_eq!(
            parse([answer]),
            [text("Let me see.\n"), call("f", "{}"), call("g", "{}")]
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
            "{\"name\": \"f\", \"arguments\": {}} trailing",
            "",
        ] {
            let answer = format!(" {OPEN}{body}{CLOSE} after");
            assert_eq!(parse([answer.as_str()]), [text(&answer)]);
        }
    }

    #[test]
    fn half_a_tag_is_held_back_until_it_is_decided() {
        let mut parser = ToolCallParser::new();
        assert_eq!(parser.push("so <tool"), [text("so ")]);
        assert_eq!(parser.push("_box> <"), [text("<tool_box> ")]);
        assert_eq!(parser.finish(), [text("<")]);
    }

    #[test]
    fn a_call_cut_off_before_its_closing_tag_still_counts_and_half_a_call_is_text() {
        let whole = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n";
        assert_eq!(parse([whole]), [call("f", "{}")]);
        let half = "<tool_call>\n{\"name\": \"f\", \"argu";
        assert_eq!(parse([half]), [text(half)]);
    }

    #[test]
    fn white_space_alone_is_an_answer_when_nothing_was_called() {
        assert_eq!(parse([" \n"]), [text(" \n")]);
        assert_eq!(parse(["\n\nHello\n"]), [text("\n\nHello\n")]);
        assert!(parse([""]).is_empty());
    }

    #[test]
    fn an_endless_block_or_endless_white_space_does_not_fill_memory() {
        let mut parser = ToolCallParser::new();
        assert!(parser.push(OPEN).is_empty());
        let piece = "é".repeat(1000);
        let mut out = 0;
        for _ in 0..200 {
            out += parser.push(&piece).len();
            assert!(parser.pending.len() < MAX_BLOCK + CLOSE.len() + piece.len());
        }
        assert!(out > 0);

        let mut parser = ToolCallParser::new();
        assert!(!parser.push(&" ".repeat(MAX_BLANK + 1)).is_empty());
        assert!(parser.blank.is_empty());
    }

    #[test]
    fn an_endless_block_comes_out_whole_however_it_is_cut() {
        let long = "x".repeat(MAX_BLOCK - 3);
        for extra in ["", "xxx", "xxxx", "é<é", "xxxxxxxxxxxxxxxxxxxxxx"] {
            let answer = format!(
                "{OPEN}{long}{extra}{CLOSE} <tool_call>{{\"name\":\"f\",\"arguments\":{{}}}}"
            );
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
        fn no_text_is_lost(answer in fragments()) {
            let only_text: Vec<Part> = parse([answer.as_str()]);
            if only_text.iter().all(|part| matches!(part, Part::Text(_))) {
                let expected: Vec<Part> = [text(&answer)].into_iter().filter(|_| !answer.is_empty()).collect();
                prop_assert_eq!(only_text, expected);
            }
        }
    }
}
