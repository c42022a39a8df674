//! What the client gets: one completion object, or its chunks.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::delivery::{Frame, Telling, json_text};
use crate::api::error::ApiError;
use crate::api::generate::Started;
use crate::api::generation::Spent;
use crate::api::usage::Usage;
use crate::clock::unix_seconds;
use crate::engine::{Pieces, Token};
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
    prompts: Vec<String>,
    choices: Vec<Choice>,
    /// Characters of each choice so far.
    lengths: Vec<usize>,
}

impl Answer {
    pub(super) fn new(model: &str, output: Output, started: &Started) -> Self {
        let loaded = &started.loaded;
        let text = |tokens: &[Token]| {
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|token| loaded.model.piece(*token).to_vec())
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
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
                prompts.map(|prompt| text(&prompt.tokens)).collect()
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

    fn logprobs(&self, text: &Text, before: usize) -> Logprobs {
        let mut found = Logprobs::default();
        let mut offset = before;
        let name = |token: Token| String::from_utf8_lossy(self.pieces.piece(token)).into_owned();
        for token in &text.logprobs {
            let text = name(token.token);
            found.text_offset.push(offset);
            offset += text.chars().count();
            found.tokens.push(text);
            // JSON has no infinity.
            found.token_logprobs.push(token.logprob.max(-9999.0));
            let top = token.top.iter();
            let top: Map<String, Value> = top
                .map(|(token, logprob)| (name(*token), json!(logprob.max(-9999.0))))
                .collect();
            found.top_logprobs.push(top);
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
        let prompts = std::mem::take(&mut self.prompts);
        (0..self.choices.len())
            .filter_map(|index| {
                let prompt = prompts.get(index / self.output.choices)?;
                Some(self.say(index, prompt, None))
            })
            .flatten()
            .collect()
    }

    fn text(&mut self, index: usize, text: &Text) -> Vec<Frame> {
        let before = self.lengths[index];
        let logprobs = self.output.logprobs.then(|| self.logprobs(text, before));
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
