//! Renders answers as one completion object, or as its chunks.

use std::sync::Arc;

use crate::clock::unix_seconds;
use crate::engine::{ControlTokens, Pieces, Token, Tokenizer};
use crate::http::error::ApiError;
use crate::http::respond::ResponseRenderer;
use crate::http::sse::{Frame, json_text};
use crate::inference::generate::StartedGeneration;
use crate::inference::{AnswerOutcome, UsageTotals};
use crate::openai::usage::{ChunkUsage, CompletionUsage, EdgellmAnswer};
use crate::sampling;
use crate::scheduler::{AnswerEnd, AnswerText};

use super::logprobs::{TextPosition, add};
use super::validate::CompletionOutputOptions;
use super::wire::{Completion, CompletionChoice, CompletionLogprobs};

/// Renders generated text as OpenAI's completion objects.
pub(super) struct CompletionRenderer {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    output: CompletionOutputOptions,
    tokenizer: Arc<Tokenizer>,
    /// The prompts that are echoed; empty without `echo`.
    prompts: Vec<Arc<[Token]>>,
    choices: Vec<CompletionChoice>,
    /// The position of each choice's next token in its text.
    places: Vec<TextPosition>,
    /// Whether the deadline cut an answer off.
    is_late: bool,
}

impl CompletionRenderer {
    pub(super) fn new(
        model: &str,
        output: CompletionOutputOptions,
        started: &StartedGeneration,
    ) -> Self {
        let loaded = &started.loaded;
        let digest = &loaded.tokenizer.info().digest;
        let count = started.prompts.len() * output.choices;
        let choice = |index| CompletionChoice {
            text: String::new(),
            index,
            logprobs: output.logprobs.then(CompletionLogprobs::default),
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
            tokenizer: Arc::clone(&loaded.tokenizer),
            choices: (0..count).map(choice).collect(),
            places: vec![TextPosition::default(); count],
            is_late: false,
        }
    }

    /// Stores more text of choice `index`, or returns it as a chunk of a stream.
    fn say(
        &mut self,
        index: usize,
        text: &str,
        logprobs: Option<CompletionLogprobs>,
    ) -> Vec<Frame> {
        if self.output.stream {
            return vec![self.chunk(index, text.to_owned(), logprobs)];
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

    /// Returns the prompt of choice `index`, if it is echoed.
    fn echo(&self, index: usize) -> Option<Arc<[Token]>> {
        self.prompts.get(index / self.output.choices).cloned()
    }

    fn logprobs(&mut self, index: usize, tokens: &[sampling::Logprobs]) -> CompletionLogprobs {
        let mut found = CompletionLogprobs::default();
        for token in tokens {
            let piece = self.tokenizer.piece(token.token);
            let place = self.places[index].pass(piece);
            add(&mut found, place, piece, Some(token), &self.tokenizer);
        }
        found
    }

    fn chunk(&self, index: usize, text: String, logprobs: Option<CompletionLogprobs>) -> Frame {
        let choice = CompletionChoice {
            text,
            index,
            logprobs,
            finish_reason: None,
        };
        self.choice_chunk(choice, false)
    }

    fn choice_chunk(&self, choice: CompletionChoice, is_late: bool) -> Frame {
        let usage = ChunkUsage::before_the_last(self.output.usage_chunk);
        Frame::Data(self.body(vec![choice], usage, is_late))
    }

    fn body(&self, choices: Vec<CompletionChoice>, usage: ChunkUsage, is_late: bool) -> String {
        json_text(&Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
            edgellm: EdgellmAnswer::of(is_late),
        })
    }
}

impl ResponseRenderer for CompletionRenderer {
    fn opening(&mut self) -> Vec<Frame> {
        if self.output.logprobs {
            return Vec::new(); // they come with the prompt
        }
        (0..self.choices.len())
            .filter_map(|index| {
                let pieces = self
                    .tokenizer
                    .text_pieces(&self.echo(index)?, ControlTokens::LeftOut);
                let text = String::from_utf8_lossy(&pieces.concat()).into_owned();
                Some(self.say(index, &text, None))
            })
            .flatten()
            .collect()
    }

    fn prompt(&mut self, index: usize, logprobs: &[sampling::Logprobs]) -> Vec<Frame> {
        let Some(prompt) = self.echo(index) else {
            return Vec::new();
        };
        let pieces = self.tokenizer.text_pieces(&prompt, ControlTokens::LeftOut);
        let mut all = CompletionLogprobs::default();
        // The first token has no predecessor, hence no log-probability.
        let likelihoods = [None].into_iter().chain(logprobs.iter().map(Some));
        for (piece, likelihood) in pieces.iter().zip(likelihoods) {
            let place = self.places[index].pass(piece);
            add(&mut all, place, piece, likelihood, &self.tokenizer);
        }
        self.places[index].end();
        let text = String::from_utf8_lossy(&pieces.concat()).into_owned();
        self.say(index, &text, Some(all))
    }

    fn text(&mut self, index: usize, text: &AnswerText) -> Vec<Frame> {
        let wanted = self.output.logprobs;
        let logprobs = wanted.then(|| self.logprobs(index, &text.logprobs));
        self.say(index, &text.text, logprobs)
    }

    fn end(&mut self, index: usize, finished: &AnswerEnd) -> Vec<Frame> {
        let outcome = AnswerOutcome::new(finished.reason, false);
        self.choices[index].finish_reason = Some(outcome);
        self.is_late |= finished.is_late;
        if self.output.stream {
            let choice = CompletionChoice {
                text: String::new(),
                index,
                logprobs: None,
                finish_reason: Some(outcome),
            };
            vec![self.choice_chunk(choice, finished.is_late)]
        } else {
            Vec::new()
        }
    }

    fn close(&mut self, spent: UsageTotals) -> Vec<Frame> {
        let usage = self.output.usage_chunk.then(|| {
            let usage = ChunkUsage::Now(CompletionUsage::new(spent, 0));
            Frame::Data(self.body(Vec::new(), usage, false))
        });
        usage.into_iter().chain([Frame::done()]).collect()
    }

    fn failure(&mut self, error: &ApiError) -> Frame {
        Frame::Data(error.body().to_string())
    }

    fn outcome(&self) -> AnswerOutcome {
        let first = self.choices.first();
        first
            .and_then(|choice| choice.finish_reason)
            .unwrap_or_default()
    }

    fn whole(mut self, spent: UsageTotals) -> String {
        let choices = std::mem::take(&mut self.choices);
        let usage = ChunkUsage::Now(CompletionUsage::new(spent, 0));
        self.body(choices, usage, self.is_late)
    }
}
