//! Makes the constraint that holds an answer to its format: from the format to a grammar to a constraint.

use std::time::{Duration, Instant};

use crate::admission::AdmissionRefusal;
use crate::grammar::{Caller, Constraint, Grammar, GrammarError, Grammars, Schema, Trigger};
use crate::pool::GenerationModel;
use crate::prompt::{calls, opened_calls};

use super::error::{InferenceError, InferenceFailure, RequestError, RequestField};
use super::params::OutputFormat;

/// How long to search for the schema that cannot be followed.
const LONGEST_BLAME_SEARCH: Duration = Duration::from_millis(300);

/// The grammar of an answer, and the trigger that activates it, if not from the first token.
pub(super) struct ConstraintPlan {
    grammar: Grammar,
    trigger: Option<Trigger>,
}

/// Plans the constraint of a format; `None` if the format is free. `in_thoughts` says whether the answer
/// begins in the middle of thoughts.
pub(super) fn plan(
    format: &OutputFormat,
    in_thoughts: bool,
    loaded: &GenerationModel,
) -> Result<Option<ConstraintPlan>, InferenceError> {
    let mut trigger = None;
    let grammar = match format {
        OutputFormat::Free => return Ok(None),
        OutputFormat::FreeWithCalls(functions) => {
            let prompter = loaded.prompter.as_ref().map_err(InferenceError::from)?;
            let tools = prompter.tool_format();
            let Some(opener) = tools.opener() else {
                return Ok(None);
            };
            let calls = Trigger::new(opener);
            trigger = Some(match prompter.thoughts() {
                Some(tags) => calls.after_thoughts(tags.both(), in_thoughts),
                None => calls,
            });
            opened_calls(tools, functions, &*loaded.tokenizer)
        }
        OutputFormat::Json(schema) => Grammar::schema(schema),
        OutputFormat::Calls {
            functions,
            several,
            otherwise,
        } => {
            let prompter = loaded.prompter.as_ref().map_err(InferenceError::from)?;
            let tools = prompter.tool_format();
            calls(
                tools,
                functions,
                *several,
                otherwise.as_ref(),
                &*loaded.tokenizer,
            )
        }
    };
    Ok(Some(ConstraintPlan { grammar, trigger }))
}

/// Compiles the plan of `format`.
pub(super) async fn constraint(
    plan: ConstraintPlan,
    format: &OutputFormat,
    grammars: &Grammars,
    caller: &Caller,
) -> Result<Constraint, InferenceError> {
    let constraint = match grammars.constraint(&plan.grammar, caller).await {
        Ok(constraint) => constraint,
        Err(GrammarError::Unavailable) => {
            return Err(AdmissionRefusal::memory().into());
        }
        // The client has left, so nobody reads this error.
        Err(GrammarError::Abandoned) => return Err(InferenceFailure::Internal.into()),
        Err(error) => {
            return Err(cannot_be_followed(&error, &schemas(format), grammars, caller).await);
        }
    };
    Ok(match plan.trigger {
        Some(trigger) => constraint.after(trigger),
        None => constraint,
    })
}

/// Returns the client's schemas in a format.
fn schemas(format: &OutputFormat) -> Vec<&Schema> {
    let (functions, other) = match format {
        OutputFormat::Free => return Vec::new(),
        OutputFormat::Json(schema) => return vec![schema],
        OutputFormat::FreeWithCalls(functions) => (functions, None),
        OutputFormat::Calls {
            functions,
            otherwise,
            ..
        } => (functions, otherwise.as_ref()),
    };
    let arguments = functions.iter().map(|function| &function.arguments);
    arguments.chain(other).collect()
}

/// Makes the error that names the schema that cannot be followed and the place in it, or the tools if no
/// single schema fails or none was found in time.
async fn cannot_be_followed(
    error: &GrammarError,
    schemas: &[&Schema],
    grammars: &Grammars,
    caller: &Caller,
) -> InferenceError {
    let until = Instant::now() + LONGEST_BLAME_SEARCH;
    let blame = BlameSearch {
        until,
        grammars,
        caller,
    };
    let whole = match schemas {
        [one] => Some(((*one).clone(), error.clone())),
        several => {
            blame
                .first(several.iter().map(|one| (*one).clone()), error)
                .await
        }
    };
    let Some((mut schema, mut error)) = whole else {
        let why = format!(" cannot be followed: {error}");
        return RequestError::invalid(RequestField::Tools, why).into();
    };
    while let Some((part, why)) = blame.first(schema.parts(), &error).await {
        (schema, error) = (part, why);
    }
    let place = schema.place();
    let field = RequestField::Schema(place.clone());
    RequestError::invalid(field, format!(" cannot be followed: {error}")).into()
}

/// A search for the schema that cannot be followed.
struct BlameSearch<'g> {
    until: Instant,
    grammars: &'g Grammars,
    caller: &'g Caller,
}

impl BlameSearch<'_> {
    /// Returns the first of these schemas that cannot be followed by itself, and why.
    async fn first(
        &self,
        schemas: impl Iterator<Item = Schema>,
        error: &GrammarError,
    ) -> Option<(Schema, GrammarError)> {
        for schema in schemas {
            let left = self.until.checked_duration_since(Instant::now())?;
            let grammar = Grammar::schema(&schema);
            let constraint = self.grammars.constraint(&grammar, self.caller);
            match tokio::time::timeout(left, constraint).await {
                Ok(Ok(_)) => {}
                Ok(Err(GrammarError::Unavailable | GrammarError::Abandoned)) | Err(_) => {
                    return None;
                }
                // A subschema that nothing fits may be unused, unless nothing fits the whole either.
                Ok(Err(other)) if other.is_unsatisfiable() && !error.is_unsatisfiable() => {}
                Ok(Err(other)) => return Some((schema, other)),
            }
        }
        None
    }
}
