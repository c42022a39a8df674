//! Parses a generated answer into thoughts, text and tool calls.

use std::ops::Range;

use crate::engine::SpecialToken;

use super::thinking::{Thought, ThoughtParser, ThoughtTags};
use super::tools::{AnswerPart, ToolCallParser, ToolFormat};

/// A piece of a parsed answer, for the renderer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPiece {
    /// Of the model's thoughts.
    Thought(String),
    /// Of the answer or its tool calls.
    Part(AnswerPart),
}

/// A span of a generated text that a client reads; what lies between spans is markup, or belongs to a
/// call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextSpan {
    /// In bytes of all that was generated.
    pub range: Range<usize>,
    /// The channel that it is read in.
    pub channel: ReaderChannel,
}

/// The part of a response in which a client reads a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderChannel {
    /// The model's thoughts.
    Thoughts,
    /// The answer's content.
    Content,
}

/// Parses an answer while it is generated.
#[derive(Debug, Clone)]
pub struct OutputParser {
    thoughts: Option<ThoughtParser>,
    calls: Option<ToolCallParser>,
    /// Where the answer begins after the thoughts, in bytes of all that was generated.
    answer_at: Option<usize>,
    /// Bytes that were pushed so far.
    pushed: usize,
    /// Texts that the client never reads.
    hidden: Vec<String>,
}

impl OutputParser {
    /// Makes a parser at the start of an answer. `thoughts` are the tags of a model that thinks, and whether
    /// its prompt opened the thoughts already; calls are looked for where `calls` is a format.
    #[must_use]
    pub fn new(thoughts: Option<(ThoughtTags, bool)>, calls: Option<ToolFormat>) -> Self {
        Self {
            thoughts: thoughts.map(|(tags, opened)| ThoughtParser::new(tags, opened)),
            calls: calls.map(ToolCallParser::new),
            answer_at: None,
            pushed: 0,
            hidden: Vec::new(),
        }
    }

    /// For an answer that a grammar restricts to calls: what is not part of a complete call, such as the
    /// start of one that was cut off, is never content.
    #[must_use]
    pub fn only_calls(mut self) -> Self {
        self.calls = self.calls.map(ToolCallParser::only_calls);
        self
    }

    /// Leaves the text of `tags` out of content and thoughts where it is not markup. Each tag is expected
    /// to come whole.
    #[must_use]
    pub fn hiding(mut self, tags: &[SpecialToken]) -> Self {
        self.hidden = tags.iter().map(|tag| tag.text.clone()).collect();
        self
    }

