//! Each endpoint's names for the parts of a request, and its errors about them.
//!
//! This is the one place where [`inference`](crate::inference)'s fields become parameter names and its
//! problems become API errors.

use crate::field::FieldPath;
use crate::http::error::ApiError;
use crate::inference::FailureSummary;
use crate::inference::error::{
    FieldProblem, InferenceError, RequestError, RequestField, WrongPurpose,
};

/// An endpoint's names for those parts of a request that endpoints name differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParameterNames {
    /// The parameter that is answered, embedded or tokenized.
    prompt: &'static str,
    /// Whether a path within the prompt is also a path within that parameter.
    has_prompt_paths: bool,
    effort: &'static str,
}

pub(crate) const CHAT: ParameterNames = ParameterNames {
    prompt: "messages",
    has_prompt_paths: true,
    effort: "reasoning_effort",
};
pub(crate) const COMPLETIONS: ParameterNames = ParameterNames {
    prompt: "prompt",
    ..CHAT
};
/// Turns are made from items, so a path within the prompt is not one within `input`.
pub(crate) const RESPONSES: ParameterNames = ParameterNames {
    prompt: "input",
    has_prompt_paths: false,
    effort: "reasoning.effort",
};
pub(crate) const EMBEDDINGS: ParameterNames = ParameterNames {
    prompt: "input",
    ..CHAT
};
/// Names of `/tokenize` and `/detokenize`.
pub(crate) const TOKENIZE: ParameterNames = CHAT;

impl ParameterNames {
    fn name(self, field: RequestField) -> FieldPath {
        let prompt = FieldPath::from(self.prompt);
        let text = |index: Option<usize>| match index {
            Some(index) => FieldPath::from(self.prompt).index(index),
            None => FieldPath::from(self.prompt),
        };
        match field {
            RequestField::Model => "model".into(),
            RequestField::Prompt(place) if self.has_prompt_paths => prompt.join(place),
            RequestField::Prompt(_) => prompt,
            RequestField::Choices => "n".into(),
            RequestField::LogitBias(token) => FieldPath::from("logit_bias").key(token.to_string()),
            RequestField::Effort => self.effort.into(),
            RequestField::Prediction => "prediction.content".into(),
            RequestField::TemplateVariables => "chat_template_kwargs".into(),
            RequestField::Tools => "tools".into(),
            RequestField::Schema(place) => place,
            RequestField::Text(index) => text(index),
            RequestField::TextToken(index, token) => text(index).index(token),
            RequestField::Dimensions => "dimensions".into(),
            RequestField::Token(index) => FieldPath::from("tokens").index(index),
        }
    }

    /// Turns an error of inference into this endpoint's API error.
    pub(crate) fn api_error(self, error: InferenceError) -> ApiError {
        match error {
            InferenceError::Failure(failure) => failure.into(),
            InferenceError::Request(RequestError { field, problem }) => {
                let param = self.name(field);
                match problem {
                    FieldProblem::Invalid(sentence) => {
                        let message = sentence.about(&param);
                        ApiError::invalid(param, message)
                    }
                    FieldProblem::Unsupported(why) => ApiError::unsupported(param, why),
                    FieldProblem::TooLong(too_long) => ApiError::ContextLength {
                        message: too_long.about(&param),
                        param,
                    },
                    FieldProblem::WrongPurpose(wrong) => {
                        ApiError::invalid(param, other_model(&wrong))
                    }
                }
            }
        }
    }

    /// Returns what is counted and logged of an error.
    pub(crate) fn summarize(self, error: &InferenceError) -> FailureSummary {
        self.api_error(error.clone()).summary()
    }
}

fn other_model(wrong: &WrongPurpose) -> String {
    match wrong {
        WrongPurpose::Embeds(model) => format!(
            "`{model}` is an embedding model, for POST /v1/embeddings; GET /v1/models shows which models \
             chat"
        ),
        WrongPurpose::DoesNotChat => {
            "an embedding model does not chat: send the text as `prompt`".to_owned()
        }
        WrongPurpose::Generates { model, embedders } if embedders.is_empty() => format!(
            "`{model}` is no embedding model; this server has no embedding model: add one to its [[models]]"
        ),
        WrongPurpose::Generates { model, embedders } => {
            let embedders = embedders.join("`, `");
            format!(
                "`{model}` is no embedding model; embedding models of this server: `{embedders}`"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;
    use crate::inference::error::InferenceFailure;
    use crate::prompt::{PromptError, TemplateError};

    #[test]
    fn what_is_wrong_about_a_turn_is_told_of_the_parameter_that_it_came_in() {
        let no_object = PromptError::NoObject {
            message: 1,
            call: 0,
            id: "call_7".to_owned(),
        };
        for (names, param) in [
            (RESPONSES, "input"),
            (CHAT, "messages[1].tool_calls[0].function.arguments"),
        ] {
            let error = names.api_error(InferenceError::from(&no_object)).body();
            assert_eq!(error["error"]["param"], param);
            let message = error["error"]["message"].as_str().expect("a text");
            assert!(message.starts_with(&format!("`{param}`: ")), "{message}");
            assert!(message.contains("`call_7`"), "{message}");
        }
        let no_mark = RESPONSES.api_error(InferenceError::from(&PromptError::NoMark));
        assert!(
            no_mark.to_string().starts_with("`input` contains"),
            "{no_mark}"
        );
    }

    #[test]
    fn a_prompt_that_is_too_long_is_told_in_openais_words_with_the_endpoints_name() {
        use crate::inference::error::{ContextOverflow, TextPurpose};
        let too_long = ContextOverflow {
            tokens: 7,
            at_least: true,
            context: 5,
            purpose: TextPurpose::Answer,
        };
        let field = RequestField::Prompt(FieldPath::default());
        let error = InferenceError::from(RequestError::too_long(field, too_long));
        let body = COMPLETIONS.api_error(error).body();
        assert_eq!(body["error"]["code"], "context_length_exceeded");
        assert_eq!(body["error"]["param"], "prompt");
        let message = body["error"]["message"].as_str().expect("a text");
        let expected = "This model's maximum context length is 5 tokens. However, your prompt resulted in \
            at least 7 tokens, and at least one must be left for the answer. Please reduce the length of \
            the prompt.";
        assert_eq!(message, expected);
    }

    #[test]
    fn what_a_template_cannot_do_with_a_conversation_is_the_clients_to_mend() {
        let no_object = PromptError::NoObject {
            message: 1,
            call: 2,
            id: "call_7".to_owned(),
        };
        let error = CHAT.api_error(InferenceError::from(&no_object)).body();
        let param = "messages[1].tool_calls[2].function.arguments";
        assert_eq!(error["error"]["param"], param);
        let message = error["error"]["message"].as_str().expect("a text");
        for part in [param, "call_7", "send an object (`{}` for none)"] {
            assert!(message.contains(part), "{message}");
        }
        let failed = TemplateError::Failed("cannot add".to_owned());
        let error = CHAT.api_error(InferenceError::from(&failed));
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert!(
            error.body()["error"]["message"]
                .as_str()
                .is_some_and(|text| text.contains("cannot add"))
        );
        let broken = TemplateError::Broken("unknown filter".to_owned());
        assert_eq!(
            CHAT.api_error(InferenceError::from(&broken)).status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }

    #[test]
    fn a_failure_is_no_parameters_fault() {
        let error = RESPONSES.api_error(InferenceFailure::Internal.into());
        assert_eq!(error, ApiError::Internal);
    }
}
