//! The bodies of text completions, as OpenAI documents them, and the parameters of ours beside them.
//! `null` means absent, unknown keys are ignored.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::http::json_count::CountScope;
use crate::http::openapi::{NullOnly, among, at_least, each, only_in_streams, within};
use crate::http::parse::{Wire, only_objects};
use crate::inference::AnswerOutcome;
use crate::inference::bounds::{
    CHOICES, LEAST_COMPLETION_TOKENS, LOGPROBS, MOST_PROMPTS, TOKEN_ID,
};
use crate::openai::shared_fields::with_structured_output_fields;
use crate::openai::usage::{ChunkUsage, EdgellmAnswer};

with_structured_output_fields! {
/// Numbers are wide here, so that a value out of range is refused in words rather than by type.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "A text, and how it is to go on.", transform = only_in_streams)]
pub(crate) struct CompletionRequest {
    /// Where there is none, or an empty one, the model begins a new text.
    pub(super) prompt: Option<Prompt>,
    pub(super) stream_options: Option<CompletionStreamOptions>,

    #[schemars(transform = at_least(LEAST_COMPLETION_TOKENS))]
    pub(super) max_tokens: Option<i64>,
    /// How many answers to each prompt.
    #[schemars(transform = within(CHOICES))]
    pub(super) n: Option<i64>,
    /// Refused unless it equals `n`.
    #[schemars(transform = within(CHOICES))]
    pub(super) best_of: Option<i64>,
    /// Rivals to tell of each token.
    #[schemars(transform = within(LOGPROBS))]
    pub(super) logprobs: Option<i64>,
    /// Whether the prompt comes before the answer.
    pub(super) echo: Option<bool>,
    /// Refused unless it is empty: models are asked to go on, not to fill in.
    #[schemars(length(max = 0))]
    pub(super) suffix: Option<String>,

    // Ours.
    /// Refused: of chat completions; use `structured_outputs`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) response_format: Option<Value>,
}
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "CompletionStreamOptions",
    description = "Only together with `stream`."
)]
pub(super) struct CompletionStreamOptions {
    /// Whether a chunk with the usage comes last.
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(description = "A text, several, the tokens of one, or those of several.")]
#[serde(
    untagged,
    expecting = "expected a string, an array of strings, an array of token ids, or an array of such arrays"
)]
pub(super) enum Prompt {
    Text(String),
    Texts(#[schemars(length(min = 1, max = MOST_PROMPTS))] Vec<String>),
    Tokens(#[schemars(length(min = 1), transform = each(within(TOKEN_ID)))] Vec<i64>),
    TokenLists(
        #[schemars(
            length(min = 1, max = MOST_PROMPTS),
            inner(length(min = 1)),
            transform = each(each(within(TOKEN_ID)))
        )]
        Vec<Vec<i64>>,
    ),
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Completion<'a> {
    pub(super) id: &'a str,
    #[schemars(transform = among(["text_completion"]))]
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) system_fingerprint: &'a str,
    pub(super) choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_absent")]
    pub(super) usage: ChunkUsage,
    /// In a stream, with the finish reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) edgellm: Option<EdgellmAnswer>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CompletionChoice {
    pub(super) text: String,
    pub(super) index: usize,
    pub(super) logprobs: Option<CompletionLogprobs>,
    /// `null` in a stream until the end.
    #[schemars(with = "Option<&str>", transform = among([AnswerOutcome::Stop.as_str(), AnswerOutcome::Length.as_str()]))]
    pub(super) finish_reason: Option<AnswerOutcome>,
}

/// One entry a token in each list.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "CompletionLogprobs")]
#[allow(clippy::struct_field_names)] // OpenAI's
pub(super) struct CompletionLogprobs {
    /// Texts; `bytes:` and the bytes of what is no whole text.
    pub(super) tokens: Vec<String>,
    /// None for a prompt's first token, before which there is nothing.
    pub(super) token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens and, always, the one that was chosen.
    pub(super) top_logprobs: Vec<Option<TopLogprobs>>,
    /// Characters (code points) before the token.
    pub(super) text_offset: Vec<usize>,
}

/// Names of tokens, no two alike, and how likely each was.
#[derive(Debug, JsonSchema)]
#[schemars(inline)]
pub(super) struct TopLogprobs(
    #[schemars(with = "HashMap<String, f32>")] pub(super) Vec<(String, f32)>,
);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, logprob)| (name, logprob)))
    }
}

impl Wire for CompletionRequest {
    const COUNT_SCOPE: CountScope = CountScope::AllButTokens;
}

only_objects!(CompletionRequest, CompletionStreamOptions,);
