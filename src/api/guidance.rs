//! How an answer is held to its form: from the form to a grammar, and from that to a guide.

use std::time::{Duration, Instant};

use crate::admission::Refusal;
use crate::grammar::{Caller, Grammar, GrammarError, Grammars, Guide, Schema, Watch};
use crate::pool::Loaded;
use crate::prompt::{calls, opened_calls};

use super::decoding::Form;
use super::error::ApiError;

/// How long to look for the schema that is to blame.
const LONGEST_BLAME: Duration = Duration::from_millis(300);

/// What is to hold an answer to its form.
pub(super) struct Outline {
    grammar: Grammar,
    watch: Option<Watch>,
}

/// Of an answer that is not free; `in_thoughts` says that it begins in the middle of them.
pub(super) fn outline(
    form: &Form,
    in_thoughts: bool,
    loaded: &Loaded,
) -> Result<Option<Outline>, ApiError> {
    let mut watch = None;
    let grammar = match form {
        Form::Free => return Ok(None),
        Form::FreeWithCalls(functions) => {
            let prompter = loaded.prompter.as_ref().map_err(ApiError::from)?;
            let format = prompter.tool_format();
            let Some(opener) = format.opener() else {
                return Ok(None);
            };
            let calls = Watch::new(opener);
            watch = Some(match prompter.thoughts() {
                Some(tags) => calls.behind_thoughts(tags.both(), in_thoughts),
                None => calls,
            });
            opened_calls(format, functions, &*loaded.model)
        }
        Form::Json(schema) => Grammar::schema(schema),
        Form::Calls {
            functions,
            several,
            otherwise,
        } => {
            let prompter = loaded.prompter.as_ref().map_err(ApiError::from)?;
            let format = prompter.tool_format();
            calls(
                format,
                functions,
                *several,
                otherwise.as_ref(),
                &*loaded.model,
            )
        }
    };
    Ok(Some(Outline { grammar, watch }))
}

/// What holds an answer to `form`, of which the outline is.
pub(super) async fn guide(
    outline: Outline,
    form: &Form,
    grammars: &Grammars,
    caller: &Caller,
) -> Result<Guide, ApiError> {
    let guide = match grammars.guide(&outline.grammar, caller).await {
        Ok(guide) => guide,
        Err(GrammarError::Unavailable) => {
            return Err(ApiError::Refused(Refusal::memory()));
        }
        // Nobody reads it.
        Err(GrammarError::Abandoned) => return Err(ApiError::Internal),
        Err(error) => {
            return Err(cannot_be_followed(&error, &schemas(form), grammars, caller).await);
        }
    };
    Ok(match outline.watch {
        Some(watch) => guide.behind(watch),
        None => guide,
    })
}

/// The schemas that clients gave.
fn schemas(form: &Form) -> Vec<&Schema> {
    let (functions, other) = match form {
        Form::Free => return Vec::new(),
        Form::Json(schema) => return vec![schema],
        Form::FreeWithCalls(functions) => (functions, None),
        Form::Calls {
            functions,
            otherwise,
            ..
        } => (functions, otherwise.as_ref()),
    };
    let arguments = functions.iter().map(|function| &function.arguments);
    arguments.chain(other).collect()
}

/// Names the schema that cannot be followed; the tools where none can be blamed alone, or none was
/// found in time.
async fn cannot_be_followed(
    error: &GrammarError,
    schemas: &[&Schema],
    grammars: &Grammars,
    caller: &Caller,
) -> ApiError {
    let until = Instant::now() + LONGEST_BLAME;
    let mut blamed = None;
    if let [one] = schemas {
        blamed = Some((one.place(), error.clone()));
    } else {
        for schema in schemas {
            let left = until.saturating_duration_since(Instant::now());
            let grammar = Grammar::schema(schema);
            match tokio::time::timeout(left, grammars.guide(&grammar, caller)).await {
                Ok(Ok(_)) => {}
                Ok(Err(GrammarError::Unavailable | GrammarError::Abandoned)) | Err(_) => break,
                Ok(Err(error)) => {
                    blamed = Some((schema.place(), error));
                    break;
                }
            }
        }
    }
    let (place, error) = blamed.unwrap_or(("tools", error.clone()));
    ApiError::invalid(place, format!("`{place}` cannot be followed: {error}"))
}
