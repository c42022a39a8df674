//! Where a chat prompt ends: vLLM's `continue_final_message` and `add_generation_prompt`.

use crate::http::error::ApiError;
use crate::inference::params::OutputFormat;
use crate::prompt::{Message, PromptEnd, Role};

const CONTINUE: &str = "continue_final_message";

/// Returns where the prompt ends by these two parameters, checked against the messages.
pub(crate) fn end(
    continues: Option<bool>,
    opens: Option<bool>,
    messages: &[Message],
) -> Result<PromptEnd, ApiError> {
    match (continues.unwrap_or(false), opens) {
        (false, None | Some(true)) => Ok(PromptEnd::OpenAnswer),
        (false, Some(false)) => Ok(PromptEnd::LastMessage),
        (true, Some(true)) => Err(ApiError::invalid(
            CONTINUE,
            format!(
                "`{CONTINUE}` and `add_generation_prompt` exclude each other: send one of them"
            ),
        )),
        (true, None | Some(false)) if may_go_on(messages) => Ok(PromptEnd::LastText),
        (true, None | Some(false)) => Err(ApiError::invalid(
            CONTINUE,
            format!(
                "`{CONTINUE}` needs a last message of the role `assistant`, with text and without \
                 `tool_calls`"
            ),
        )),
    }
}

fn may_go_on(messages: &[Message]) -> bool {
    messages.last().is_some_and(|last| {
        let text = last.content.as_deref().unwrap_or_default();
        last.role == Role::Assistant && last.tool_calls.is_empty() && !text.trim().is_empty()
    })
}

/// Refuses to continue a message if the answer must be JSON or a tool call: such a constraint applies from
/// the first token, which a continued message already has.
pub(super) fn check_form(end: PromptEnd, form: &OutputFormat) -> Result<(), ApiError> {
    match (end, form) {
        (PromptEnd::LastText, OutputFormat::Json(_) | OutputFormat::Calls { .. }) => {
            Err(ApiError::unsupported(
                CONTINUE,
                "is not supported where the answer must be JSON or a call: leave it out, or the \
             `response_format` or `tool_choice` that asks for that",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Schema;
    use crate::prompt::ToolCall;

    fn turns(last: Message) -> Vec<Message> {
        vec![Message::text(Role::User, "a"), last]
    }

    fn says(text: &str) -> Vec<Message> {
        turns(Message::text(Role::Assistant, text))
    }

    #[test]
    fn a_prompt_opens_the_answer_unless_it_is_told_otherwise() {
        for (continues, opens, expected) in [
            (None, None, PromptEnd::OpenAnswer),
            (Some(false), Some(true), PromptEnd::OpenAnswer),
            (None, Some(false), PromptEnd::LastMessage),
            (Some(true), None, PromptEnd::LastText),
            (Some(true), Some(false), PromptEnd::LastText),
        ] {
            assert_eq!(end(continues, opens, &says("b")), Ok(expected));
        }
        assert!(end(Some(true), Some(true), &says("b")).is_err());
    }

    #[test]
    fn only_an_assistants_text_can_be_gone_on_with() {
        let calling = Message {
            tool_calls: vec![ToolCall {
                id: "1".into(),
                name: "f".into(),
                arguments: serde_json::json!({}),
            }],
            ..Message::text(Role::Assistant, "b")
        };
        let silent = Message {
            content: None,
            ..Message::text(Role::Assistant, "")
        };
        let user = Message::text(Role::User, "b");
        let last = [turns(calling), turns(silent), turns(user), says(" \n")];
        for messages in last.into_iter().chain([Vec::new()]) {
            let error = end(Some(true), None, &messages).expect_err("refused");
            assert_eq!(error.body()["error"]["param"], CONTINUE);
        }
    }

    #[test]
    fn json_does_not_go_on_with_a_text() {
        let json = || OutputFormat::Json(Schema::object());
        assert!(check_form(PromptEnd::LastText, &json()).is_err());
        assert_eq!(check_form(PromptEnd::OpenAnswer, &json()), Ok(()));
        assert_eq!(check_form(PromptEnd::LastText, &OutputFormat::Free), Ok(()));
    }
}
