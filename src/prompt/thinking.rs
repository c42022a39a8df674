//! Separates the thoughts of reasoning models from the answer while both are generated.

use super::tools::partial_tag;

/// The tags that open and close thoughts: first those of Qwen3, `DeepSeek` R1 and most others, then
/// Magistral's.
const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];

/// How a model's thoughts are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThoughtTags {
    open: &'static str,
    close: &'static str,
}

impl ThoughtTags {
    /// Returns the tags of a model with this chat template; `None` where it does not think.
    #[must_use]
    pub fn of(template: &str) -> Option<Self> {
        TAGS.into_iter()
            .find(|(_, close)| template.contains(close))
            .map(|(open, close)| Self { open, close })
    }

    /// Returns the tag that opens and the one that closes thoughts.
    #[must_use]
    pub fn both(self) -> [&'static str; 2] {
        [self.open, self.close]
    }

    /// Whether a prompt opens the thoughts, so that the answer begins with them.
    #[must_use]
    pub fn opened_by(self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open)
    }

    /// Whether a text ends in the middle of thoughts.
    #[must_use]
    pub fn left_open_by(self, text: &str) -> bool {
        let closed = text.rfind(self.close);
        text.rfind(self.open)
            .is_some_and(|opened| closed.is_none_or(|closed| closed < opened))
    }
}

/// A piece of a generated answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Thought {
    /// A piece of the thoughts, never shown as the answer.
    Inside(String),
    /// A piece of the answer.
    Outside(String),
}

/// Splits thoughts from the answer. The white space around the tags belongs to neither.
///
/// Each piece comes with the position where it begins, in bytes of all that was generated. The pieces of
/// the answer are contiguous.
#[derive(Debug, Clone)]
pub(super) struct ThoughtParser {
    tags: ThoughtTags,
    state: ThoughtState,
    /// Bytes that were pushed so far.
    pushed: usize,
    /// White space, or the first bytes of a tag.
    pending: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThoughtState {
    /// Nothing but white space yet.
    Before,
    /// Within thoughts; true until the first word.
    Inside(bool),
    /// After the thoughts; true until the first word.
    Outside(bool),
}

impl ThoughtParser {
    pub(super) fn new(tags: ThoughtTags, opened: bool) -> Self {
        Self {
            tags,
            state: if opened {
                ThoughtState::Inside(true)
            } else {
                ThoughtState::Before
            },
            pushed: 0,
            pending: String::new(),
        }
    }

    /// Takes the next piece; returns what has become certain.
    pub(super) fn push(&mut self, text: &str) -> Vec<(usize, Thought)> {
        self.pushed += text.len();
        self.pending.push_str(text);
        let mut found = Vec::new();
        while self.step(&mut found) {}
        found
    }

    /// Returns the rest of an answer that ended by itself. One that was cut off has no rest, which may be the
    /// first bytes of a tag.
    pub(super) fn finish(self) -> Option<(usize, Thought)> {
        if self.pending.is_empty() {
            return None;
        }
        let at = self.here();
        match self.state {
            ThoughtState::Inside(_) if self.pending.trim().is_empty() => None,
            ThoughtState::Inside(_) => Some((at, Thought::Inside(self.pending))),
            ThoughtState::Before | ThoughtState::Outside(_) => {
                Some((at, Thought::Outside(self.pending)))
            }
        }
    }

    /// Returns how many bytes at the end of what was pushed are still undecided.
    pub(super) fn undecided(&self) -> usize {
        self.pending.len()
    }

    /// Returns where the pending text begins.
    fn here(&self) -> usize {
        self.pushed - self.pending.len()
    }

