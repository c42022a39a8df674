//! Renders answers as one chat completion object, or as its chunks.

use std::sync::Arc;

use crate::engine::Pieces;
use crate::http::error::ApiError;
use crate::http::respond::ResponseRenderer;
use crate::http::sse::{Frame, json_text};
use crate::inference::{AnswerOutcome, UsageTotals};
use crate::openai::logprobs::TokenLogprobList;
use crate::openai::tools::{CallLimit, are_whole};
use crate::openai::usage::{ChunkUsage, CompletionUsage, EdgellmAnswer};
use crate::prompt::{AnswerPart, OutputParser, OutputPiece};
use crate::sampling;
use crate::scheduler::{AnswerEnd, AnswerText, FinishReason};

use super::reply::{
    AnswerCall, AnswerFunction, CallDelta, ChatAnswer, ChatChoice, ChatCompletion,
    ChatCompletionChunk, ChatHeader, ChatLogprobs, ChunkChoice, Delta, FunctionDelta,
};
use super::validate::ChatOutputOptions;

/// Renders generated text as OpenAI's chat completion objects.
pub(super) struct ChatRenderer {
    header: ChatHeader,
    output: ChatOutputOptions,
    pieces: Arc<dyn Pieces>,
    choices: Vec<PartialChoice>,
}

/// One answer, as far as it is generated.
struct PartialChoice {
    parser: Option<OutputParser>,
    /// Kept only if the response is not a stream.
    content: String,
    thoughts: String,
    /// Kept in a stream as well, for the finish reason and the indices.
    calls: Vec<AnswerCall>,
    /// Whether the current call exceeds the limit and is skipped.
    skips_call: bool,
    /// Generated tokens that were thoughts.
    thought_tokens: u32,
    /// Log-probabilities that no delta has carried yet.
    logprobs: Vec<sampling::Logprobs>,
    outcome: Option<AnswerOutcome>,
    /// Whether its deadline cut it off.
    is_late: bool,
}

impl ChatRenderer {
    /// Creates a renderer with one parser for each choice.
    pub(super) fn new(
        header: ChatHeader,
        output: ChatOutputOptions,
        pieces: Arc<dyn Pieces>,
        parsers: impl IntoIterator<Item = OutputParser>,
    ) -> Self {
        let choice = |parser| PartialChoice {
            parser: Some(parser),
            content: String::new(),
            thoughts: String::new(),
            calls: Vec::new(),
            skips_call: false,
            thought_tokens: 0,
            logprobs: Vec::new(),
            outcome: None,
            is_late: false,
        };
        Self {
            header,
            output,
            pieces,
            choices: parsers.into_iter().map(choice).collect(),
        }
    }

    fn usage(&self, spent: UsageTotals) -> CompletionUsage {
        let thoughts = self.choices.iter().map(|choice| choice.thought_tokens);
        CompletionUsage::new(spent, thoughts.sum())
    }

    /// Stores what a whole response needs, and returns the chunks of a stream.
    fn deltas(&mut self, index: usize, pieces: Vec<OutputPiece>) -> Vec<Frame> {
        let output = self.output;
        let choice = &mut self.choices[index];
        let deltas: Vec<Delta> = pieces
            .into_iter()
            .filter_map(|piece| choice.take(piece, output))
            .collect();
        if !output.stream || deltas.is_empty() {
            return Vec::new();
        }
        let mut logprobs = output
            .logprobs
            .then(|| std::mem::take(&mut choice.logprobs));
        deltas
            .into_iter()
            .map(|delta| self.chunk(index, delta, logprobs.take(), None))
            .collect()
    }

    fn logprobs(&self, tokens: Vec<sampling::Logprobs>) -> ChatLogprobs {
        ChatLogprobs {
            content: TokenLogprobList {
                tokens,
                pieces: Arc::clone(&self.pieces),
            },
            refusal: None,
        }
    }

    fn chunk(
        &self,
        index: usize,
        delta: Delta,
        logprobs: Option<Vec<sampling::Logprobs>>,
        outcome: Option<AnswerOutcome>,
    ) -> Frame {
        let is_late = outcome.is_some() && self.choices[index].is_late;
        Frame::Data(json_text(&ChatCompletionChunk {
            header: &self.header,
            choices: vec![ChunkChoice {
                index,
                delta,
                logprobs: logprobs.map(|tokens| self.logprobs(tokens)),
                finish_reason: outcome,
            }],
            usage: ChunkUsage::before_the_last(self.output.usage_chunk),
            edgellm: EdgellmAnswer::of(is_late),
        }))
    }
}

impl ResponseRenderer for ChatRenderer {
    /// Returns chunks that carry only the role.
    fn opening(&mut self) -> Vec<Frame> {
        let delta = || Delta {
            role: Some("assistant"),
            content: Some(String::new()),
            ..Delta::default()
        };
        (0..self.choices.len())
            .map(|index| self.chunk(index, delta(), None, None))
            .collect()
    }

    fn text(&mut self, index: usize, text: &AnswerText) -> Vec<Frame> {
        let choice = &mut self.choices[index];
        choice.logprobs.extend_from_slice(&text.logprobs);
        let found = match &mut choice.parser {
            Some(parser) => parser.push(&text.text),
            None => Vec::new(),
        };
        let thinks = matches!(found.last(), Some(OutputPiece::Thought(_)));
        choice.thought_tokens += if thinks { text.tokens } else { 0 };
        self.deltas(index, found)
    }

