//! How an answer is held to its format: from the format to a grammar, and from that to a constraint.

use std::time::{Duration, Instant};

use crate::admission::AdmissionRefusal;
use crate::grammar::{Caller, Constraint, Grammar, GrammarError, Grammars, Schema, Trigger};
use crate::pool::GenerationModel;
use crate::prompt::{calls, opened_calls};

use super::error::{Failure, Field, InferenceError, RequestError};
use super::params::OutputFormat;

/// How long to look for the schema that is to blame.
const LONGEST_BLAME: Duration = Duration::from_millis(300);

/// What is to hold an answer to its format.
pub(super) struct ConstraintPlan {
    grammar: Grammar,
    trigger: Option<Trigger>,
}

/// Plans how an answer is held to its format, unless it is free; `in_thoughts` says that it begins in the
/// middle of thoughts.
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

/// Compiles the plan that was made of `format`.
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
        // Nobody reads it.
        Err(GrammarError::Abandoned) => return Err(Failure::Internal.into()),
        Err(error) => {
            return Err(cannot_be_followed(&error, &schemas(format), grammars, caller).await);
        }
    };
    Ok(match plan.trigger {
        Some(trigger) => constraint.after(trigger),
        None => constraint,
    })
}

/// The schemas that clients gave.
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

/// Names the schema that cannot be followed, and the place in it; the tools where none can be blamed
/// alone, or none was found in time.
async fn cannot_be_followed(
    error: &GrammarError,
    schemas: &[&Schema],
    grammars: &Grammars,
    caller: &Caller,
) -> InferenceError {
    let until = Instant::now() + LONGEST_BLAME;
    let blame = Blame {
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
        return RequestError::invalid(Field::Tools, why).into();
    };
    while let Some((part, why)) = blame.first(schema.parts(), &error).await {
        (schema, error) = (part, why);
    }
    let place = schema.place();
    let field = Field::Schema(place.clone());
    RequestError::invalid(field, format!(" cannot be followed: {error}")).into()
}

/// Looking for the schema that is to blame.
struct Blame<'g> {
    until: Instant,
    grammars: &'g Grammars,
    caller: &'g Caller,
}

impl Blame<'_> {
    /// The first of these schemas that cannot be followed even by itself, and why.
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
                // A part that nothing fits may be left out, unless nothing fits the whole.
                Ok(Err(other)) if other.is_unsatisfiable() && !error.is_unsatisfiable() => {}
                Ok(Err(other)) => return Some((schema, other)),
            }
        }
        None
    }
}
