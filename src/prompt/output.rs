//! What a generated answer consists of: thoughts, text, tool calls.

use std::ops::Range;

use crate::engine::SpecialToken;

use super::thinking::{Thought, ThoughtParser, ThoughtTags};
use super::tools::{Part, ToolCallParser, ToolFormat};

/// A piece of an answer, for whoever tells the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Of the model's thoughts.
    Thought(String),
    /// Of the answer or its tool calls.
    Part(Part),
}

/// A stretch of a generated text that a client reads; what lies between stretches is markup, or belongs
/// to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// In bytes of all that was generated.
    pub range: Range<usize>,
    /// What it is read as.
    pub channel: Channel,
}

/// What a client reads a text as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The model's thoughts.
    Thoughts,
    /// The answer's content.
    Content,
}

/// Takes an answer apart while it is generated.
#[derive(Debug, Clone)]
pub struct OutputParser {
    thoughts: Option<ThoughtParser>,
    calls: Option<ToolCallParser>,
    /// Where the answer begins behind the thoughts.
    answer_at: Option<usize>,
    /// Bytes that were pushed so far.
    pushed: usize,
    /// Texts that are never for the client.
    hidden: Vec<String>,
}

impl OutputParser {
    /// `thoughts` says whether the model thinks, and whether its prompt opened the thoughts already;
    /// calls are looked for where there is a format.
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

    /// For an answer that a grammar makes be calls and nothing else: what is none of a call, such as the
    /// beginning of one that was cut off, is never content.
    #[must_use]
    pub fn only_calls(mut self) -> Self {
        self.calls = self.calls.map(ToolCallParser::only_calls);
        self
    }

    /// Leaves the text of `tags` out of text and thoughts where it marks nothing. Each is expected to
    /// come whole.
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

    /// What is certain after the next piece of text.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let pieces = self.take(text).into_iter().map(|(_, piece)| piece);
        hide(pieces.collect(), &self.hidden)
    }

    /// The rest of an answer that ended by itself. One that was cut off has no rest: what is undecided
    /// may be the beginning of markup, and what its client has read must be the beginning of what a
    /// longer answer would say.
    #[must_use]
    pub fn finish(mut self) -> Vec<Piece> {
        let pieces = self.take_rest().into_iter().map(|(_, piece)| piece);
        hide(pieces.collect(), &self.hidden)
    }

    /// The same as [`push`](Self::push) for whoever has the text and wants to know what a client reads
    /// of it.
    #[must_use]
    pub fn locate(&mut self, text: &str) -> Vec<Stretch> {
        stretches(&self.take(text))
    }

    /// The same as [`finish`](Self::finish) in this way.
    #[must_use]
    pub fn locate_rest(mut self) -> Vec<Stretch> {
        stretches(&self.take_rest())
    }

    /// Bytes at the end of what was pushed of which nothing is certain yet.
    #[must_use]
    pub fn undecided(&self) -> usize {
        let thoughts = self.thoughts.as_ref().map_or(0, ThoughtParser::undecided);
        thoughts + self.calls.as_ref().map_or(0, ToolCallParser::undecided)
    }

    fn take(&mut self, text: &str) -> Vec<(usize, Piece)> {
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

    fn take_rest(&mut self) -> Vec<(usize, Piece)> {
        let rest = self.thoughts.take().and_then(ThoughtParser::finish);
        let mut pieces = rest.map_or_else(Vec::new, |(at, thought)| self.tell(at, thought));
        let rest = self.calls.take().map(ToolCallParser::finish);
        pieces.extend(self.placed(rest.unwrap_or_default()));
        pieces
    }

    fn tell(&mut self, at: usize, thought: Thought) -> Vec<(usize, Piece)> {
        match thought {
            Thought::Inside(text) => vec![(at, Piece::Thought(text))],
            Thought::Outside(text) => self.answer(at, &text),
        }
    }

    /// The next text of the answer, which stands at `at`.
    fn answer(&mut self, at: usize, text: &str) -> Vec<(usize, Piece)> {
        self.answer_at.get_or_insert(at);
        match &mut self.calls {
            Some(calls) => {
                let parts = calls.push(text);
                self.placed(parts)
            }
            None if text.is_empty() => Vec::new(),
            None => vec![(at, Piece::Part(Part::Text(text.to_owned())))],
        }
    }

    /// Parts of the answer, whose places are counted from where it begins.
    fn placed(&self, parts: Vec<(usize, Part)>) -> Vec<(usize, Piece)> {
        let begin = self.answer_at.unwrap_or(0);
        let place = |(at, part)| (begin + at, Piece::Part(part));
        parts.into_iter().map(place).collect()
    }
}

fn stretches(pieces: &[(usize, Piece)]) -> Vec<Stretch> {
    let stretch = |(at, piece): &(usize, Piece)| {
        let (text, channel) = match piece {
            Piece::Thought(text) => (text, Channel::Thoughts),
            Piece::Part(Part::Text(text)) => (text, Channel::Content),
            Piece::Part(Part::Call { .. } | Part::Arguments(_)) => return None,
        };
        let range = *at..at + text.len();
        Some(Stretch { range, channel })
    };
    pieces.iter().filter_map(stretch).collect()
}

fn hide(mut pieces: Vec<Piece>, hidden: &[String]) -> Vec<Piece> {
    if hidden.is_empty() {
        return pieces;
    }
    pieces.retain_mut(|piece| match piece {
        Piece::Thought(text) | Piece::Part(Part::Text(text)) => {
            for tag in hidden {
                if text.contains(tag) {
                    *text = text.replace(tag, "");
                }
            }
            !text.is_empty()
        }
        Piece::Part(Part::Call { .. } | Part::Arguments(_)) => true,
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
    fn parse(mut parser: OutputParser, texts: &[&str]) -> Vec<Piece> {
        let mut pieces: Vec<_> = texts.iter().flat_map(|text| parser.push(text)).collect();
        pieces.extend(parser.finish());
        pieces
    }

    fn said(text: &str) -> Piece {
        Piece::Part(Part::Text(text.to_owned()))
    }

    #[test]
    fn control_tokens_mark_calls_and_thoughts_and_are_never_read() {
        let call = |name: &str| {
            Piece::Part(Part::Call {
                name: name.to_owned(),
            })
        };
        let arguments = |text: &str| Piece::Part(Part::Arguments(text.to_owned()));
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
            [Piece::Thought("hm".to_owned()), said("Yes")]
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
                    .all(|stretch: &Stretch| stretch.range.end <= decided)
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
        assert_eq!(read(Channel::Thoughts), "Hm.");
        assert_eq!(read(Channel::Content), "So:  é <");
    }

    #[test]
    fn an_answer_that_is_cut_off_in_a_tag_of_thoughts_shows_nothing_of_the_tag() {
        let tags = ThoughtTags::of("</think>").expect("it thinks");
        let answer = "<think>Hm.\n</think>Yes.";
        for end in 0..=answer.len() {
            let mut parser = OutputParser::new(Some((tags, false)), Some(ToolFormat::Hermes));
            for piece in parser.push(&answer[..end]) {
                let (Piece::Thought(text) | Piece::Part(Part::Text(text))) = piece else {
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
        let said = Piece::Part(Part::Text("Yes.".to_owned()));
        assert_eq!(pieces, [Piece::Thought(thought.to_owned()), said]);
    }
}