    fn end(&mut self, index: usize, finished: &AnswerEnd) -> Vec<Frame> {
        let parser = self.choices[index].parser.take();
        let rest = match finished.reason {
            FinishReason::Length => None,
            FinishReason::Stop => parser.map(OutputParser::finish),
        };
        let mut chunks = self.deltas(index, rest.unwrap_or_default());
        let choice = &mut self.choices[index];
        let outcome = AnswerOutcome::new(finished.reason, choice.has_whole_calls());
        choice.outcome = Some(outcome);
        choice.is_late = finished.is_late;
        if self.output.stream {
            // The remaining log-probabilities belong to text that is not sent, such as a call's tags.
            let rest = std::mem::take(&mut choice.logprobs);
            let logprobs = (!rest.is_empty()).then_some(rest);
            chunks.push(self.chunk(index, Delta::default(), logprobs, Some(outcome)));
        }
        chunks
    }

    fn close(&mut self, spent: UsageTotals) -> Vec<Frame> {
        let usage = self.output.usage_chunk.then(|| {
            Frame::Data(json_text(&ChatCompletionChunk {
                header: &self.header,
                choices: Vec::new(),
                usage: ChunkUsage::Now(self.usage(spent)),
                edgellm: None,
            }))
        });
        usage.into_iter().chain([Frame::done()]).collect()
    }

    fn failure(&mut self, error: &ApiError) -> Frame {
        Frame::Data(error.body().to_string())
    }

    fn outcome(&self) -> AnswerOutcome {
        let first = self.choices.first();
        first.and_then(|choice| choice.outcome).unwrap_or_default()
    }

    fn whole(mut self, spent: UsageTotals) -> String {
        let usage = self.usage(spent);
        let choices = std::mem::take(&mut self.choices);
        let is_late = choices.iter().any(|choice| choice.is_late);
        let whole = |(index, choice): (usize, PartialChoice)| ChatChoice {
            index,
            logprobs: (self.output.logprobs).then(|| self.logprobs(choice.logprobs)),
            finish_reason: choice.outcome.unwrap_or_default(),
            message: ChatAnswer {
                role: "assistant",
                content: (choice.calls.is_empty() || !choice.content.is_empty())
                    .then_some(choice.content),
                reasoning_content: (!choice.thoughts.is_empty()).then_some(choice.thoughts),
                refusal: None,
                tool_calls: choice.calls,
            },
        };
        json_text(&ChatCompletion {
            header: &self.header,
            choices: choices.into_iter().enumerate().map(whole).collect(),
            usage,
            edgellm: EdgellmAnswer::of(is_late),
        })
    }
}

impl PartialChoice {
    /// Whether there are calls and the arguments of all of them are complete.
    fn has_whole_calls(&self) -> bool {
        let arguments = self.calls.iter().map(|call| &call.function.arguments);
        !self.calls.is_empty() && arguments.into_iter().all(|text| are_whole(text))
    }

    /// Stores a piece and returns its delta for a stream.
    fn take(&mut self, piece: OutputPiece, output: ChatOutputOptions) -> Option<Delta> {
        match piece {
            OutputPiece::Thought(text) => {
                if !output.stream {
                    self.thoughts.push_str(&text);
                }
                Some(Delta {
                    reasoning_content: Some(text),
                    ..Delta::default()
                })
            }
            OutputPiece::Part(AnswerPart::Text(text)) => {
                if !output.stream {
                    self.content.push_str(&text);
                }
                Some(Delta {
                    content: Some(text),
                    ..Delta::default()
                })
            }
            OutputPiece::Part(AnswerPart::Call { name }) => {
                self.skips_call = output.calls == CallLimit::One && !self.calls.is_empty();
                if self.skips_call {
                    return None;
                }
                let call = AnswerCall {
                    id: format!("call_{}", uuid::Uuid::new_v4().simple()),
                    r#type: "function",
                    function: AnswerFunction {
                        name,
                        arguments: String::new(),
                    },
                };
                let delta = CallDelta {
                    index: self.calls.len(),
                    id: Some(call.id.clone()),
                    r#type: Some(call.r#type),
                    function: FunctionDelta {
                        name: Some(call.function.name.clone()),
                        arguments: String::new(),
                    },
                };
                self.calls.push(call);
                Some(Delta {
                    tool_calls: Some([delta]),
                    ..Delta::default()
                })
            }
            OutputPiece::Part(AnswerPart::Arguments(more)) => {
                if self.skips_call {
                    return None;
                }
                let index = self.calls.len().checked_sub(1)?;
                self.calls[index].function.arguments.push_str(&more);
                Some(Delta {
                    tool_calls: Some([CallDelta {
                        index,
                        id: None,
                        r#type: None,
                        function: FunctionDelta {
                            name: None,
                            arguments: more,
                        },
                    }]),
                    ..Delta::default()
                })
            }
        }
    }
}

#[cfg(test)]
#[path = "renderer_tests.rs"]
mod tests;
