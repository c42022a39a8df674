//! How an answer is to be computed: what every endpoint that generates text has in common, checked.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::engine::{SamplingDefaults, Token};
use crate::grammar::Schema;
use crate::prompt::{Callable, Effort};
use crate::sampling::SamplingParams;
use crate::scheduler::Class;

use crate::http::error::ApiError;
use crate::inference::bounds::{
    BIAS, CHOICES, LEAST_TOP_K, LONGEST_ID, LONGEST_IDENTIFIER, LONGEST_METADATA,
    LONGEST_METADATA_KEY, LONGEST_STOP, LONGEST_STOPS, MOST_METADATA, MOST_STOPS, MOST_TOKENS,
    PENALTY, PROBABILITY, REPEAT_PENALTY, TEMPERATURE, TOP_LOGPROBS,
};

/// Everything about an answer but its prompt.
#[derive(Debug, Default)]
pub(crate) struct Decoding {
    /// Tokens of an answer; as many as the context allows where the request says nothing.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_tokens: Vec<Token>,
    pub(crate) ignore_end: bool,
    /// The service tier, if the request names one.
    pub(crate) class: Option<Class>,
    /// The text that the answer is expected to be.
    pub(crate) prediction: Option<String>,
    /// Answers to the same prompt.
    pub(crate) choices: Choices,
    /// Whether to tell how likely tokens were, with so many rivals.
    pub(crate) logprobs: Option<usize>,
    /// The same for the prompt.
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) form: Form,
}

/// What an answer must be.
#[derive(Debug, Default)]
pub(crate) enum Form {
    /// Whatever the model says.
    #[default]
    Free,
    /// Whatever the model says; but what it calls must fit.
    FreeWithCalls(Vec<Callable>),
    /// JSON.
    Json(Schema),
    /// Tool calls, or JSON where that is allowed as well.
    Calls {
        functions: Vec<Callable>,
        several: bool,
        otherwise: Option<Schema>,
    },
}

/// How many answers; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choices(u32);

impl Default for Choices {
    fn default() -> Self {
        Self(1)
    }
}

impl Choices {
    pub(crate) fn new(n: Option<i64>) -> Result<Self, ApiError> {
        let Some(n) = n else {
            return Ok(Self::default());
        };
        between("n", n, CHOICES).map(Self)
    }

    pub(crate) fn count(self) -> u32 {
        self.0
    }
}

/// What a request says of sampling; the rest is the model's recommendation or OpenAI's default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sampling {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repeat_penalty: Option<f32>,
    logit_bias: Vec<(Token, f32)>,
    seed: Option<u64>,
}

/// The same as clients write it.
#[derive(Debug, Default)]
pub(crate) struct AskedSampling<'a> {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) repeat_penalty: Option<f64>,
    pub(crate) logit_bias: Option<&'a Map<String, Value>>,
    pub(crate) seed: Option<i64>,
}

