//! Checks of single parameters, the same for every front.

use std::fmt;
use std::ops::RangeInclusive;

use crate::engine::Token;

use super::bounds::LONGEST_ID;
use crate::field::FieldPath;

/// The error for a parameter whose value is out of bounds, by the front's name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundsError {
    /// The parameter.
    pub(crate) parameter: FieldPath,
    /// The rest of the message, which follows the name.
    after: String,
}

impl BoundsError {
    pub(crate) fn new(parameter: impl Into<FieldPath>, after: impl Into<String>) -> Self {
        Self {
            parameter: parameter.into(),
            after: after.into(),
        }
    }
}

impl fmt::Display for BoundsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}`{}", self.parameter, self.after)
    }
}

/// Checks that `value`, if there is one, is within `range`.
#[allow(clippy::cast_possible_truncation)] // sampling needs no more than an f32
pub(crate) fn within(
    parameter: impl Into<FieldPath>,
    value: Option<f64>,
    range: RangeInclusive<f64>,
) -> Result<Option<f32>, BoundsError> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = (range.start(), range.end());
            let after = format!(" must be between {least} and {most}; it is {value}");
            Err(BoundsError::new(parameter, after))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// Checks that `value` is within `range`.
pub(crate) fn between(
    parameter: impl Into<FieldPath>,
    value: i64,
    range: RangeInclusive<i64>,
) -> Result<u32, BoundsError> {
    match u32::try_from(value) {
        Ok(fits) if range.contains(&value) => Ok(fits),
        _ => {
            let (least, most) = (range.start(), range.end());
            let after = format!(" must be between {least} and {most}; it is {value}");
            Err(BoundsError::new(parameter, after))
        }
    }
}

/// Checks that `value` is at least `least`.
pub(crate) fn at_least(
    parameter: impl Into<FieldPath>,
    value: i64,
    least: i64,
) -> Result<u32, BoundsError> {
    if value < least {
        let after = format!(" must be at least {least}; it is {value}");
        return Err(BoundsError::new(parameter, after));
    }
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Checks the length of a name, or of a text that is stored or echoed.
pub(crate) fn short(parameter: impl Into<FieldPath>, text: &str) -> Result<(), BoundsError> {
    no_longer(parameter, text, LONGEST_ID)
}

/// Checks that a text has at most `most` characters.
pub(crate) fn no_longer(
    parameter: impl Into<FieldPath>,
    text: &str,
    most: usize,
) -> Result<(), BoundsError> {
    // Bytes first: counting characters of megabytes takes a while.
    let is_short = text.len() <= most || text.len() <= 4 * most && text.chars().count() <= most;
    if is_short {
        return Ok(());
    }
    let after = format!(" may have at most {most} characters: shorten it");
    Err(BoundsError::new(parameter, after))
}

/// Checks that a list or a map has at most `most` entries.
pub(crate) fn at_most(
    parameter: impl Into<FieldPath>,
    count: usize,
    most: usize,
) -> Result<(), BoundsError> {
    if count > most {
        let after = format!(" takes at most {most} entries; there are {count}");
        return Err(BoundsError::new(parameter, after));
    }
    Ok(())
}

/// Converts an id to a token. Whether the model has that id is checked once the model is known.
pub(crate) fn token(parameter: impl Into<FieldPath>, id: i64) -> Result<Token, BoundsError> {
    let token = i32::try_from(id).ok().filter(|id| *id >= 0).map(Token);
    token.ok_or_else(|| BoundsError::new(parameter, format!(": {id} is not a token id")))
}