    /// Whether all text is content.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.thoughts.is_none() && self.calls.is_none()
    }

    /// Takes the next piece of text; returns what has become certain.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<OutputPiece> {
        let pieces = self.take(text).into_iter().map(|(_, piece)| piece);
        hide(pieces.collect(), &self.hidden)
    }

    /// Returns the rest of an answer that ended by itself. One that was cut off has no rest: what is
    /// undecided may be the start of markup, and what its client has read must be a prefix of what a longer
    /// answer would say.
    #[must_use]
    pub fn finish(mut self) -> Vec<OutputPiece> {
        let pieces = self.take_rest().into_iter().map(|(_, piece)| piece);
        hide(pieces.collect(), &self.hidden)
    }

    /// Does the same as [`push`](Self::push), but returns where the text is that a client reads.
    #[must_use]
    pub fn locate(&mut self, text: &str) -> Vec<TextSpan> {
        stretches(&self.take(text))
    }

    /// Does the same as [`finish`](Self::finish), but returns where the text is that a client reads.
    #[must_use]
    pub fn locate_rest(mut self) -> Vec<TextSpan> {
        stretches(&self.take_rest())
    }

    /// Returns how many bytes at the end of what was pushed are still undecided.
    #[must_use]
    pub fn undecided(&self) -> usize {
        let thoughts = self.thoughts.as_ref().map_or(0, ThoughtParser::undecided);
        thoughts + self.calls.as_ref().map_or(0, ToolCallParser::undecided)
    }

    fn take(&mut self, text: &str) -> Vec<(usize, OutputPiece)> {
        let at = self.pushed;
        self.pushed += text.len();
        if let Some(thoughts) = &mut self.thoughts {
            let found = thoughts.push(text).into_iter();
            found
                .flat_map(|(at, thought)| self.tell(at, thought))
                .collect()
        } else {
            self.answer(at, text)
        }
    }

    fn take_rest(&mut self) -> Vec<(usize, OutputPiece)> {
        let rest = self.thoughts.take().and_then(ThoughtParser::finish);
        let mut pieces = rest.map_or_else(Vec::new, |(at, thought)| self.tell(at, thought));
        let rest = self.calls.take().map(ToolCallParser::finish);
        pieces.extend(self.placed(rest.unwrap_or_default()));
        pieces
    }

    fn tell(&mut self, at: usize, thought: Thought) -> Vec<(usize, OutputPiece)> {
        match thought {
            Thought::Inside(text) => vec![(at, OutputPiece::Thought(text))],
            Thought::Outside(text) => self.answer(at, &text),
        }
    }

    /// The next text of the answer, which stands at `at`.
    fn answer(&mut self, at: usize, text: &str) -> Vec<(usize, OutputPiece)> {
        self.answer_at.get_or_insert(at);
        match &mut self.calls {
            Some(calls) => {
                let parts = calls.push(text);
                self.placed(parts)
            }
            None if text.is_empty() => Vec::new(),
            None => vec![(at, OutputPiece::Part(AnswerPart::Text(text.to_owned())))],
        }
    }

    /// Parts of the answer, whose places are counted from where it begins.
    fn placed(&self, parts: Vec<(usize, AnswerPart)>) -> Vec<(usize, OutputPiece)> {
        let begin = self.answer_at.unwrap_or(0);
        let place = |(at, part)| (begin + at, OutputPiece::Part(part));
        parts.into_iter().map(place).collect()
    }
}

fn stretches(pieces: &[(usize, OutputPiece)]) -> Vec<TextSpan> {
    let stretch = |(at, piece): &(usize, OutputPiece)| {
        let (text, channel) = match piece {
            OutputPiece::Thought(text) => (text, ReaderChannel::Thoughts),
            OutputPiece::Part(AnswerPart::Text(text)) => (text, ReaderChannel::Content),
            OutputPiece::Part(AnswerPart::Call { .. } | AnswerPart::Arguments(_)) => return None,
        };
        let range = *at..at + text.len();
        Some(TextSpan { range, channel })
    };
    pieces.iter().filter_map(stretch).collect()
}

