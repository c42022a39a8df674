//! Finds the parts of a free answer that must follow a grammar.

/// Looks in an answer for the text after which a grammar applies.
#[derive(Debug, Clone)]
pub struct Trigger {
    opener: &'static str,
    /// The tags that open and close thoughts, in which the opener starts nothing.
    thoughts: Option<[&'static str; 2]>,
    section: Section,
    /// The end of the text so far, which may be the first bytes of what is looked for.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Nothing but white space yet, or the first bytes of the tag that opens thoughts.
    Before,
    Thoughts,
    Answer,
}

impl Trigger {
    /// Makes a trigger that `opener` sets off anywhere in an answer.
    #[must_use]
    pub fn new(opener: &'static str) -> Self {
        Self {
            opener,
            thoughts: None,
            section: Section::Answer,
            tail: Vec::new(),
        }
    }

    /// Ignores the thoughts between these tags, which an answer may begin with; `opened` says that the
    /// answer begins within thoughts.
    #[must_use]
    pub fn after_thoughts(mut self, tags: [&'static str; 2], opened: bool) -> Self {
        self.thoughts = Some(tags);
        self.section = if opened {
            Section::Thoughts
        } else {
            Section::Before
        };
        self
    }

    /// Reads more of the answer. Returns what stands after the opener where it came, and then looks for
    /// the next one.
    pub(super) fn read(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        self.tail.extend_from_slice(text);
        let [open, close] = self.thoughts.unwrap_or_default();
        if self.section == Section::Before {
            let said = self.tail.trim_ascii_start();
            if said.starts_with(open.as_bytes()) {
                self.section = Section::Thoughts;
            } else if open.as_bytes().starts_with(said) {
                return None;
            } else {
                self.section = Section::Answer;
            }
        }
        if self.section == Section::Thoughts {
            self.tail = self.after(close)?;
            self.section = Section::Answer;
        }
        let rest = self.after(self.opener)?;
        self.tail.clear();
        Some(rest)
    }

    /// Returns what stands after `tag`; where it did not come, keeps only what may be its first bytes.
    fn after(&mut self, tag: &str) -> Option<Vec<u8>> {
        let tag = tag.as_bytes();
        let found = self.tail.windows(tag.len()).position(|text| text == tag);
        if let Some(at) = found {
            return Some(self.tail.split_off(at + tag.len()));
        }
        let settled = (self.tail.len() + 1).saturating_sub(tag.len());
        self.tail.drain(..settled);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what stands after each opener, up to the end of the piece that the opener ends in.
    fn find(mut trigger: Trigger, pieces: &[&str]) -> Vec<String> {
        let found = pieces
            .iter()
            .filter_map(|piece| trigger.read(piece.as_bytes()));
        found
            .map(|rest| String::from_utf8(rest).expect("text"))
            .collect()
    }

    #[test]
    fn an_opener_is_found_however_it_is_cut_and_found_again_later() {
        let trigger = Trigger::new("<call>");
        assert_eq!(
            find(trigger.clone(), &["a <ca", "ll>\n{", "b<call>"]),
            ["\n{", ""]
        );
        assert!(find(trigger, &["<cal", "<call", "er>"]).is_empty());
    }

    #[test]
    fn an_opener_in_thoughts_triggers_nothing() {
        let trigger =
            |opened| Trigger::new("<call>").after_thoughts(["<think>", "</think>"], opened);
        let thought = ["<thi", "nk>", " <call> ", "</think>", "x<call>", "y"];
        assert_eq!(find(trigger(false), &thought), [""]);
        assert_eq!(find(trigger(true), &["<call></thi", "nk><call>z"]), ["z"]);
        assert_eq!(find(trigger(false), &["\n", "a <call>"]), [""]);
        assert!(find(trigger(true), &["a <call>"]).is_empty());
    }
}
