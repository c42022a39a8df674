//! Finding the stretches of a free answer that must follow a grammar.

/// Looks in an answer for the text behind which a grammar holds.
#[derive(Debug, Clone)]
pub struct Trigger {
    opener: &'static str,
    /// What opens and what closes thoughts, in which the opener is only thought of.
    thoughts: Option<[&'static str; 2]>,
    section: Section,
    /// What may be the beginning of what is looked for.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Nothing but white space yet, or the beginning of the tag that opens thoughts.
    Before,
    Thoughts,
    Answer,
}

impl Trigger {
    /// For `opener` anywhere in an answer.
    #[must_use]
    pub fn new(opener: &'static str) -> Self {
        Self {
            opener,
            thoughts: None,
            section: Section::Answer,
            tail: Vec::new(),
        }
    }

    /// Not in thoughts between these tags, which an answer may begin with; `opened` says that it begins
    /// in the middle of them.
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

    /// Goes on by `text`. Where the opener came, what stands behind it; then it looks for the next one.
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

    /// What stands behind `tag`; without it only what may be its beginning is kept.
    fn after(&mut self, tag: &str) -> Option<Vec<u8>> {
        let tag = tag.as_bytes();
        let found = self.tail.windows(tag.len()).position(|text| text == tag);
        if let Some(at) = found {
            return Some(self.tail.split_off(at + tag.len()));
        }
        let told = (self.tail.len() + 1).saturating_sub(tag.len());
        self.tail.drain(..told);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands behind the openers in `text`, to the end of the piece that each ends in.
    fn find(mut trigger: Trigger, pieces: &[&str]) -> Vec<String> {
        let found = pieces
            .iter()
            .filter_map(|piece| trigger.read(piece.as_bytes()));
        found
            .map(|rest| String::from_utf8(rest).expect("text"))
            .collect()
    }

    #[test]
    fn an_opener_is_found_however_it_is_cut_and_again_behind_it() {
        let trigger = Trigger::new("<call>");
        assert_eq!(
            find(trigger.clone(), &["a <ca", "ll>\n{", "b<call>"]),
            ["\n{", ""]
        );
        assert!(find(trigger, &["<cal", "<call", "er>"]).is_empty());
    }

    #[test]
    fn an_opener_in_thoughts_is_none() {
        let trigger =
            |opened| Trigger::new("<call>").after_thoughts(["<think>", "</think>"], opened);
        let thought = ["<thi", "nk>", " <call> ", "</think>", "x<call>", "y"];
        assert_eq!(find(trigger(false), &thought), [""]);
        assert_eq!(find(trigger(true), &["<call></thi", "nk><call>z"]), ["z"]);
        assert_eq!(find(trigger(false), &["\n", "a <call>"]), [""]);
        assert!(find(trigger(true), &["a <call>"]).is_empty());
    }
}
