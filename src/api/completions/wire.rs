//! The bodies of text completions, as OpenAI documents them, and the parameters of ours beside them.
//! `null` means absent, unknown keys are ignored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::decoding::Stop;
use crate::api::usage::Usage;

/// Numbers are wide here, so that a value out of range is refused in words rather than by type.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct CompletionRequest {
    pub(super) model: Option<String>,
    pub(super) prompt: Prompt,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,

    pub(super) max_tokens: Option<i64>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) logit_bias: Option<Map<String, Value>>,
    pub(super) seed: Option<i64>,
    pub(super) stop: Option<Stop>,
    pub(super) n: Option<i64>,
    pub(super) best_of: Option<i64>,
    pub(super) logprobs: Option<i64>,
    pub(super) echo: Option<bool>,
    pub(super) suffix: Option<String>,
    #[serde(rename = "user")]
    pub(super) _user: Option<String>,

    // Ours.
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f64>,
    pub(super) repeat_penalty: Option<f64>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) stop_token_ids: Option<Vec<i64>>,
    pub(super) service_tier: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, an array of strings, an array of token ids, or an array of such arrays"
)]
pub(super) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<i64>),
    TokenLists(Vec<Vec<i64>>),
}

#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) system_fingerprint: &'a str,
    pub(super) choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

#[derive(Debug, Serialize)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) index: usize,
    pub(super) logprobs: Option<Logprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// One entry a token in each list.
#[derive(Debug, Default, Serialize)]
#[allow(clippy::struct_field_names)] // OpenAI's
pub(super) struct Logprobs {
    pub(super) tokens: Vec<String>,
    /// None for a prompt's first token, before which there is nothing.
    pub(super) token_logprobs: Vec<Option<f32>>,
    pub(super) top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters before the token.
    pub(super) text_offset: Vec<usize>,
}
