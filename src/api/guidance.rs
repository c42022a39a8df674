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
            opened_calls(format, functions, &*loaded.tokenizer)
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
                &*loaded.tokenizer,
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

/// Names the schema that cannot be followed, and the place in it; the tools where none can be blamed
/// alone, or none was found in time.
async fn cannot_be_followed(
    error: &GrammarError,
    schemas: &[&Schema],
    grammars: &Grammars,
    caller: &Caller,
) -> ApiError {
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
        return ApiError::invalid("tools", format!("`tools` cannot be followed: {error}"));
    };
    while let Some((part, why)) = blame.first(schema.parts(), &error).await {
        (schema, error) = (part, why);
    }
    let place = schema.place();
    ApiError::invalid(place, format!("`{place}` cannot be followed: {error}"))
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
            let guide = self.grammars.guide(&grammar, self.caller);
            match tokio::time::timeout(left, guide).await {
                Ok(Ok(_)) => {}
                Ok(Err(GrammarError::Unavailable | GrammarError::Abandoned)) | Err(_) => {
                    return None;
                }
                // A part that nothing fits may be left out, unless nothing fits the whole.
                Ok(Err(other)) if other.nothing_fits() && !error.nothing_fits() => {}
                Ok(Err(other)) => return Some((schema, other)),
            }
        }
        None
    }
}
