//! What the client gets: one completion object, or its chunks.

use std::sync::Arc;

use serde_json::json;

use crate::api::delivery::{Frame, Telling, json_text};
use crate::api::error::ApiError;
use crate::api::generate::Started;
use crate::api::generation::Spent;
use crate::api::usage::Usage;
use crate::clock::unix_seconds;
use crate::engine::{Pieces, Token};
use crate::sampling;
use crate::scheduler::{FinishReason, Finished, Text};

use super::validate::Output;
use super::wire::{Body, Choice, Logprobs};

/// Turns what was generated into OpenAI's objects.
pub(super) struct Answer {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    output: Output,
    pieces: Arc<dyn Pieces>,
    /// Those that are echoed.
    prompts: Vec<Arc<[Token]>>,
    choices: Vec<Choice>,
    /// Characters of each choice so far.
    lengths: Vec<usize>,
}

impl Answer {
    pub(super) fn new(model: &str, output: Output, started: &Started) -> Self {
        let loaded = &started.loaded;
        let digest = &loaded.model.info().digest;
        let count = started.prompts.len() * output.choices;
        let choice = |index| Choice {
            text: String::new(),
            index,
            logprobs: output.logprobs.then(Logprobs::default),
            finish_reason: None,
        };
        Self {
            id: format!("cmpl-{}", uuid::Uuid::new_v4().simple()),
            created: unix_seconds(),
            model: model.to_owned(),
            fingerprint: format!("fp_{}", digest.get(..10).unwrap_or(digest)),
            prompts: if output.echo {
                let prompts = started.prompts.iter();
                prompts.map(|prompt| Arc::clone(&prompt.tokens)).collect()
            } else {
                Vec::new()
            },
            output,
            pieces: Arc::clone(&loaded.model) as _,
            choices: (0..count).map(choice).collect(),
            lengths: vec![0; count],
        }
    }

    /// More text of choice `index`, kept or sent.
    fn say(&mut self, index: usize, text: &str, logprobs: Option<Logprobs>) -> Vec<Frame> {
        self.lengths[index] += text.chars().count();
        if self.output.stream {
            return vec![self.chunk(index, text.to_owned(), logprobs, None)];
        }
        let choice = &mut self.choices[index];
        choice.text.push_str(text);
        if let (Some(all), Some(more)) = (&mut choice.logprobs, logprobs) {
            all.tokens.extend(more.tokens);
            all.token_logprobs.extend(more.token_logprobs);
            all.top_logprobs.extend(more.top_logprobs);
            all.text_offset.extend(more.text_offset);
        }
        Vec::new()
    }

    /// The prompt of choice `index`, where it is echoed.
    fn echo(&self, index: usize) -> Option<Arc<[Token]>> {
        self.prompts.get(index / self.output.choices).cloned()
    }

    fn written(&self, tokens: &[Token]) -> String {
        let pieces = tokens.iter().map(|token| self.pieces.piece(*token));
        String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()).into_owned()
    }

    fn logprobs(&self, tokens: &[sampling::Logprobs], mut offset: usize) -> Logprobs {
        let mut found = Logprobs::default();
        for token in tokens {
            let text = self.written(&[token.token]);
            found.text_offset.push(offset);
            offset += text.chars().count();
            found.tokens.push(text);
            // JSON has no infinity.
            let finite = |logprob: f32| logprob.max(-9999.0);
            found.token_logprobs.push(Some(finite(token.logprob)));
            let top = token.top.iter();
            let top =
                top.map(|(token, logprob)| (self.written(&[*token]), json!(finite(*logprob))));
            found.top_logprobs.push(Some(top.collect()));
        }
        found
    }

    fn chunk(
        &self,
        index: usize,
        text: String,
        logprobs: Option<Logprobs>,
        finish_reason: Option<&'static str>,
    ) -> Frame {
        let choice = Choice {
            text,
            index,
            logprobs,
            finish_reason,
        };
        Frame::Data(self.body(vec![choice], None))
    }

    fn body(&self, choices: Vec<Choice>, usage: Option<Usage>) -> String {
        json_text(&Body {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
        })
    }
}

impl Telling for Answer {
    fn opening(&mut self) -> Vec<Frame> {
        if self.output.logprobs {
            return Vec::new(); // they come with the prompt
        }
        (0..self.choices.len())
            .filter_map(|index| {
                let text = self.written(&self.echo(index)?);
                Some(self.say(index, &text, None))
            })
            .flatten()
            .collect()
    }

    fn prompt(&mut self, index: usize, logprobs: &[sampling::Logprobs]) -> Vec<Frame> {
        let Some(prompt) = self.echo(index) else {
            return Vec::new();
        };
        let first = self.written(&prompt[..1]);
        let mut all = self.logprobs(logprobs, first.chars().count());
        all.text_offset.insert(0, 0);
        all.tokens.insert(0, first);
        all.token_logprobs.insert(0, None);
        all.top_logprobs.insert(0, None);
        let text = self.written(&prompt);
        self.say(index, &text, Some(all))
    }

    fn text(&mut self, index: usize, text: &Text) -> Vec<Frame> {
        let before = self.lengths[index];
        let logprobs = self
            .output
            .logprobs
            .then(|| self.logprobs(&text.logprobs, before));
        self.say(index, &text.text, logprobs)
    }

    fn end(&mut self, index: usize, finished: &Finished) -> Vec<Frame> {
        let reason = match finished.reason {
            FinishReason::Length => "length",
            FinishReason::Stop => "stop",
        };
        self.choices[index].finish_reason = Some(reason);
        if self.output.stream {
            vec![self.chunk(index, String::new(), None, Some(reason))]
        } else {
            Vec::new()
        }
    }

    fn close(&mut self, spent: Spent) -> Vec<Frame> {
        let usage = self.output.usage_chunk.then(|| {
            let usage = Usage::new(spent, 0);
            Frame::Data(self.body(Vec::new(), Some(usage)))
        });
        usage.into_iter().chain([Frame::done()]).collect()
    }

    fn failure(&mut self, error: &ApiError) -> Frame {
        Frame::Data(error.body().to_string())
    }

    fn finish_reason(&self) -> &'static str {
        let first = self.choices.first();
        first
            .and_then(|choice| choice.finish_reason)
            .unwrap_or("stop")
    }

    fn whole(mut self, spent: Spent) -> String {
        let choices = std::mem::take(&mut self.choices);
        self.body(choices, Some(Usage::new(spent, 0)))
    }
}
