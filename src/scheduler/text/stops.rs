//! Stop strings, looked for in what a client reads.
//!
//! The markup of a tool call, its arguments and the tags of thoughts are no text of the answer: a stop
//! string that stands there would break a call that the client can only use whole. So the answer is taken
//! apart here as well (the same way as for its client), and stop strings are looked for in its content
//! and in its thoughts, each stretch by itself.

use std::collections::VecDeque;
use std::ops::Range;

use crate::prompt::{Channel, OutputParser, Stretch};

/// Texts that end an answer, and how the answer is taken apart to look for them.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    texts: Vec<String>,
    /// Nothing where all text is content.
    parser: Option<OutputParser>,
}

impl Stops {
    /// `parser` is one at the beginning of the answer, of the kind that takes it apart for its client.
    /// Empty texts are ignored.
    #[must_use]
    pub fn new(texts: Vec<String>, parser: &OutputParser) -> Self {
        let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        // Who looks for nothing need not take anything apart.
        let needs_parser = !texts.is_empty() && !parser.is_plain();
        Self {
            texts,
            parser: needs_parser.then(|| parser.clone()),
        }
    }
}

/// How much of the text that is held may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This many bytes may go.
    Free(usize),
    /// This many bytes may go and no more ever: a stop string follows them.
    Stop(usize),
}

/// Looks for stop strings in text as it is generated.
#[derive(Debug, Default)]
pub(super) struct StopFinder {
    stops: Stops,
    /// Bytes of the answer so far.
    pushed: usize,
    /// Up to where it is certain what a client reads.
    known: usize,
    /// What the text up to there is, as far as it has not gone.
    decided: VecDeque<Decided>,
    /// Tags that are tokens of their own, behind what is known.
    tags: VecDeque<Range<usize>>,
}

/// Neighbouring bytes that a client reads as the same, if at all.
#[derive(Debug)]
struct Decided {
    length: usize,
    channel: Option<Channel>,
}

impl StopFinder {
    pub(super) fn new(stops: Stops) -> Self {
        Self {
            stops,
            ..Self::default()
        }
    }

    /// Takes the next text.
    pub(super) fn push(&mut self, text: &str) {
        if self.stops.texts.is_empty() {
            return;
        }
        self.pushed += text.len();
        match &mut self.stops.parser {
            Some(parser) => {
                let found = parser.locate(text);
                let until = self.pushed - parser.undecided();
                self.decide(found, until);
            }
            None => self.extend(self.pushed, Some(Channel::Content)),
        }
    }

    /// Takes the text of a token that is no text for the client, whatever is made of it.
    pub(super) fn push_tag(&mut self, tag: &str) {
        self.tags.push_back(self.pushed..self.pushed + tag.len());
        self.push(tag);
    }

    /// The answer ended by itself: what was undecided is not the beginning of anything longer.
    pub(super) fn end(&mut self) {
        if let Some(parser) = self.stops.parser.take() {
            self.decide(parser.locate_rest(), self.pushed);
        }
    }

    /// What may go of `held`, which is all that has not gone.
    pub(super) fn verdict(&self, held: &str) -> Verdict {
        if self.stops.texts.is_empty() {
            return Verdict::Free(held.len());
        }
        let mut end = 0;
        let mut possible = 0;
        for stretch in &self.decided {
            let text = &held[end..end + stretch.length];
            possible = 0;
            if stretch.channel.is_some() {
                if let Some(at) = self.stops.first_in(text) {
                    return Verdict::Stop(end + at);
                }
                possible = self.stops.begun_in(text);
            }
            end += stretch.length;
        }
        // Behind another stretch nothing goes on.
        Verdict::Free(end - possible)
    }

    /// Notes that this many bytes have gone.
    pub(super) fn release(&mut self, length: usize) {
        let mut left = length;
        while let Some(first) = self.decided.front_mut() {
            if first.length > left {
                first.length -= left;
                return;
            }
            left -= first.length;
            self.decided.pop_front();
        }
    }

    /// What was found is read, the rest up to `until` is not.
    fn decide(&mut self, found: Vec<Stretch>, until: usize) {
        for stretch in found {
            self.extend(stretch.range.start, None);
            self.extend(stretch.range.end, Some(stretch.channel));
        }
        self.extend(until, None);
    }

    /// All that follows up to `end` is read as `channel`, but for tags.
    fn extend(&mut self, end: usize, channel: Option<Channel>) {
        while let Some(tag) = self.tags.front().filter(|tag| tag.end <= end).cloned() {
            self.tags.pop_front();
            self.extend_plain(tag.start, channel);
            self.extend_plain(tag.end, None);
        }
        self.extend_plain(end, channel);
    }

    fn extend_plain(&mut self, end: usize, channel: Option<Channel>) {
        let length = end.saturating_sub(self.known);
        self.known += length;
        match self.decided.back_mut() {
            _ if length == 0 => {}
            Some(last) if last.channel == channel => last.length += length,
            _ => self.decided.push_back(Decided { length, channel }),
        }
    }
}

impl Stops {
    /// Where the first of them begins in `text`.
    fn first_in(&self, text: &str) -> Option<usize> {
        let found = self.texts.iter().filter_map(|stop| text.find(stop));
        found.min()
    }

    /// Length of the longest end of `text` with which one of them begins.
    fn begun_in(&self, text: &str) -> usize {
        let begun = |stop: &String| {
            let mut ends = stop.char_indices().map(|(end, _)| end).rev();
            ends.find(|&end| text.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.texts.iter().map(begun).max().unwrap_or(0)
    }
}