    fn step(&mut self, found: &mut Vec<(usize, Thought)>) -> bool {
        match self.state {
            ThoughtState::Before => {
                let rest = self.pending.trim_start();
                if rest.starts_with(self.tags.open) {
                    let end = self.pending.len() - rest.len() + self.tags.open.len();
                    self.pending.drain(..end);
                    self.state = ThoughtState::Inside(true);
                    return true;
                }
                let undecided = self.tags.open.starts_with(rest);
                if !undecided {
                    // Without thoughts the answer keeps its white space.
                    self.state = ThoughtState::Outside(false);
                }
                !undecided
            }
            ThoughtState::Inside(first) => {
                if first {
                    self.trim();
                }
                let close = self.tags.close;
                let at = self.pending.find(close);
                let end =
                    at.unwrap_or_else(|| self.pending.len() - partial_tag(&self.pending, close));
                // White space at the end may stand before the closing tag.
                let said = self.pending[..end].trim_end().len();
                if said > 0 {
                    let at = self.here();
                    let thought = self.pending.drain(..said).collect();
                    found.push((at, Thought::Inside(thought)));
                    self.state = ThoughtState::Inside(false);
                }
                if at.is_some() {
                    self.pending.drain(..end - said + close.len());
                    self.state = ThoughtState::Outside(true);
                }
                at.is_some()
            }
            ThoughtState::Outside(first) => {
                if first {
                    self.trim();
                }
                if !self.pending.is_empty() {
                    let at = self.here();
                    found.push((at, Thought::Outside(std::mem::take(&mut self.pending))));
                    self.state = ThoughtState::Outside(false);
                }
                false
            }
        }
    }

    fn trim(&mut self) {
        let blank = self.pending.len() - self.pending.trim_start().len();
        self.pending.drain(..blank);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAGS: ThoughtTags = ThoughtTags {
        open: "<think>",
        close: "</think>",
    };

    #[test]
    fn thoughts_are_left_open_by_a_text_that_does_not_close_the_last_of_them() {
        for open in ["<think>", "<think>\nI am", "<think>a</think>b<think>c"] {
            assert!(TAGS.left_open_by(open), "{open}");
        }
        for closed in ["", "a", "</think>", "<think>a</think>", "<think>a</think>b"] {
            assert!(!TAGS.left_open_by(closed), "{closed}");
        }
    }

    /// Thoughts and answer.
    fn split<'a>(opened: bool, pieces: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let mut parser = ThoughtParser::new(TAGS, opened);
        let mut found = Vec::new();
        for piece in pieces {
            found.extend(parser.push(piece));
        }
        found.extend(parser.finish());
        let mut both = (String::new(), String::new());
        for (_, thought) in found {
            match thought {
                Thought::Inside(text) => both.0.push_str(&text),
                Thought::Outside(text) => both.1.push_str(&text),
            }
        }
        both
    }

    fn expect(opened: bool, text: &str, thoughts: &str, answer: &str) {
        let found = split(opened, [text]);
        assert_eq!(found, (thoughts.to_owned(), answer.to_owned()), "{text}");
    }

    #[test]
    fn thoughts_are_never_part_of_the_answer() {
        expect(false, "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes.");
        expect(
            true,
            "\nHm. So <b>.\n</think>\n\nYes.",
            "Hm. So <b>.",
            "Yes.",
        );
        expect(false, "<think>\n\n</think>\n\nYes. ", "", "Yes. ");
        expect(true, "cut off in mid-", "cut off in mid-", "");
    }

    #[test]
    fn an_answer_without_thoughts_stays_as_it_is() {
        expect(false, " Yes. <think>", "", " Yes. <think>");
        expect(false, "", "", "");
        expect(false, "<thin", "", "<thin");
        expect(false, "\n", "", "\n");
    }

    #[test]
    fn tags_are_known_by_the_template() {
        assert_eq!(ThoughtTags::of("{% if '</think>' in x %}"), Some(TAGS));
        assert_eq!(ThoughtTags::of("nothing"), None);
        assert!(TAGS.opened_by("<|im_start|>assistant\n<think>\n"));
        assert!(!TAGS.opened_by("<think>\n\n</think>\n\n"));
    }

    proptest! {
        #[test]
        fn how_the_answer_is_cut_does_not_matter(
            text in "(<think>|</think>|[ab<t/ \n]){0,12}",
            opened in any::<bool>(),
        ) {
            let pieces: Vec<String> = text.chars().map(String::from).collect();
            prop_assert_eq!(split(opened, pieces.iter().map(String::as_str)), split(opened, [text.as_str()]));
        }
    }
}