impl Sampling {
    /// Whether the model has all tokens that are spoken of.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), ApiError> {
        let unknown = |token: &Token| usize::try_from(token.0).is_ok_and(|id| id >= vocabulary);
        match self.logit_bias.iter().find(|(token, _)| unknown(token)) {
            None => Ok(()),
            Some((Token(id), _)) => Err(ApiError::invalid(
                format!("logit_bias.{id}"),
                format!(
                    "`logit_bias`: the model has no token {id}, only 0 to {}",
                    vocabulary - 1
                ),
            )),
        }
    }

    /// Whether the same answer is expected each time, where this is the temperature.
    pub(crate) fn repeats(&self, temperature: f32) -> bool {
        self.seed.is_some() || temperature <= 0.0
    }

    /// Of choice `choice`, whose draws are its own; `seed` is used when the request has none.
    pub(crate) fn resolve(
        &self,
        model: &SamplingDefaults,
        seed: u64,
        choice: u32,
    ) -> SamplingParams {
        let base = SamplingParams::default();
        let seed = self.seed.unwrap_or(seed);
        SamplingParams {
            temperature: self
                .temperature
                .or(model.temperature)
                .unwrap_or(base.temperature),
            top_p: self.top_p.or(model.top_p).unwrap_or(base.top_p),
            top_k: self.top_k.or(model.top_k).unwrap_or(base.top_k),
            min_p: self.min_p.or(model.min_p).unwrap_or(base.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            repeat_penalty: self.repeat_penalty.unwrap_or(base.repeat_penalty),
            logit_bias: self.logit_bias.clone(),
            // The first choice is what the only one would be. The step is 2⁶⁴ divided by the golden
            // ratio, so that neighbouring seeds do not share choices.
            seed: seed.wrapping_add(u64::from(choice).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        }
    }
}

impl TryFrom<AskedSampling<'_>> for Sampling {
    type Error = ApiError;

    fn try_from(asked: AskedSampling<'_>) -> Result<Self, ApiError> {
        let penalty = |name, value: Option<f64>| within(name, value, PENALTY);
        Ok(Self {
            temperature: within("temperature", asked.temperature, TEMPERATURE)?,
            top_p: within("top_p", asked.top_p, PROBABILITY)?,
            top_k: asked.top_k.map(top_k).transpose()?,
            min_p: within("min_p", asked.min_p, PROBABILITY)?,
            presence_penalty: penalty("presence_penalty", asked.presence_penalty)?,
            frequency_penalty: penalty("frequency_penalty", asked.frequency_penalty)?,
            repeat_penalty: within("repeat_penalty", asked.repeat_penalty, REPEAT_PENALTY)?,
            logit_bias: logit_bias(asked.logit_bias)?,
            seed: asked.seed.map(i64::cast_unsigned),
        })
    }
}

/// 0 stands for all tokens, and vLLM writes -1 for that.
fn top_k(asked: i64) -> Result<u32, ApiError> {
    match asked {
        LEAST_TOP_K => Ok(0),
        asked => at_least("top_k", asked, LEAST_TOP_K),
    }
}

fn logit_bias(map: Option<&Map<String, Value>>) -> Result<Vec<(Token, f32)>, ApiError> {
    at_most("logit_bias", map.map_or(0, Map::len), MOST_TOKENS)?;
    map.into_iter()
        .flatten()
        .map(|(key, value)| {
            let param = format!("logit_bias.{key}");
            let id = key.parse().map_err(|_| {
                ApiError::invalid(&param, format!("`logit_bias`: `{key}` is not a token id"))
            })?;
            let bias = value
                .as_f64()
                .ok_or_else(|| ApiError::invalid(&param, format!("`{param}` must be a number")))?;
            let bias = within(&param, Some(bias), BIAS)?.unwrap_or(0.0);
            Ok((token(&param, id)?, bias))
        })
        .collect()
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

pub(crate) fn stops(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
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

/// OpenAI's names of service tiers.
pub(crate) const TIERS: [(&str, Class); 4] = [
    ("auto", Class::Default),
    ("default", Class::Default),
    ("flex", Class::Flex),
    ("priority", Class::Priority),
];

pub(crate) fn class(tier: &str) -> Result<Class, ApiError> {
    let found = TIERS.into_iter().find(|(name, _)| *name == tier);
    found.map(|(_, class)| class).ok_or_else(|| {
        ApiError::invalid(
            "service_tier",
            "`service_tier` must be `auto`, `default`, `flex` or `priority`",
        )
    })
}

/// How much a reasoning model is to think.
pub(crate) fn effort(param: &str, name: &str) -> Result<Effort, ApiError> {
    let found = Effort::ALL
        .into_iter()
        .find(|effort| effort.as_str() == name);
    found.ok_or_else(|| {
        let names = Effort::ALL.map(Effort::as_str).join("`, `");
        ApiError::invalid(param, format!("`{param}` must be one of `{names}`"))
    })
}

pub(crate) fn stop_tokens(ids: Option<Vec<i64>>) -> Result<Vec<Token>, ApiError> {
    let ids = ids.unwrap_or_default();
    at_most("stop_token_ids", ids.len(), MOST_TOKENS)?;
    ids.into_iter()
        .map(|id| token("stop_token_ids", id))
        .collect()
}

/// How many rivals of each token are told.
pub(crate) fn rivals(param: &str, count: i64) -> Result<usize, ApiError> {
    Ok(between(param, count, TOP_LOGPROBS)? as usize)
}

/// OpenAI's limits on what clients attach for themselves.
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

#[allow(clippy::cast_possible_truncation)] // sampling needs no more than an f32
fn within(
    param: &str,
    value: Option<f64>,
    range: RangeInclusive<f64>,
) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !range.contains(&value) => Err(ApiError::invalid(
            param,
            format!(
                "`{param}` must be between {} and {}; it is {value}",
                range.start(),
                range.end()
            ),
        )),
        value => Ok(value.map(|value| value as f32)),
    }
}

