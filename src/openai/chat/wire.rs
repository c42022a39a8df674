//! The body of `POST /v1/chat/completions`, as OpenAI documents it, and the
//! parameters of ours beside it. `null` means absent, unknown keys are ignored.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::http::openapi::{Metadata, NullOnly, among, at_least, each, only_in_streams, within};
use crate::http::parse::{Wire, only_objects};
use crate::inference::bounds::{
    CHOICES, LEAST_TOKENS, LONGEST_ID, LONGEST_IDENTIFIER, LONGEST_NAME,
    LONGEST_TEMPLATE_KWARG_NAME, MOST_TEMPLATE_KWARGS, MOST_TOOLS, TOP_LOGPROBS,
};
use crate::openai::shared_fields::with_structured_output_fields;
use crate::openai::tools::{FORMAT_TYPES, NAME_PATTERN, TOOL_CHOICE_MODES};
use crate::prompt::ReasoningEffort;

with_structured_output_fields! {
/// The request. Numbers are wide here, so that a value out of range is refused
/// in words rather than by type.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "ChatCompletionRequest",
    transform = only_in_streams,
    description = "A conversation, and how it is to be answered."
)]
pub(crate) struct ChatCompletionRequest {
    #[schemars(length(min = 1))]
    pub(super) messages: Vec<ChatMessage>,
    pub(super) stream_options: Option<StreamOptions>,

    /// OpenAI's old name of `max_completion_tokens`, which it gives way to.
    #[schemars(transform = at_least(LEAST_TOKENS))]
    pub(super) max_tokens: Option<i64>,
    /// Tokens of an answer at most, thoughts included.
    #[schemars(transform = at_least(LEAST_TOKENS))]
    pub(super) max_completion_tokens: Option<i64>,
    /// How many answers.
    #[schemars(transform = within(CHOICES))]
    pub(super) n: Option<i64>,
    /// Whether to tell how likely each token was.
    pub(super) logprobs: Option<bool>,
    /// Rivals to tell of each token; needs `logprobs`.
    #[schemars(transform = within(TOP_LOGPROBS))]
    pub(super) top_logprobs: Option<i64>,
    pub(super) response_format: Option<ResponseFormat>,
    /// How much to think, for models whose template knows it; others refuse all but `none`.
    #[schemars(transform = among(ReasoningEffort::ALL.map(ReasoningEffort::as_str)))]
    pub(super) reasoning_effort: Option<String>,

    #[schemars(length(max = MOST_TOOLS))]
    pub(super) tools: Option<Vec<ChatTool>>,
    pub(super) tool_choice: Option<ToolChoice>,
    pub(super) parallel_tool_calls: Option<bool>,

    pub(super) prediction: Option<Prediction>,

    // Of no consequence here, but of the right type and length.
    #[schemars(with = "Option<Metadata>")]
    pub(super) metadata: Option<Map<String, Value>>,
    #[schemars(length(max = LONGEST_ID))]
    pub(super) prompt_cache_key: Option<String>,
    #[schemars(length(max = LONGEST_IDENTIFIER))]
    pub(super) safety_identifier: Option<String>,

    // Ours.

    /// Further variables of the chat template, as in vLLM and llama.cpp, such as
    /// `{"enable_thinking": false}`; those that it does not know do nothing. Not OpenAI's.
    #[schemars(extend(
        "maxProperties" = MOST_TEMPLATE_KWARGS,
        "propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": LONGEST_TEMPLATE_KWARG_NAME},
    ))]
    pub(super) chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the answer goes on with the text of the last message, an assistant's, as in vLLM. Only what
    /// is new is told. Not OpenAI's.
    pub(super) continue_final_message: Option<bool>,
    /// Whether the prompt opens the assistant's turn; true where nothing is said, but with
    /// `continue_final_message`. Not OpenAI's.
    pub(super) add_generation_prompt: Option<bool>,

    // Known, and refused where they ask for what is not built. Named one by one, so that
    // what a client sends under other names is skipped and never kept.
    /// Refused as true: chat completions are not kept.
    #[schemars(transform = among([false]))]
    pub(super) store: Option<bool>,
    /// Refused with anything but `text`.
    #[schemars(transform = each(among(["text"])))]
    pub(super) modalities: Option<Vec<String>>,
    /// Refused: OpenAI's old form of `tools`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) functions: Option<Value>,
    /// Refused: OpenAI's old form of `tool_choice`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) function_call: Option<Value>,
    /// Refused: models here write text only.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) audio: Option<Value>,
    /// Refused with anything but `medium`.
    #[schemars(transform = among(["medium"]))]
    pub(super) verbosity: Option<String>,
    /// Refused: there is no web here.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) web_search_options: Option<Value>,
    /// Refused: the template of the model's file is used.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) chat_template: Option<Value>,
    /// Refused: put them into a message.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) documents: Option<Value>,
}
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "Only together with `stream`.")]
pub(super) struct StreamOptions {
    /// Whether a chunk with the usage comes last.
    pub(super) include_usage: Option<bool>,
}

/// `type` is `text`, `json_object` or `json_schema`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "What the answer must be.")]
pub(super) struct ResponseFormat {
    #[serde(rename = "type")]
    #[schemars(transform = among(FORMAT_TYPES))]
    pub(super) kind: String,
    /// Needed where the type says so.
    pub(super) json_schema: Option<JsonSchemaFormat>,
    /// A JSON schema, for either type of JSON: llama.cpp's older form. Not OpenAI's.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) schema: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct JsonSchemaFormat {
    #[schemars(length(max = LONGEST_NAME), pattern(NAME_PATTERN))]
    pub(super) name: String,
    /// The JSON schema; one that cannot be followed is refused.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) schema: Option<Value>,
    /// Whether the schema must keep to OpenAI's strict subset.
    pub(super) strict: Option<bool>,
}

