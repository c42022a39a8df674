//! Errors of inference, independent of any protocol.
//!
//! A front maps a [`RequestField`] to its parameter name and a [`FieldProblem`] to its error code, and makes
//! the message that its client reads.

use std::borrow::Cow;
use std::fmt;

use crate::admission::{AdmissionRefusal, MissedDeadline, QuotaRefusal};
use crate::pool::MemoryShortage;
use crate::prompt::{PromptError, TemplateError};
use crate::worker::WorkError;

use crate::field::FieldPath;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InferenceError {
    /// Something in the request is wrong.
    Request(RequestError),
    /// The request is fine, but cannot be answered.
    Failure(InferenceFailure),
}

/// What is wrong with which part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestError {
    /// The part.
    pub(crate) field: RequestField,
    /// What is wrong with it.
    pub(crate) problem: FieldProblem,
}

/// A part of a request that the protocols have different names for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestField {
    /// The model's name.
    Model,
    /// The conversation or the text that is answered, or a place in it.
    Prompt(FieldPath),
    /// The number of answers to each prompt.
    Choices,
    /// The logit bias of this token.
    LogitBias(i32),
    /// How much the model is to think.
    Effort,
    /// The text that the answer is expected to be.
    Prediction,
    /// Additional variables of the chat template.
    TemplateVariables,
    /// The tools that the model may call.
    Tools,
    /// A schema that the answer must fit, or a place in it, where the client wrote it.
    Schema(FieldPath),
    /// The text to embed, or the one at this index of several.
    Text(Option<usize>),
    /// The token at this index of the text to embed, or of the one at this index of several.
    TextToken(Option<usize>, usize),
    /// The number of dimensions of a vector.
    Dimensions,
    /// The token at this index of those to detokenize.
    Token(usize),
}

/// What is wrong with a part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FieldProblem {
    /// It is not what it must be.
    Invalid(FieldSentence),
    /// It is known and not supported; the text follows its name in the message.
    Unsupported(Cow<'static, str>),
    /// It is longer than the model's context.
    TooLong(ContextOverflow),
    /// The model is not made for it.
    WrongPurpose(WrongPurpose),
}

/// A use that the model is not made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WrongPurpose {
    /// This model embeds and does not generate.
    Embeds(String),
    /// The model embeds, and was given a conversation.
    DoesNotChat,
    /// This model generates and does not embed; `embedders` do.
    Generates {
        /// Its id.
        model: String,
        /// The ids of those that embed.
        embedders: Vec<String>,
    },
}

/// A sentence about a parameter, whose name only the front knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FieldSentence {
    /// The name stands between these.
    Around {
        /// What comes before it.
        before: Cow<'static, str>,
        /// What comes after it.
        after: String,
    },
    /// A sentence without the name.
    Whole(String),
}

impl FieldSentence {
    /// Returns the sentence, with the parameter called `name`.
    #[must_use]
    pub(crate) fn about(&self, name: &impl fmt::Display) -> String {
        match self {
            Self::Around { before, after } => format!("{before}`{name}`{after}"),
            Self::Whole(sentence) => sentence.clone(),
        }
    }
}

/// The length of an input that exceeds the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContextOverflow {
    /// Its length in tokens, or a lower bound of it.
    pub(crate) tokens: usize,
    /// Whether `tokens` is a lower bound.
    pub(crate) at_least: bool,
    /// The model's context in tokens.
    pub(crate) context: usize,
    /// What the input was to be used for.
    pub(crate) purpose: TextPurpose,
}

/// What an input is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextPurpose {
    /// To be answered.
    Answer,
    /// To be made a vector of.
    Embedding,
    /// To be shown its tokens.
    Tokens,
}

impl ContextOverflow {
    /// The sentence in which the parameter is called `name`.
    #[must_use]
    pub(crate) fn about(self, name: &impl fmt::Display) -> String {
        let context = self.context;
        let at_least = if self.at_least { "at least " } else { "" };
        let tokens = format!("{at_least}{}", self.tokens);
        match self.purpose {
            // Clients know this failure by OpenAI's words.
            TextPurpose::Answer => format!(
                "This model's maximum context length is {context} tokens. However, your {name} resulted \
                 in {tokens} tokens, and at least one must be left for the answer. Please reduce the \
                 length of the {name}."
            ),
            TextPurpose::Embedding => format!(
                "`{name}` has {tokens} tokens; the model reads at most {context}: split or shorten it"
            ),
            TextPurpose::Tokens => format!(
                "the {name} have {tokens} tokens; the model's context is {context}: no chat request can \
                 hold them"
            ),
        }
    }
}