pub(crate) fn between(
    param: &str,
    value: i64,
    range: RangeInclusive<i64>,
) -> Result<u32, ApiError> {
    match u32::try_from(value) {
        Ok(fits) if range.contains(&value) => Ok(fits),
        _ => Err(ApiError::invalid(
            param,
            format!(
                "`{param}` must be between {} and {}; it is {value}",
                range.start(),
                range.end()
            ),
        )),
    }
}

pub(crate) fn at_least(param: &str, value: i64, least: i64) -> Result<u32, ApiError> {
    if value < least {
        return Err(ApiError::invalid(
            param,
            format!("`{param}` must be at least {least}; it is {value}"),
        ));
    }
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// A text of a client's that is told again or stored, or names something.
pub(crate) fn short(param: &str, text: &str) -> Result<(), ApiError> {
    no_longer(param, text, LONGEST_ID)
}

/// A text of so many characters at most.
pub(crate) fn no_longer(param: &str, text: &str, most: usize) -> Result<(), ApiError> {
    // Bytes first: counting characters of megabytes takes a while.
    let is_short = text.len() <= most || text.len() <= 4 * most && text.chars().count() <= most;
    if is_short {
        return Ok(());
    }
    let message = format!("`{param}` may have at most {most} characters: shorten it");
    Err(ApiError::invalid(param, message))
}

/// Those of them that all endpoints know by the same name, where they are there.
pub(crate) fn check_hints(
    user: Option<&str>,
    prompt_cache_key: Option<&str>,
    safety_identifier: Option<&str>,
) -> Result<(), ApiError> {
    let hints = [
        ("user", user, LONGEST_ID),
        ("prompt_cache_key", prompt_cache_key, LONGEST_ID),
        ("safety_identifier", safety_identifier, LONGEST_IDENTIFIER),
    ];
    hints.into_iter().try_for_each(|(param, text, most)| {
        text.map_or(Ok(()), |text| no_longer(param, text, most))
    })
}

pub(crate) fn at_most(param: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count > most {
        return Err(ApiError::invalid(
            param,
            format!("`{param}` takes at most {most} entries; there are {count}"),
        ));
    }
    Ok(())
}

pub(crate) fn token(param: &str, id: i64) -> Result<Token, ApiError> {
    i32::try_from(id)
        .ok()
        .filter(|id| *id >= 0)
        .map(Token)
        .ok_or_else(|| ApiError::invalid(param, format!("`{param}`: {id} is not a token id")))
}

/// Whether an answer is to be a stream; options of one are for nothing else.
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

/// Refuses the first parameter that is asked for, of those that are not built, with why.
pub(crate) fn refuse_asked<'a>(
    table: impl IntoIterator<Item = (&'a str, bool, &'a str)>,
) -> Result<(), ApiError> {
    match table.into_iter().find(|(_, is_asked, _)| *is_asked) {
        Some((param, _, why)) => Err(ApiError::unsupported(param, why)),
        None => Ok(()),
    }
}
