//! The body of `POST /v1/responses`, as OpenAI documents it, and the parameters of ours beside it.
//! `null` means absent, unknown keys are ignored. Items and tools come in many kinds, so they are
//! kept as they are until their kind is known.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::http::openapi::{Metadata, NullOnly, among, at_least, each, only_in_streams, within};
use crate::http::parse::{Wire, only_objects};
use crate::inference::bounds::{
    LEAST_TOKENS, LONGEST_DESCRIPTION, LONGEST_ID, LONGEST_IDENTIFIER, LONGEST_NAME,
    LONGEST_TEMPLATE_KWARG_NAME, MOST_TEMPLATE_KWARGS, MOST_TOOLS, TOP_LOGPROBS,
};
use crate::openai::shared_fields::with_generation_fields;
use crate::openai::tools::{FORMAT_TYPES, NAME_PATTERN, TOOL_CHOICE_MODES};
use crate::prompt::ReasoningEffort;

with_generation_fields! {
/// The request. Numbers are wide here, so that a value out of range is refused in words rather than
/// by type.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    description = "What the model is to respond to, and how.",
    transform = only_in_streams
)]
pub(crate) struct ResponseRequest {
    /// A question, or items of a conversation.
    #[schemars(with = "TextOr<InputItem>")]
    pub(super) input: Option<TextOr<Value>>,
    /// What the system says, before everything else.
    pub(super) instructions: Option<String>,
    /// A stored response that this one goes on from.
    #[schemars(length(max = LONGEST_ID))]
    pub(super) previous_response_id: Option<String>,
    /// Whether the response is kept for a while; it is unless this is false.
    pub(super) store: Option<bool>,
    pub(super) stream_options: Option<ResponseStreamOptions>,
    #[schemars(transform = each(among(INCLUDABLE)))]
    pub(super) include: Option<Vec<String>>,

    /// Tokens of the answer at most, thoughts included.
    #[schemars(transform = at_least(LEAST_TOKENS))]
    pub(super) max_output_tokens: Option<i64>,
    /// Rivals to tell of each token.
    #[schemars(transform = within(TOP_LOGPROBS))]
    pub(super) top_logprobs: Option<i64>,
    pub(super) reasoning: Option<ReasoningOptions>,
    pub(super) text: Option<TextOptions>,
    /// Whether the oldest turns give way where all do not fit.
    #[schemars(transform = among(["auto", "disabled"]))]
    pub(super) truncation: Option<String>,

    #[schemars(with = "Option<Vec<ResponseOfferedTool>>", length(max = MOST_TOOLS))]
    pub(super) tools: Option<Vec<Value>>,
    /// The same with numbers as they are written, where some would be rounded.
    #[serde(skip)]
    pub(super) tools_as_written: Vec<Value>,
    #[schemars(with = "Option<ResponseToolChoice>")]
    pub(super) tool_choice: Option<Value>,
    pub(super) parallel_tool_calls: Option<bool>,
    /// Of tools that the server runs itself, which this one does not.
    #[schemars(transform = at_least(LEAST_TOKENS))]
    pub(super) max_tool_calls: Option<i64>,

    #[schemars(with = "Option<Metadata>")]
    pub(super) metadata: Option<Map<String, Value>>,
    #[schemars(length(max = LONGEST_ID))]
    pub(super) prompt_cache_key: Option<String>,
    #[schemars(length(max = LONGEST_IDENTIFIER))]
    pub(super) safety_identifier: Option<String>,

    // Ours: what chat completions take.