/// Why a valid request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InferenceFailure {
    /// There is no such model.
    UnknownModel {
        /// The name asked for, shortened to what is echoed.
        name: String,
        /// The ids that exist.
        available: Vec<String>,
    },
    /// Who asks may not use this model.
    ModelNotAllowed(String),
    /// Who asks has used up what it may use.
    OverQuota(QuotaRefusal),
    /// It was not admitted.
    Refused(AdmissionRefusal),
    /// It was not admitted because its deadline cannot be met.
    DeadlineUnreachable(MissedDeadline),
    /// This model could not be loaded, or its thread has ended.
    ModelUnavailable(String),
    /// There is not enough memory for the model.
    ModelTooLarge {
        /// Its id.
        model: String,
        /// How much it needs, and how much there is.
        shortage: MemoryShortage,
    },
    /// The model's chat template does not work.
    Template,
    /// It failed while it was computed.
    Job(WorkError),
    /// A defect; the log has the details.
    Internal,
}

impl RequestError {
    /// `field` is not what it must be; `after` follows its name.
    pub(crate) fn invalid(field: RequestField, after: impl Into<String>) -> Self {
        Self::invalid_in(field, "", after)
    }

    /// `field` is not what it must be: its name stands between these.
    pub(crate) fn invalid_in(
        field: RequestField,
        before: impl Into<Cow<'static, str>>,
        after: impl Into<String>,
    ) -> Self {
        let (before, after) = (before.into(), after.into());
        Self {
            field,
            problem: FieldProblem::Invalid(FieldSentence::Around { before, after }),
        }
    }

    /// `field` is not what it must be, which is said without its name.
    pub(crate) fn invalid_whole(field: RequestField, sentence: impl Into<String>) -> Self {
        Self {
            field,
            problem: FieldProblem::Invalid(FieldSentence::Whole(sentence.into())),
        }
    }

    pub(crate) fn wrong_purpose(wrong: WrongPurpose) -> Self {
        Self::not_for_this_model(RequestField::Model, wrong)
    }

    /// `field` is nothing for this model.
    pub(crate) fn not_for_this_model(field: RequestField, wrong: WrongPurpose) -> Self {
        Self {
            field,
            problem: FieldProblem::WrongPurpose(wrong),
        }
    }

    /// `field` does not fit into the model's context.
    pub(crate) fn too_long(field: RequestField, too_long: ContextOverflow) -> Self {
        Self {
            field,
            problem: FieldProblem::TooLong(too_long),
        }
    }

    /// `field` is known and cannot be honoured; `why` follows its name.
    pub(crate) fn unsupported(field: RequestField, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field,
            problem: FieldProblem::Unsupported(why.into()),
        }
    }
}

impl From<RequestError> for InferenceError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<InferenceFailure> for InferenceError {
    fn from(failure: InferenceFailure) -> Self {
        Self::Failure(failure)
    }
}

impl From<AdmissionRefusal> for InferenceError {
    fn from(refusal: AdmissionRefusal) -> Self {
        InferenceFailure::Refused(refusal).into()
    }
}

impl From<QuotaRefusal> for InferenceError {
    fn from(refusal: QuotaRefusal) -> Self {
        InferenceFailure::OverQuota(refusal).into()
    }
}

impl From<MissedDeadline> for InferenceError {
    fn from(missed: MissedDeadline) -> Self {
        InferenceFailure::DeadlineUnreachable(missed).into()
    }
}

impl From<&PromptError> for InferenceError {
    fn from(error: &PromptError) -> Self {
        let prompt = || RequestField::Prompt(FieldPath::default());
        match error {
            PromptError::NoTemplate => {
                RequestError::invalid_whole(RequestField::Model, error.to_string()).into()
            }
            PromptError::NoMark => {
                let why = " contains every Unicode noncharacter (U+FDD0 and so on): leave one out";
                RequestError::invalid(prompt(), why).into()
            }
            PromptError::NoObject { message, call, id } => {
                let place = FieldPath::default()
                    .index(*message)
                    .name("tool_calls")
                    .index(*call)
                    .name("function.arguments");
                let why = format!(
                    ": the arguments of the call `{id}` are not a JSON object, which this model's chat \
                     template needs: send an object (`{{}}` for none), or leave out the call and its answer"
                );
                RequestError::invalid(RequestField::Prompt(place), why).into()
            }
            PromptError::Template(error) => error.into(),
        }
    }
}

impl From<&TemplateError> for InferenceError {
    fn from(error: &TemplateError) -> Self {
        match error {
            TemplateError::Refused(_) | TemplateError::Failed(_) => {
                let prompt = RequestField::Prompt(FieldPath::default());
                RequestError::invalid_whole(prompt, error.to_string()).into()
            }
            TemplateError::Broken(reason) => {
                tracing::error!(reason, "the model's chat template does not work");
                InferenceFailure::Template.into()
            }
        }
    }
}