/// `none`, `auto`, `required`, one function, or some that are allowed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected `none`, `auto`, `required` or an object with a `type`"
)]
pub(super) enum ToolChoice {
    Mode(#[schemars(transform = among(TOOL_CHOICE_MODES))] String),
    Some(ChosenTools),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct ChosenTools {
    #[serde(rename = "type")]
    #[schemars(transform = among(["function", "allowed_tools"]))]
    pub(super) kind: String,
    /// One of `tools`.
    pub(super) function: Option<NamedFunction>,
    pub(super) allowed_tools: Option<AllowedTools>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct AllowedTools {
    #[schemars(transform = among(["auto", "required"]))]
    pub(super) mode: String,
    pub(super) tools: Vec<AllowedTool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct AllowedTool {
    #[schemars(required)]
    pub(super) function: Option<NamedFunction>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct NamedFunction {
    pub(super) name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "ChatMessage",
    extend("allOf" = [
        {
            "if": {"properties": {"role": {"const": "tool"}}, "required": ["role"]},
            "then": {"properties": {"tool_call_id": {"type": "string"}}, "required": ["tool_call_id"]},
        },
        {
            "if": {
                "properties": {"role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1}},
                "required": ["role", "tool_calls"],
            },
            "else": {"anyOf": [
                {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
                {
                    "properties": {"role": {"const": "assistant"}, "refusal": {"type": "string"}},
                    "required": ["refusal"],
                },
            ]},
        },
    ])
)]
pub(crate) struct ChatMessage {
    pub(super) role: Role,
    /// Only an assistant that calls tools or refuses may do without.
    pub(super) content: Option<Content>,
    /// What an assistant said instead of an answer.
    pub(super) refusal: Option<String>,
    pub(super) name: Option<String>,
    pub(super) tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool answers.
    pub(super) tool_call_id: Option<String>,
}

/// Through a string, because of a number `serde_json` says only "expected value".
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(!try_from, rename_all = "lowercase", description = "Who speaks.")]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl TryFrom<String> for Role {
    type Error = &'static str;

    fn try_from(role: String) -> Result<Self, Self::Error> {
        Ok(match role.as_str() {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            _ => return Err("unknown role; use system, developer, user, assistant or tool"),
        })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or an array of content parts")]
#[schemars(description = "A text, whole or in parts that follow each other with nothing between.")]
pub(super) enum Content {
    Text(String),
    Parts(#[schemars(length(min = 1))] Vec<ContentPart>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "ContentPart",
    description = "Images, sounds and files are refused: models here read text only.",
    extend("oneOf" = [
        {"properties": {"type": {"const": "text"}, "text": {"type": "string"}}, "required": ["text"]},
        {"properties": {"type": {"const": "refusal"}, "refusal": {"type": "string"}}, "required": ["refusal"]},
    ])
)]
pub(super) struct ContentPart {
    #[serde(rename = "type")]
    #[schemars(transform = among(["text", "refusal"]))]
    pub(super) kind: String,
    /// Of a part of type `text`.
    pub(super) text: Option<String>,
    /// Of a part of type `refusal`, which assistant messages may have.
    pub(super) refusal: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(description = "The text that the answer is expected to be, which makes it faster.")]
pub(super) struct Prediction {
    #[serde(rename = "type")]
    #[schemars(transform = among(["content"]))]
    pub(super) kind: String,
    pub(super) content: Content,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct ToolCall {
    pub(super) id: String,
    pub(super) function: CalledFunction,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct CalledFunction {
    pub(super) name: String,
    /// A JSON object in a string.
    pub(super) arguments: String,
}

/// A tool on offer. What the model reads is the whole object, so unknown keys stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Tool")]
pub(crate) struct ChatTool {
    #[serde(rename = "type")]
    #[schemars(transform = among(["function"]))]
    pub(super) kind: String,
    #[schemars(required)]
    pub(super) function: Option<OfferedFunction>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
    /// The same with its numbers as they are written, where they would be rounded.
    #[serde(skip)]
    pub(super) as_written: Option<Value>,
}

impl ChatTool {
    /// Keeps tools as they are written.
    pub(crate) fn keep_as_written(tools: Option<&mut Vec<Self>>, written: Vec<Value>) {
        for (tool, written) in tools.into_iter().flatten().zip(written) {
            tool.as_written = Some(written);
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(
    rename = "OfferedFunction",
    description = "`parameters` is the JSON schema of its arguments, `strict` whether that keeps to \
                   OpenAI's strict subset, `description` tells the model what it does."
)]
pub(super) struct OfferedFunction {
    #[schemars(length(max = LONGEST_NAME), pattern(NAME_PATTERN))]
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

impl Wire for ChatCompletionRequest {
    const HAS_TOOLS: bool = true;

    fn keep_tools(&mut self, written: Vec<Value>) {
        ChatTool::keep_as_written(self.tools.as_mut(), written);
    }
}

only_objects!(
    ChatCompletionRequest,
    StreamOptions,
    ResponseFormat,
    JsonSchemaFormat,
    ChosenTools,
    AllowedTools,
    AllowedTool,
    NamedFunction,
    ChatMessage,
    ContentPart,
    Prediction,
    ToolCall,
    CalledFunction,
);