    /// Further variables of the chat template, as in vLLM and llama.cpp, such as
    /// `{"enable_thinking": false}`; those that it does not know do nothing. Not OpenAI's.
    #[schemars(extend(
        "maxProperties" = MOST_TEMPLATE_KWARGS,
        "propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": LONGEST_TEMPLATE_KWARG_NAME},
    ))]
    pub(super) chat_template_kwargs: Option<Map<String, Value>>,

    // Known, and refused where they ask for what is not built.
    /// Refused as true; use `stream`, which a client can come back to.
    #[schemars(transform = among([false]))]
    pub(super) background: Option<bool>,
    /// Refused; use `previous_response_id`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) conversation: Option<Value>,
    /// Refused: no prompt templates are kept here.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) prompt: Option<Value>,
    /// Refused.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) context_management: Option<Value>,
    /// Refused.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) moderation: Option<Value>,
    /// Refused: beginnings of prompts are kept while there is room.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) prompt_cache_options: Option<Value>,
    /// Refused with anything but `in_memory`.
    #[schemars(transform = among(["in_memory", "in-memory"]))]
    pub(super) prompt_cache_retention: Option<String>,

    // Of chat completions, and called differently here.
    /// Refused: of chat completions; use `input`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) messages: Option<Value>,
    /// Refused: of chat completions; use `max_output_tokens`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) max_tokens: Option<Value>,
    /// Refused: of chat completions; use `max_output_tokens`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) max_completion_tokens: Option<Value>,
    /// Refused: of chat completions; use `text.format`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) response_format: Option<Value>,
    /// Refused: of chat completions; use `reasoning.effort`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) reasoning_effort: Option<Value>,
    /// Refused: of chat completions; use `text.format`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) structured_outputs: Option<Value>,
    /// Refused: of chat completions; use `text.format`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) guided_json: Option<Value>,
    /// Refused: of llama.cpp's chat completions; use `text.format`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) json_schema: Option<Value>,
    /// Refused: answers are held to JSON schemas alone.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) grammar: Option<Value>,
    /// Refused: answers are held to JSON schemas alone.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) guided_regex: Option<Value>,
    /// Refused; use `text.format` with an `enum`.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) guided_choice: Option<Value>,
    /// Refused: answers are held to JSON schemas alone.
    #[schemars(with = "Option<NullOnly>")]
    pub(super) guided_grammar: Option<Value>,
}
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "ResponseStreamOptions",
    description = "Only together with `stream`."
)]
pub(super) struct ResponseStreamOptions {
    /// Whether deltas are filled up, so that their lengths tell nothing.
    pub(super) include_obfuscation: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct ReasoningOptions {
    /// How much to think, for models whose template knows it; others refuse all but `none`.
    #[schemars(transform = among(ReasoningEffort::ALL.map(ReasoningEffort::as_str)))]
    pub(super) effort: Option<String>,
    /// Refused with anything but `auto`: thoughts are told as they are.
    #[schemars(transform = among(["auto"]))]
    pub(super) summary: Option<String>,
    /// Refused with anything but `auto`: thoughts are told as they are.
    #[schemars(transform = among(["auto"]))]
    pub(super) generate_summary: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct TextOptions {
    #[schemars(with = "Option<TextFormat>")]
    pub(super) format: Option<Value>,
    /// Refused with anything but `medium`.
    #[schemars(transform = among(["medium"]))]
    pub(super) verbosity: Option<String>,
}

/// `type` is `text`, `json_object` or `json_schema`; the rest is for the last.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "TextFormat",
    description = "What the answer must be; name and schema are for `json_schema`."
)]
pub(super) struct TextFormat {
    #[serde(rename = "type")]
    #[schemars(transform = among(FORMAT_TYPES))]
    pub(super) kind: String,
    #[schemars(length(max = LONGEST_NAME), pattern(NAME_PATTERN))]
    pub(super) name: Option<String>,
    #[schemars(length(max = LONGEST_DESCRIPTION))]
    pub(super) description: Option<String>,
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) schema: Option<Value>,
    pub(super) strict: Option<bool>,
}

