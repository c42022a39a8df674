//! The body of `POST /v1/responses`, as OpenAI documents it, and the parameters of ours beside it.
//! `null` means absent, unknown keys are ignored. Items and tools come in many kinds, so they are
//! kept as they are until their kind is known.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::api::decoding::Stop;

/// The request. Numbers are wide here, so that a value out of range is refused in words rather than
/// by type.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct ResponseRequest {
    pub(super) model: Option<String>,
    pub(super) input: Option<TextOr<Value>>,
    pub(super) instructions: Option<String>,
    pub(super) previous_response_id: Option<String>,
    pub(super) store: Option<bool>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) include: Option<Vec<String>>,

    pub(super) max_output_tokens: Option<i64>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_logprobs: Option<i64>,
    pub(super) reasoning: Option<Reasoning>,
    pub(super) text: Option<Text>,
    pub(super) truncation: Option<String>,

    pub(super) tools: Option<Vec<Value>>,
    pub(super) tool_choice: Option<Value>,
    pub(super) parallel_tool_calls: Option<bool>,
    /// Of tools that the server runs itself, which this one does not.
    pub(super) max_tool_calls: Option<i64>,

    pub(super) service_tier: Option<String>,
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) user: Option<String>,
    pub(super) prompt_cache_key: Option<String>,
    pub(super) safety_identifier: Option<String>,

    // Ours: what chat completions take.
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) repeat_penalty: Option<f64>,
    pub(super) logit_bias: Option<Map<String, Value>>,
    pub(super) seed: Option<i64>,
    pub(super) stop: Option<Stop>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) stop_token_ids: Option<Vec<i64>>,

    // Known, and refused where they ask for what is not built.
    pub(super) background: Option<bool>,
    pub(super) conversation: Option<Value>,
    pub(super) prompt: Option<Value>,
    pub(super) context_management: Option<Value>,
    pub(super) moderation: Option<Value>,
    pub(super) prompt_cache_options: Option<Value>,
    pub(super) prompt_cache_retention: Option<String>,

    // Of chat completions, and called differently here.
    pub(super) messages: Option<Value>,
    pub(super) max_tokens: Option<Value>,
    pub(super) max_completion_tokens: Option<Value>,
    pub(super) response_format: Option<Value>,
    pub(super) reasoning_effort: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_obfuscation: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Reasoning {
    pub(super) effort: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) generate_summary: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Text {
    pub(super) format: Option<Value>,
    pub(super) verbosity: Option<String>,
}

/// `type` is `text`, `json_object` or `json_schema`; the rest is for the last.
#[derive(Debug, Deserialize)]
pub(super) struct Format {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) schema: Option<Value>,
    pub(super) strict: Option<bool>,
}

/// A message among the input items.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) id: Option<String>,
    pub(super) role: String,
    pub(super) content: TextOr<Part>,
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) text: Option<String>,
    pub(super) refusal: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FunctionCall {
    pub(super) id: Option<String>,
    pub(super) call_id: String,
    pub(super) name: String,
    /// JSON in a string.
    pub(super) arguments: String,
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FunctionCallOutput {
    pub(super) id: Option<String>,
    pub(super) call_id: String,
    pub(super) output: TextOr<Part>,
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ReasoningItem {
    pub(super) id: Option<String>,
    pub(super) summary: Option<Vec<Part>>,
    pub(super) content: Option<Vec<Part>>,
    pub(super) encrypted_content: Option<String>,
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ItemReference {
    pub(super) id: String,
}

/// A tool on offer.
#[derive(Debug, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) parameters: Option<Value>,
    pub(super) strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Allowed {
    pub(super) mode: String,
    pub(super) tools: Vec<Value>,
}

/// A string, or a list. Not an untagged enum, in which the place of a mistake would get lost.
#[derive(Debug, PartialEq)]
pub(super) enum TextOr<T> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or an array")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(TextOr::List)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
