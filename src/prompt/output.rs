//! What a generated answer consists of: thoughts, text, tool calls.

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
}

impl OutputParser {
    /// `thoughts` says whether the model thinks, and whether its prompt opened the thoughts already;
    /// calls are looked for where there is a format.
    #[must_use]
    pub fn new(thoughts: Option<(ThoughtTags, bool)>, calls: Option<ToolFormat>) -> Self {
        Self {
            thoughts: thoughts.map(|(tags, opened)| ThoughtParser::new(tags, opened)),
            calls: calls.map(ToolCallParser::new),
        }
    }

    /// What is certain after the next piece of text.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let Some(thoughts) = &mut self.thoughts else {
            return self.answer(text);
        };
        let found = thoughts.push(text);
        found
            .into_iter()
            .flat_map(|thought| self.tell(thought))
            .collect()
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
        pieces
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

#[cfg(test)]
mod tests {
    use super::*;

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