/// A message among the input items.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct InputMessage {
    #[schemars(length(max = LONGEST_ID))]
    pub(super) id: Option<String>,
    #[schemars(transform = among(["user", "assistant", "system", "developer"]))]
    pub(super) role: String,
    pub(super) content: TextOr<InputPart>,
    #[schemars(transform = among(["completed", "incomplete", "in_progress"]))]
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    rename = "InputPart",
    description = "A part with a text, or with a refusal of the model's. Images, sounds and files are refused."
)]
pub(super) struct InputPart {
    #[serde(rename = "type")]
    #[schemars(transform = among(INPUT_PART_TYPES))]
    pub(super) kind: String,
    pub(super) text: Option<String>,
    pub(super) refusal: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct InputFunctionCall {
    #[schemars(length(max = LONGEST_ID))]
    pub(super) id: Option<String>,
    #[schemars(length(max = LONGEST_ID))]
    pub(super) call_id: String,
    #[schemars(length(max = LONGEST_ID))]
    pub(super) name: String,
    /// JSON in a string.
    pub(super) arguments: String,
    #[schemars(transform = among(["completed", "incomplete", "in_progress"]))]
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct InputFunctionCallOutput {
    #[schemars(length(max = LONGEST_ID))]
    pub(super) id: Option<String>,
    #[schemars(length(max = LONGEST_ID))]
    pub(super) call_id: String,
    pub(super) output: TextOr<InputPart>,
    #[schemars(transform = among(["completed", "incomplete", "in_progress"]))]
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct InputReasoning {
    #[schemars(length(max = LONGEST_ID))]
    pub(super) id: Option<String>,
    pub(super) summary: Option<Vec<InputPart>>,
    pub(super) content: Option<Vec<InputPart>>,
    pub(super) encrypted_content: Option<String>,
    #[schemars(transform = among(["completed", "incomplete", "in_progress"]))]
    pub(super) status: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct ItemReference {
    #[schemars(length(max = LONGEST_ID))]
    pub(super) id: String,
}

/// A tool on offer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct ResponseFunction {
    #[schemars(length(max = LONGEST_NAME), pattern(NAME_PATTERN))]
    pub(super) name: String,
    pub(super) description: Option<String>,
    /// The JSON schema of its arguments.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) parameters: Option<Value>,
    pub(super) strict: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct ChosenFunction {
    pub(super) name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct AllowedFunctions {
    #[schemars(transform = among(["auto", "required"]))]
    pub(super) mode: String,
    #[schemars(with = "Vec<AllowedFunction>")]
    pub(super) tools: Vec<Value>,
}

/// What can be told in addition.
const INCLUDABLE: [&str; 2] = [
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
];
const INPUT_PART_TYPES: [&str; 5] = [
    "input_text",
    "output_text",
    "refusal",
    "reasoning_text",
    "summary_text",
];

/// What [`given`](super::items::given) reads by its kind. OpenAI lets clients leave the kind of
/// messages and references out.
#[derive(JsonSchema)]
#[schemars(
    tag = "type",
    rename_all = "snake_case",
    transform = kind_may_be_absent,
    description = "An item of a conversation."
)]
#[expect(dead_code, reason = "for the description")]
enum InputItem {
    Message(InputMessage),
    FunctionCall(InputFunctionCall),
    FunctionCallOutput(InputFunctionCallOutput),
    Reasoning(InputReasoning),
    ItemReference(ItemReference),
}

fn kind_may_be_absent(schema: &mut Schema) {
    let Some(Value::Array(mut kinds)) = schema.remove("oneOf") else {
        return;
    };
    for kind in &mut kinds {
        let name = &kind["properties"]["type"]["const"];
        if (name == "message" || name == "item_reference")
            && let Some(required) = kind["required"].as_array_mut()
        {
            required.retain(|name| name != "type");
        }
    }
    schema.insert("anyOf".to_owned(), kinds.into());
}

/// What [`offered`](super::tools::offered) reads.
#[derive(JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "ResponseOfferedTool", description = "A tool on offer.")]
#[expect(dead_code, reason = "for the description")]
enum ResponseOfferedTool {
    Function(ResponseFunction),
}

/// What [`choice`](super::tools::choice) reads.
#[derive(JsonSchema)]
#[schemars(
    untagged,
    rename = "ResponseToolChoice",
    description = "`none`, `auto`, `required`, one function, or some that are allowed."
)]
#[expect(dead_code, reason = "for the description")]
enum ResponseToolChoice {
    Mode(#[schemars(transform = among(TOOL_CHOICE_MODES))] String),
    Some(ResponseChosenTools),
}

#[derive(JsonSchema)]
#[schemars(
    tag = "type",
    rename_all = "snake_case",
    rename = "ResponseChosenTools"
)]
#[expect(dead_code, reason = "for the description")]
enum ResponseChosenTools {
    Function(ChosenFunction),
    AllowedTools(AllowedFunctions),
}

#[derive(JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case")]
#[expect(dead_code, reason = "for the description")]
enum AllowedFunction {
    Function(ChosenFunction),
}

/// A string, or a list. Not an untagged enum, in which the place of a mistake would get lost.
#[derive(Debug, PartialEq, JsonSchema)]
#[schemars(untagged, inline)]
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

impl Wire for ResponseRequest {
    const HAS_TOOLS: bool = true;

    fn keep_tools(&mut self, written: Vec<Value>) {
        self.tools_as_written = written;
    }
}

only_objects!(
    ResponseRequest,
    ResponseStreamOptions,
    ReasoningOptions,
    TextOptions,
    TextFormat,
    InputMessage,
    InputPart,
    InputFunctionCall,
    InputFunctionCallOutput,
    InputReasoning,
    ItemReference,
    ResponseFunction,
    ChosenFunction,
    AllowedFunctions,
);
