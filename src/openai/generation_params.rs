//! Checks the parameters that all generating endpoints share.

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::admission::ServiceTier;
use crate::engine::Token;
use crate::http::error::ApiError;
use crate::inference::bounds::{
    LONGEST_ID, LONGEST_IDENTIFIER, LONGEST_METADATA, LONGEST_METADATA_KEY, LONGEST_STOP,
    LONGEST_STOPS, MOST_METADATA, MOST_STOPS, MOST_TOKEN_IDS, TOP_LOGPROBS,
};
use crate::inference::checks::{BoundsError, at_most, between, no_longer, token};
use crate::inference::params::GenerationParams;
use crate::inference::sampling::{RequestedSampling, SamplingValues};
use crate::prompt::ReasoningEffort;

/// The fields that all generating endpoints share, as clients write them.
pub(crate) struct SharedValues<'a> {
    pub(crate) sampling: SamplingValues<'a>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stop_token_ids: Option<Vec<i64>>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) service_tier: Option<&'a str>,
}

impl SharedValues<'_> {
    /// Checks the values. All other parameters have their defaults.
    pub(crate) fn check(self) -> Result<GenerationParams, ApiError> {
        Ok(GenerationParams {
            sampling: RequestedSampling::try_from(self.sampling)?,
            stops: stops(self.stop)?,
            stop_tokens: stop_tokens(self.stop_token_ids)?,
            ignore_end: self.ignore_eos.unwrap_or(false),
            class: self.service_tier.map(class).transpose()?,
            ..GenerationParams::default()
        })
    }
}

/// One string or several.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
#[schemars(description = "Texts that end the answer; they are not part of it.")]
pub(crate) enum Stop {
    One(#[schemars(length(min = 1, max = LONGEST_STOP))] String),
    Several(
        #[schemars(
            length(max = MOST_STOPS),
            inner(length(min = 1, max = LONGEST_STOP))
        )]
        Vec<String>,
    ),
}

fn stops(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Several(stops)) => stops,
    };
    if stops.len() > MOST_STOPS {
        let message = format!("`stop` takes at most {MOST_STOPS} strings");
        return Err(ApiError::invalid("stop", message));
    }
    let is_long = stops.iter().any(|stop| stop.len() > LONGEST_STOP);
    if is_long || stops.iter().map(String::len).sum::<usize>() > LONGEST_STOPS {
        let message = format!(
            "a string of `stop` may have at most {LONGEST_STOP} bytes, all together {LONGEST_STOPS}"
        );
        return Err(ApiError::invalid("stop", message));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid(
            "stop",
            "`stop` must not hold an empty string",
        ));
    }
    Ok(stops)
}

/// OpenAI's service tiers, and the scheduling class of each.
pub(crate) const TIERS: [(&str, ServiceTier); 4] = [
    ("auto", ServiceTier::Default),
    ("default", ServiceTier::Default),
    ("flex", ServiceTier::Flex),
    ("priority", ServiceTier::Priority),
];

fn class(tier: &str) -> Result<ServiceTier, ApiError> {
    let found = TIERS.into_iter().find(|(name, _)| *name == tier);
    found.map(|(_, class)| class).ok_or_else(|| {
        ApiError::invalid(
            "service_tier",
            "`service_tier` must be `auto`, `default`, `flex` or `priority`",
        )
    })
}

/// Parses a reasoning effort.
pub(crate) fn effort(param: &'static str, name: &str) -> Result<ReasoningEffort, ApiError> {
    let found = ReasoningEffort::ALL
        .into_iter()
        .find(|effort| effort.as_str() == name);
    found.ok_or_else(|| {
        let names = ReasoningEffort::ALL
            .map(ReasoningEffort::as_str)
            .join("`, `");
        ApiError::invalid(param, format!("`{param}` must be one of `{names}`"))
    })
}

fn stop_tokens(ids: Option<Vec<i64>>) -> Result<Vec<Token>, BoundsError> {
    let ids = ids.unwrap_or_default();
    at_most("stop_token_ids", ids.len(), MOST_TOKEN_IDS)?;
    ids.into_iter()
        .map(|id| token("stop_token_ids", id))
        .collect()
}

/// Checks how many top log-probabilities are wanted per token.
pub(crate) fn rivals(param: &'static str, count: i64) -> Result<usize, BoundsError> {
    Ok(between(param, count, TOP_LOGPROBS)? as usize)
}

/// Checks `metadata` against OpenAI's limits.
pub(crate) fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    at_most("metadata", metadata.map_or(0, Map::len), MOST_METADATA)?;
    for (key, value) in metadata.into_iter().flatten() {
        let fits = key.chars().count() <= LONGEST_METADATA_KEY
            && value
                .as_str()
                .is_some_and(|value| value.chars().count() <= LONGEST_METADATA);
        if !fits {
            return Err(ApiError::invalid(
                "metadata",
                format!(
                    "`metadata` holds keys of at most {LONGEST_METADATA_KEY} characters with \
                     strings of at most {LONGEST_METADATA}"
                ),
            ));
        }
    }
    Ok(())
}

/// Checks the lengths of the identifiers that all endpoints know by the same name.
pub(crate) fn check_hints(
    user: Option<&str>,
    prompt_cache_key: Option<&str>,
    safety_identifier: Option<&str>,
) -> Result<(), BoundsError> {
    let hints = [
        ("user", user, LONGEST_ID),
        ("prompt_cache_key", prompt_cache_key, LONGEST_ID),
        ("safety_identifier", safety_identifier, LONGEST_IDENTIFIER),
    ];
    hints.into_iter().try_for_each(|(param, text, most)| {
        text.map_or(Ok(()), |text| no_longer(param, text, most))
    })
}

/// Returns whether the response is a stream. `stream_options` without `stream` are refused.
pub(crate) fn streams(stream: Option<bool>, has_options: bool) -> Result<bool, ApiError> {
    let stream = stream.unwrap_or(false);
    if has_options && !stream {
        return Err(ApiError::invalid(
            "stream_options",
            "`stream_options` is for streams: set `stream` to true",
        ));
    }
    Ok(stream)
}

/// Refuses the first parameter of `table` that is asked for. Each row holds the parameter, whether it is
/// asked for, and why it is not supported.
pub(crate) fn refuse_asked<'a>(
    table: impl IntoIterator<Item = (&'static str, bool, &'a str)>,
) -> Result<(), ApiError> {
    match table.into_iter().find(|(_, is_asked, _)| *is_asked) {
        Some((param, _, why)) => Err(ApiError::unsupported(param, why)),
        None => Ok(()),
    }
}
