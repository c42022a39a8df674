//! How answers and requests end, in the words that clients, metrics and the log share.

use serde::Serialize;

use crate::scheduler::FinishReason;

/// Why an answer ended, as clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AnswerOutcome {
    /// The model ended it, or a stop string or stop token came.
    #[default]
    Stop,
    /// It is cut off.
    Length,
    /// It ends with calls for the client to make.
    ToolCalls,
}

impl AnswerOutcome {
    /// What clients are told of an answer that ended for `reason`. `has_calls`: it holds whole tool calls.
    pub(crate) fn new(reason: FinishReason, has_calls: bool) -> Self {
        match reason {
            FinishReason::Length => Self::Length,
            FinishReason::Stop if has_calls => Self::ToolCalls,
            FinishReason::Stop => Self::Stop,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// How a request ended, as it is counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// All answers ended; the first one like this.
    Answered(AnswerOutcome),
    /// It was done, and nothing was generated for it.
    Done,
    /// It was refused, or failed.
    Failed,
    /// The client left.
    Cancelled,
}

impl RequestOutcome {
    /// The label `finish_reason` of the metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Answered(answer) => answer.as_str(),
            Self::Done => "",
            Self::Failed => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clients_read_the_words_that_are_counted() {
        for outcome in [
            AnswerOutcome::Stop,
            AnswerOutcome::Length,
            AnswerOutcome::ToolCalls,
        ] {
            assert_eq!(json!(outcome), outcome.as_str());
            assert_eq!(RequestOutcome::Answered(outcome).as_str(), outcome.as_str());
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_has_no_calls_to_be_made() {
        assert_eq!(
            AnswerOutcome::new(FinishReason::Length, true),
            AnswerOutcome::Length
        );
        assert_eq!(
            AnswerOutcome::new(FinishReason::Stop, true),
            AnswerOutcome::ToolCalls
        );
        assert_eq!(
            AnswerOutcome::new(FinishReason::Stop, false),
            AnswerOutcome::Stop
        );
    }
}
