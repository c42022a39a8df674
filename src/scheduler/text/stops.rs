//! Finds stop strings in what a client reads.
//!
//! The markup of a tool call, its arguments and the tags of thoughts are no text of the answer: a stop
//! string that stands there would break a call that the client can only use whole. So the answer is parsed
//! here as well (the same way as for its client), and stop strings are looked for in its content and in
//! its thoughts, each span by itself.

use std::collections::VecDeque;
use std::ops::Range;

use crate::prompt::{OutputParser, ReaderChannel, TextSpan};

/// Texts that end an answer, and the parser that says where to look for them.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    texts: Vec<String>,
    /// Absent where all text is content.
    parser: Option<OutputParser>,
}

impl Stops {
    /// Ignores empty texts. `parser` must be at the start of the answer, and of the kind that parses it for
    /// its client.
    #[must_use]
    pub fn new(texts: Vec<String>, parser: &OutputParser) -> Self {
        let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        // Without stop strings there is nothing to parse for.
        let needs_parser = !texts.is_empty() && !parser.is_plain();
        Self {
            texts,
            parser: needs_parser.then(|| parser.clone()),
        }
    }
}

/// How much of the text that is held back may be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReleaseDecision {
    /// This many bytes may be sent.
    Free(usize),
    /// This many bytes may be sent and no more ever: a stop string follows them.
    Stop(usize),
}

/// Looks for stop strings in text as it is generated.
#[derive(Debug, Default)]
pub(super) struct StopFinder {
    stops: Stops,
    /// Bytes of the answer so far.
    pushed: usize,
    /// Bytes of the answer of which it is certain what a client reads.
    known: usize,
    /// What those bytes are read as, for the ones that were not sent yet.
    spans: VecDeque<ClassifiedSpan>,
    /// Tags that are tokens of their own, after the bytes that are certain.
    tags: VecDeque<Range<usize>>,
}

/// Adjacent bytes that a client reads as one channel, or does not read.
#[derive(Debug)]
struct ClassifiedSpan {
    length: usize,
    channel: Option<ReaderChannel>,
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
            None => self.extend(self.pushed, Some(ReaderChannel::Content)),
        }
    }

    /// Takes the text of a token that a client does not read, however the parser reads it.
    pub(super) fn push_tag(&mut self, tag: &str) {
        self.tags.push_back(self.pushed..self.pushed + tag.len());
        self.push(tag);
    }

    /// Notes that the answer ended by itself: what was undecided will not become anything longer.
    pub(super) fn end(&mut self) {
        if let Some(parser) = self.stops.parser.take() {
            self.decide(parser.locate_rest(), self.pushed);
        }
    }

    /// Decides how much of `pending`, which is all that was not sent yet, may be sent.
    pub(super) fn verdict(&self, pending: &str) -> ReleaseDecision {
        if self.stops.texts.is_empty() {
            return ReleaseDecision::Free(pending.len());
        }
        let mut end = 0;
        let mut possible = 0;
        for span in &self.spans {
            let text = &pending[end..end + span.length];
            possible = 0;
            if span.channel.is_some() {
                if let Some(at) = self.stops.first_in(text) {
                    return ReleaseDecision::Stop(end + at);
                }
                possible = self.stops.begun_in(text);
            }
            end += span.length;
        }
        // A stop string does not extend into another span.
        ReleaseDecision::Free(end - possible)
    }

    /// Notes that this many bytes were sent.
    pub(super) fn release(&mut self, length: usize) {
        let mut left = length;
        while let Some(first) = self.spans.front_mut() {
            if first.length > left {
                first.length -= left;
                return;
            }
            left -= first.length;
            self.spans.pop_front();
        }
    }

    /// Notes that a client reads the spans in `found`, and not the rest up to `until`.
    fn decide(&mut self, found: Vec<TextSpan>, until: usize) {
        for span in found {
            self.extend(span.range.start, None);
            self.extend(span.range.end, Some(span.channel));
        }
        self.extend(until, None);
    }

    /// Notes that everything up to `end` is read as `channel`, except tags.
    fn extend(&mut self, end: usize, channel: Option<ReaderChannel>) {
        while let Some(tag) = self.tags.front().filter(|tag| tag.end <= end).cloned() {
            self.tags.pop_front();
            self.extend_plain(tag.start, channel);
            self.extend_plain(tag.end, None);
        }
        self.extend_plain(end, channel);
    }

    fn extend_plain(&mut self, end: usize, channel: Option<ReaderChannel>) {
        let length = end.saturating_sub(self.known);
        self.known += length;
        match self.spans.back_mut() {
            _ if length == 0 => {}
            Some(last) if last.channel == channel => last.length += length,
            _ => self.spans.push_back(ClassifiedSpan { length, channel }),
        }
    }
}

impl Stops {
    /// Returns where the first stop string begins in `text`.
    fn first_in(&self, text: &str) -> Option<usize> {
        let found = self.texts.iter().filter_map(|stop| text.find(stop));
        found.min()
    }

    /// Returns the length of the longest end of `text` with which a stop string begins.
    fn begun_in(&self, text: &str) -> usize {
        let begun = |stop: &String| {
            let mut ends = stop.char_indices().map(|(end, _)| end).rev();
            ends.find(|&end| text.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.texts.iter().map(begun).max().unwrap_or(0)
    }
}