fn hide(mut pieces: Vec<OutputPiece>, hidden: &[String]) -> Vec<OutputPiece> {
    if hidden.is_empty() {
        return pieces;
    }
    pieces.retain_mut(|piece| match piece {
        OutputPiece::Thought(text) | OutputPiece::Part(AnswerPart::Text(text)) => {
            for tag in hidden {
                if text.contains(tag) {
                    *text = text.replace(tag, "");
                }
            }
            !text.is_empty()
        }
        OutputPiece::Part(AnswerPart::Call { .. } | AnswerPart::Arguments(_)) => true,
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{SpecialKind, Token};

    fn control(texts: &[&str]) -> Vec<SpecialToken> {
        let token = |(id, text): (i32, &&str)| SpecialToken {
            text: (*text).to_owned(),
            token: Token(id),
            kind: SpecialKind::Control,
        };
        (0..).zip(texts).map(token).collect()
    }

    /// What comes of texts that end where tokens do.
    fn parse(mut parser: OutputParser, texts: &[&str]) -> Vec<OutputPiece> {
        let mut pieces: Vec<_> = texts.iter().flat_map(|text| parser.push(text)).collect();
        pieces.extend(parser.finish());
        pieces
    }

    fn said(text: &str) -> OutputPiece {
        OutputPiece::Part(AnswerPart::Text(text.to_owned()))
    }

    #[test]
    fn control_tokens_mark_calls_and_thoughts_and_are_never_read() {
        let call = |name: &str| {
            OutputPiece::Part(AnswerPart::Call {
                name: name.to_owned(),
            })
        };
        let arguments = |text: &str| OutputPiece::Part(AnswerPart::Arguments(text.to_owned()));
        let mistral = || {
            let tags = control(&["[TOOL_CALLS]", "[ARGS]"]);
            OutputParser::new(None, Some(ToolFormat::Mistral)).hiding(&tags)
        };
        assert_eq!(
            parse(mistral(), &["[TOOL_CALLS]", "f", "[ARGS]", "{}"]),
            [call("f"), arguments("{}")]
        );
        assert_eq!(
            parse(
                mistral(),
                &["a", "[ARGS]", "b", "[TOOL_CALLS]", "no, thanks"]
            ),
            [said("a"), said("b"), said("no, thanks")]
        );
        let tags = control(&["<|python_tag|>"]);
        let llama = OutputParser::new(None, Some(ToolFormat::Llama)).hiding(&tags);
        assert_eq!(
            parse(llama, &["<|python_tag|>", "print(1)"]),
            [said("print(1)")]
        );
        let thinking = ThoughtTags::of("</think>").map(|tags| (tags, false));
        let tags = control(&["<think>", "</think>"]);
        let parser = OutputParser::new(thinking, None).hiding(&tags);
        assert_eq!(
            parse(parser, &["<think>", "hm", "</think>", "Yes", "</think>"]),
            [OutputPiece::Thought("hm".to_owned()), said("Yes")]
        );
    }

    #[test]
    fn stretches_are_where_their_text_is_and_the_rest_is_undecided_or_markup() {
        let tags = ThoughtTags::of("</think>").expect("it thinks");
        let answer = "\n<think>\n Hm. \n</think>\n\nSo: <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> é <";
        let mut parser = OutputParser::new(Some((tags, false)), Some(ToolFormat::Hermes));
        let mut found = Vec::new();
        for (at, letter) in answer.char_indices() {
            found.extend(parser.locate(&answer[at..at + letter.len_utf8()]));
            let decided = at + letter.len_utf8() - parser.undecided();
            assert!(
                found
                    .iter()
                    .all(|stretch: &TextSpan| stretch.range.end <= decided)
            );
        }
        assert_eq!(parser.undecided(), 1);
        found.extend(parser.locate_rest());
        let read = |wanted| -> String {
            let stretches = found.iter().filter(|stretch| stretch.channel == wanted);
            stretches
                .map(|stretch| &answer[stretch.range.clone()])
                .collect()
        };
        assert_eq!(read(ReaderChannel::Thoughts), "Hm.");
        assert_eq!(read(ReaderChannel::Content), "So:  é <");
    }

    #[test]
    fn an_answer_that_is_cut_off_in_a_tag_of_thoughts_shows_nothing_of_the_tag() {
        let tags = ThoughtTags::of("</think>").expect("it thinks");
        let answer = "<think>Hm.\n</think>Yes.";
        for end in 0..=answer.len() {
            let mut parser = OutputParser::new(Some((tags, false)), Some(ToolFormat::Hermes));
            for piece in parser.push(&answer[..end]) {
                let (OutputPiece::Thought(text) | OutputPiece::Part(AnswerPart::Text(text))) =
                    piece
                else {
                    panic!("nothing is called");
                };
                assert!(
                    "Hm.".starts_with(&text) || "Yes.".starts_with(&text),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_call_in_thoughts_is_a_thought() {
        let tags = ThoughtTags::of("</think>").expect("it thinks");
        let mut parser = OutputParser::new(Some((tags, true)), Some(ToolFormat::Hermes));
        let thought = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        let pieces = parser.push(&format!("{thought}</think>Yes."));
        let said = OutputPiece::Part(AnswerPart::Text("Yes.".to_owned()));
        assert_eq!(pieces, [OutputPiece::Thought(thought.to_owned()), said]);
    }
}
