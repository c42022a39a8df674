//! What a generated answer consists of: thoughts, text, tool calls.

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

/// Takes an answer apart while it is generated.
#[derive(Debug)]
pub struct OutputParser {
    thoughts: Option<ThoughtParser>,
    calls: Option<ToolCallParser>,
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
            hidden: Vec::new(),
        }
    }

    /// Leaves the text of `tags` out of text and thoughts where it marks nothing. Each is expected to
    /// come whole.
    #[must_use]
    pub fn hiding(mut self, tags: &[SpecialToken]) -> Self {
        self.hidden = tags.iter().map(|tag| tag.text.clone()).collect();
        self
    }

    /// What is certain after the next piece of text.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let pieces = if let Some(thoughts) = &mut self.thoughts {
            let found = thoughts.push(text).into_iter();
            found.flat_map(|thought| self.tell(thought)).collect()
        } else {
            self.answer(text)
        };
        hide(pieces, &self.hidden)
    }

    /// The rest.
    #[must_use]
    pub fn finish(mut self) -> Vec<Piece> {
        let rest = self.thoughts.take().and_then(ThoughtParser::finish);
        let mut pieces: Vec<Piece> = rest
            .into_iter()
            .flat_map(|thought| self.tell(thought))
            .collect();
        let rest = self.calls.map(ToolCallParser::finish).unwrap_or_default();
        pieces.extend(rest.into_iter().map(Piece::Part));
        hide(pieces, &self.hidden)
    }

    fn tell(&mut self, thought: Thought) -> Vec<Piece> {
        match thought {
            Thought::Inside(text) => vec![Piece::Thought(text)],
            Thought::Outside(text) => self.answer(&text),
        }
    }

    fn answer(&mut self, text: &str) -> Vec<Piece> {
        let parts = match &mut self.calls {
            Some(calls) => calls.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Part::Text(text.to_owned())],
        };
        parts.into_iter().map(Piece::Part).collect()
    }
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
    fn a_call_in_thoughts_is_a_thought() {
        let tags = ThoughtTags::of("</think>").expect("it thinks");
        let mut parser = OutputParser::new(Some((tags, true)), Some(ToolFormat::Hermes));
        let thought = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        let pieces = parser.push(&format!("{thought}</think>Yes."));
        let said = Piece::Part(Part::Text("Yes.".to_owned()));
        assert_eq!(pieces, [Piece::Thought(thought.to_owned()), said]);
    }
}
