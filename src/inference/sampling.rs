//! The sampling parameters of a request, checked against their bounds.

use serde_json::{Map, Value};

use crate::engine::{SamplingDefaults, Token};
use crate::sampling::SamplingParams;

use super::bounds::{
    LEAST_TOP_K, LOGIT_BIAS, MOST_TOKEN_IDS, PENALTY, PROBABILITY, REPEAT_PENALTY, TEMPERATURE,
};
use super::checks::{BoundsError, at_least, at_most, token, within};
use super::error::{RequestError, RequestField};
use crate::field::FieldPath;

/// The sampling parameters that a request sets. The others are the model's recommendation or OpenAI's
/// default.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestedSampling {
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

/// Sampling parameters as clients write them, unchecked.
#[derive(Debug, Default)]
pub(crate) struct SamplingValues<'a> {
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

impl RequestedSampling {
    /// Whether it names tokens by their ids.
    pub(crate) fn names_tokens(&self) -> bool {
        !self.logit_bias.is_empty()
    }

    /// Checks that the model's vocabulary has all tokens that `logit_bias` names.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), RequestError> {
        let unknown = |token: &Token| usize::try_from(token.0).is_ok_and(|id| id >= vocabulary);
        match self.logit_bias.iter().find(|(token, _)| unknown(token)) {
            None => Ok(()),
            Some((Token(id), _)) => Err(RequestError::invalid(
                RequestField::LogitBias(*id),
                format!(
                    ": the model has no token {id}, only 0 to {}",
                    vocabulary - 1
                ),
            )),
        }
    }

    /// Whether the answer is expected to be the same each time, at this temperature.
    pub(crate) fn repeats(&self, temperature: f32) -> bool {
        self.seed.is_some() || temperature <= 0.0
    }

    /// Resolves the parameters of the choice at index `choice`, which gets a seed of its own. `seed` is used if
    /// the request has none.
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

impl TryFrom<SamplingValues<'_>> for RequestedSampling {
    type Error = BoundsError;

    fn try_from(values: SamplingValues<'_>) -> Result<Self, BoundsError> {
        let penalty = |name: &'static str, value: Option<f64>| within(name, value, PENALTY);
        Ok(Self {
            temperature: within("temperature", values.temperature, TEMPERATURE)?,
            top_p: within("top_p", values.top_p, PROBABILITY)?,
            top_k: values.top_k.map(top_k).transpose()?,
            min_p: within("min_p", values.min_p, PROBABILITY)?,
            presence_penalty: penalty("presence_penalty", values.presence_penalty)?,
            frequency_penalty: penalty("frequency_penalty", values.frequency_penalty)?,
            repeat_penalty: within("repeat_penalty", values.repeat_penalty, REPEAT_PENALTY)?,
            logit_bias: logit_bias(values.logit_bias)?,
            seed: values.seed.map(i64::cast_unsigned),
        })
    }
}

/// Converts `top_k`: 0 stands for all tokens, as does vLLM's -1.
fn top_k(count: i64) -> Result<u32, BoundsError> {
    match count {
        LEAST_TOP_K => Ok(0),
        count => at_least("top_k", count, LEAST_TOP_K),
    }
}

fn logit_bias(map: Option<&Map<String, Value>>) -> Result<Vec<(Token, f32)>, BoundsError> {
    const NAME: &str = "logit_bias";
    at_most(NAME, map.map_or(0, Map::len), MOST_TOKEN_IDS)?;
    map.into_iter()
        .flatten()
        .map(|(key, value)| {
            let entry = FieldPath::from(NAME).key(key);
            let not_a_token = || BoundsError::new(&entry, format!(": `{key}` is not a token id"));
            let id = key.parse().map_err(|_| not_a_token())?;
            let not_a_number = || BoundsError::new(&entry, " must be a number");
            let bias = value.as_f64().ok_or_else(not_a_number)?;
            let bias = within(&entry, Some(bias), LOGIT_BIAS)?.unwrap_or(0.0);
            Ok((token(&entry, id)?, bias))
        })
        .collect()
}
