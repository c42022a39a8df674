//! What numbers, lists and texts of a request may be: for those who check them and for the
//! description at `/openapi.json`.

use std::ops::RangeInclusive;

/// OpenAI's.
pub(crate) const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
pub(crate) const PROBABILITY: RangeInclusive<f64> = 0.0..=1.0;
pub(crate) const PENALTY: RangeInclusive<f64> = -2.0..=2.0;
pub(crate) const LOGIT_BIAS: RangeInclusive<f64> = -100.0..=100.0;
pub(crate) const CHOICES: RangeInclusive<i64> = 1..=128;
pub(crate) const TOP_LOGPROBS: RangeInclusive<i64> = 0..=20;
/// Of text completions.
pub(crate) const LOGPROBS: RangeInclusive<i64> = 0..=5;
pub(crate) const MOST_TOOLS: usize = 128;
pub(crate) const MOST_METADATA: usize = 16;
/// In characters.
pub(crate) const LONGEST_METADATA_KEY: usize = 64;
pub(crate) const LONGEST_METADATA: usize = 512;
/// Of functions and schemas.
pub(crate) const LONGEST_NAME: usize = 64;

/// Of `/v1/completions`, which may only echo.
pub(crate) const LEAST_COMPLETION_TOKENS: i64 = 0;
/// Of a list of input items.
pub(crate) const PAGE_ITEMS: RangeInclusive<i64> = 1..=100;
pub(crate) const LONGEST_IDENTIFIER: usize = 64;

/// Ours.
pub(crate) const REPEAT_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
/// vLLM's word for all tokens; 0 means the same, as in llama.cpp.
pub(crate) const LEAST_TOP_K: i64 = -1;
pub(crate) const LEAST_TOKENS: i64 = 1;
pub(crate) const MOST_PROMPTS: usize = 128;
pub(crate) const TOKEN_ID: RangeInclusive<i64> = 0..=i32::MAX as i64;

/// Of ids, names and keys that clients choose and that are told again or stored, in characters. Longer
/// than OpenAI's 64 to 128, because other servers' ids are that clients send on.
pub(crate) const LONGEST_ID: usize = 256;
/// Of a format's description, which is told again.
pub(crate) const LONGEST_DESCRIPTION: usize = 8192;
/// Of an item with thoughts, in bytes.
pub(crate) const LARGEST_THOUGHTS: usize = 1 << 20;

/// Variables of chat templates.
pub(crate) const MOST_TEMPLATE_KWARGS: usize = 64;
pub(crate) const LONGEST_TEMPLATE_KWARG_NAME: usize = 64;

/// OpenAI takes four strings. These are looked at for every token of an answer, on the thread that
/// serves everybody; so in bytes, each and together.
pub(crate) const MOST_STOPS: usize = 64;
pub(crate) const LONGEST_STOP: usize = 1024;
pub(crate) const LONGEST_STOPS: usize = 4096;
pub(crate) const MOST_TOKEN_IDS: usize = 1024;

/// Of all texts of a request to embed: OpenAI's.
pub(crate) const MOST_EMBEDDED_TOKENS: usize = 300_000;
